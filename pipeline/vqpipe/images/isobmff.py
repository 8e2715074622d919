"""Boxes (ISO BMFF), in which AVIF and HEIC are, and JPEG XL may be: what a file is, if it is cut.

size in 4 bytes | kind | [size in 8 bytes, where the first is 1] | what is in it, often boxes
"""

from collections.abc import Iterator
from typing import NamedTuple

_AVIF, _HEIC = {b"avif", b"avis"}, {b"heic", b"heix", b"heim", b"heis"}
_HEIC |= {b"hevc", b"hevx", b"hevm", b"hevs"}
_FIRST = {b"ftyp", b"JXL "}
_VERSION, _MOST_OF_BRANDS = 4, 512  # bytes: where it is among the brands, and how many are read


class Box(NamedTuple):
    """Where a box is."""

    kind: bytes
    start: int
    """Of what is in it."""
    end: int
    """As it says: may be behind the end of a file that is cut."""


def boxes(data: bytes, start: int = 0, end: int | None = None) -> Iterator[Box]:
    """Yields the boxes side by side in a part of a file; the last may be cut."""
    end = len(data) if end is None else min(end, len(data))
    while start + 8 <= end:
        size, head = int.from_bytes(data[start : start + 4], "big"), 8
        if size == 1:  # then it has 64 bits, behind the kind
            size, head = int.from_bytes(data[start + 8 : start + 16], "big"), 16
        size = size or end - start  # 0: all the rest
        if size < head:
            return
        yield Box(data[start + 4 : start + 8], start + head, start + size)
        start += size


def is_cut(data: bytes) -> bool:
    """Tells a file that is shorter than its boxes say."""
    return data[4:8] in _FIRST and any(box.end > len(data) for box in boxes(data))


def kind_of(data: bytes) -> str | None:
    """Returns AVIF or HEIC, as the brands of a file say; None if it is neither."""
    if data[4:8] != b"ftyp":
        return None
    brands = data[8 : min(int.from_bytes(data[:4], "big"), _MOST_OF_BRANDS)]
    named = {brands[at : at + 4] for at in range(0, len(brands), 4) if at != _VERSION}
    return "AVIF" if named & _AVIF else "HEIC" if named & _HEIC else None


def inside(data: bytes, outer: Box, *kinds: bytes) -> Iterator[Box]:
    """Yields the boxes at the end of a path of kinds."""
    for box in boxes(data, outer.start, outer.end):
        if box.kind == kinds[0]:
            yield from inside(data, box, *kinds[1:]) if kinds[1:] else (box,)
