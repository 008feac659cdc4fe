"""Keys that can be guessed, and keys that are random."""

from __future__ import annotations

import base64
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.keys.strength import is_guessable

pytestmark = pytest.mark.slow

GUESSABLE = [
    "1q2w3e4r5t6y7u8i9o0p", "qwertyuiopasdfghjklz", "asdfghjkl-qwertyuiop-zxcvbnm",
    "my-secret-api-key-2026", "the-operators-own-key", "dev-api-key-for-testing-only",
    "scmrl-admin-key-change-me", "SCMRL-API-KEY-FOR-PRODUCTION", "ThisIsMySecretKey2026",
    "mysecretapikeyfortesting", "correct-horse-battery-staple", "this.is.the.key.of.the.api",
    "password1234password5678", "Passw0rd-Passw0rd-1234", "letmeinletmeinletmein",
    "a" * 40, "ab" * 20, "abcxyz" * 6, "0123456789" * 4, "9876543210zyxwvutsrq",
    "abcdefghijklmnopqrstuvwxyz", "a-b-c-d-e-f-g-h-i-j-k-l", "1111222233334444555566667777",
    "00000000-0000-0000-0000-000000000000", "deadbeefdeadbeefdeadbeef", "-" * 30,
    "q" + "-" * 30, "password" * 100, "4" * 10_000,
]  # fmt: skip

#: Examples of each test of random keys; one takes some milliseconds.
FEW = settings(max_examples=20)


def random_bytes(count: int) -> st.SearchStrategy[bytes]:
    """Bytes from a random generator, which hypothesis' own are not: it likes zeros."""
    return st.randoms(use_true_random=True).map(lambda random: random.randbytes(count))


@pytest.mark.parametrize("key", GUESSABLE, ids=lambda key: key[:30])
def test_words_rows_sequences_and_repeats_can_be_guessed(key: str) -> None:
    assert is_guessable(key)


@FEW
@given(random_bytes(16))
def test_a_random_key_in_base64_cannot(key: bytes) -> None:
    assert not is_guessable(base64.urlsafe_b64encode(key).decode().rstrip("="))


@FEW
@given(random_bytes(16))
def test_a_random_uuid_cannot(key: bytes) -> None:
    assert not is_guessable(str(UUID(bytes=key, version=4)))


@FEW
@given(st.integers(10, 32).flatmap(random_bytes))
def test_random_hex_digits_cannot(key: bytes) -> None:
    assert not is_guessable(key.hex())


@FEW
@given(random_bytes(16), st.sampled_from(["anna", "scmrl-admin", "sk_live"]))
def test_a_word_in_front_does_not_make_a_random_key_guessable(key: bytes, word: str) -> None:
    assert not is_guessable(f"{word}-{key.hex()}")
