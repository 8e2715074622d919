"""Which shards and samples are looked at where not all of them are: a hash of their names says it.

A pick is the same on any machine, in any order and after any crash, and a larger one holds a
smaller one.
"""

import hashlib
import heapq
from collections.abc import Iterable


def hash_of(name: str, *, what_for: bytes = b"", size: int = 8) -> bytes:
    """Returns what names are ordered by: the BLAKE2b of one, as evenly spread as random numbers.

    Args:
        name: Any text.
        what_for: Goes before the name, so that picks for other ends are other ones.
        size: Bytes, at most 64; a shorter hash is not the beginning of a longer one.
    """
    data = what_for + name.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=size).digest()


def pick_names(names: Iterable[str], most: int) -> list[str]:
    """Returns at most so many names of shards, in order of name."""
    return sorted(heapq.nsmallest(most, names, key=hash_of))


def is_picked(key: str, share: float) -> bool:
    """Tells whether a sample is among a share of all, 0 to 1, whatever the others are."""
    return int.from_bytes(hash_of(key), "big") < round(share * 2**64)
