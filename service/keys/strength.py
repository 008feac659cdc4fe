"""How hard a key is to guess, as zxcvbn estimates it: a list of passwords and words, names, rows
of a keyboard, sequences, repeats and dates."""

from __future__ import annotations

import math
import re

#: Bits of the estimate from which a key is strong.
_STRONG_BITS = 60.0
#: Share of the bits of a random key with the same length and kinds of characters from which a key
#: is strong, too. 20 random hex digits have 80 bits, of which the estimate leaves out the digits
#: that happen to be a date or a name.
_STRONG_SHARE = 0.5
#: Characters that are looked at: a key with a strong beginning is strong, and the estimate takes
#: longer than in proportion to the length.
_FIRST, _MOST = 24, 128
_ALPHANUMERIC = re.compile(r"[A-Za-z0-9]+")
_WORD_OR_NUMBER = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|[0-9]+")
_KINDS = (
    (re.compile(r"[0-9]*"), 10),
    (re.compile(r"[0-9a-f]*|[0-9A-F]*"), 16),
    (re.compile(r"[a-z]*|[A-Z]*"), 26),
    (re.compile(r"[0-9a-z]*|[0-9A-Z]*"), 36),
    (re.compile(r"[a-zA-Z]*"), 52),
)
#: Words that stand in keys for this service more often than in the lists of zxcvbn.
_WORDS = ("scmrl", "api", "key", "secret", "token", "admin", "service", "dev", "prod", "test")


def is_guessable(secret: str) -> bool:
    """Whether a key is words, rows of keys, sequences, repeats or dates for the greater part.

    Words of other languages than English are not known. Takes 5 to 20 ms.
    """
    return not (_is_strong(secret[:_FIRST]) or _is_strong(secret[:_MOST]))


def _is_strong(secret: str) -> bool:
    parts = _ALPHANUMERIC.findall(secret)
    joined = "".join(parts)
    per_character = math.log2(next((n for kind, n in _KINDS if kind.fullmatch(joined)), 62))
    # Words between separators, words in camel case, and words with separators inside them.
    ways = (parts, _WORD_OR_NUMBER.findall(secret), [joined])
    bits = min(sum(_bits(part, per_character) for part in set(way)) for way in ways)
    return bits >= min(_STRONG_BITS, _STRONG_SHARE * len(secret) * per_character)


def _bits(text: str, per_character: float) -> float:
    """The binary logarithm of the guesses that `text` takes, where each character that belongs to
    no pattern takes `per_character`."""
    from zxcvbn import zxcvbn  # its lists take 40 ms

    if not text:
        return 0.0
    bits = 0.0
    for match in zxcvbn(text, user_inputs=_WORDS, max_length=_MOST)["sequence"]:
        random = len(match["token"]) * per_character
        is_random = match["pattern"] == "bruteforce"
        bits += random if is_random else min(random, math.log2(match["guesses"]))
    return bits
