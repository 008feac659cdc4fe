"""The strength of a key as zxcvbn estimates it, from lists of passwords, words and names, and from
keyboard rows, sequences, repeats and dates."""

from __future__ import annotations

import math
import re

#: A key is strong from this estimate on, in bits.
_STRONG_BITS = 60.0
#: It is strong as well from this share of the bits of a random key of the same length and alphabet.
#: 20 random hex digits have 80 bits; the estimate omits digits that happen to form a date or name.
_STRONG_SHARE = 0.5
#: Numbers of first characters to estimate. A key with a strong prefix is strong, and the time of an
#: estimate grows faster than the length.
_PREFIX, _MAX_LENGTH = 24, 128
_ALPHANUMERIC = re.compile(r"[A-Za-z0-9]+")
_WORD_OR_NUMBER = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|[0-9]+")
_KINDS = (
    (re.compile(r"[0-9]*"), 10),
    (re.compile(r"[0-9a-f]*|[0-9A-F]*"), 16),
    (re.compile(r"[a-z]*|[A-Z]*"), 26),
    (re.compile(r"[0-9a-z]*|[0-9A-Z]*"), 36),
    (re.compile(r"[a-zA-Z]*"), 52),
)
#: Words that keys of this service contain more often than zxcvbn's lists suggest.
_WORDS = ("scmrl", "api", "key", "secret", "token", "admin", "service", "dev", "prod", "test")


def is_guessable(secret: str) -> bool:
    """Return whether a key consists mostly of words, keyboard rows, sequences, repeats or dates.

    Knows English words only. Takes 5 to 20 ms.
    """
    return not (_is_strong(secret[:_PREFIX]) or _is_strong(secret[:_MAX_LENGTH]))


def _is_strong(secret: str) -> bool:
    parts = _ALPHANUMERIC.findall(secret)
    joined = "".join(parts)
    per_character = math.log2(next((n for kind, n in _KINDS if kind.fullmatch(joined)), 62))
    # Words between separators, words in camel case, and words with separators inside them.
    splits = (parts, _WORD_OR_NUMBER.findall(secret), [joined])
    bits = min(sum(_bits(part, per_character) for part in set(split)) for split in splits)
    return bits >= min(_STRONG_BITS, _STRONG_SHARE * len(secret) * per_character)


def _bits(text: str, per_character: float) -> float:
    """Return log2 of the guesses for `text`; characters outside patterns count `per_character`."""
    from zxcvbn import zxcvbn  # its lists take 40 ms to load

    if not text:
        return 0.0
    bits = 0.0
    for match in zxcvbn(text, user_inputs=_WORDS, max_length=_MAX_LENGTH)["sequence"]:
        random = len(match["token"]) * per_character
        is_random = match["pattern"] == "bruteforce"
        bits += random if is_random else min(random, math.log2(match["guesses"]))
    return bits
