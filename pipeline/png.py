"""PNG chunks: which of them decide pixels, and what a transparent colour is in 8 bits.

    signature | IHDR | iCCP, zTXt, ... | PLTE, tRNS | IDAT ... | iTXt, eXIf, ... | IEND

Pillow inflates texts and profiles while it looks for pixels, and gives an image up at which they
are large, or damaged. Here they are taken out before: of the ancillary chunks (PNG 3, section 11.3)
only those stay that say something of pixels.
"""

import zlib
from collections.abc import Iterator
from typing import NamedTuple

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_TEXT_BYTES = 2**20
"""Most that a text may have once inflated; what Pillow allows."""

_DECIDING = {b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT"}
_SAYS_ORIENTATION = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")
_TEXTS = {b"tEXt", b"zTXt", b"iTXt"}
_FRAME_BYTES = 12  # of a chunk: length, type, checksum
_COLOUR = 2  # of IHDR's colour types, red, green and blue


class _Chunk(NamedTuple):
    kind: bytes
    start: int
    """Of its length, which comes first."""
    end: int
    """Behind its checksum; may be behind the end of a file that is cut."""


def without_ballast(data: bytes) -> bytes:
    """Returns a PNG without the chunks that decide no pixel; other files as they are.

    What is not a chunk is left, for the decoder to judge. So is ballast that is cut before the
    pixels; behind them, it takes nothing away.
    """
    if not data.startswith(SIGNATURE):
        return data
    view, parts, kept_from = memoryview(data), [], 0
    seen: set[bytes] = {b""}
    for chunk in _chunks(data):
        if _is_ballast(data, chunk, seen):
            parts.append(view[kept_from : chunk.start])
            kept_from = chunk.end
        seen.add(chunk.kind)
    return b"".join((*parts, view[kept_from:])) if parts else data


def transparent_level(data: bytes, stored: int) -> int:
    """Returns the level, of 8 bits, of a transparent grey that is stored in fewer."""
    most = int(2 ** min(8, _depth(data))) - 1
    return (stored & most) * 255 // most


def find_unsupported(data: bytes) -> str | None:
    """Returns why a PNG that Pillow opens would come out wrong, or None."""
    if _depth(data) < 16 or data[25] != _COLOUR:
        return None
    if any(chunk.kind == b"tRNS" for chunk in _chunks(data)):
        return "a transparent colour of 16 bits, of which Pillow compares the wrong ones"
    return None


def _depth(data: bytes) -> int:
    """Returns the bits of a sample, or of a palette's index: the ninth byte of IHDR."""
    return data[24]


def _chunks(data: bytes) -> Iterator[_Chunk]:
    start = len(SIGNATURE)
    while start + _FRAME_BYTES <= len(data):
        length = int.from_bytes(data[start : start + 4], "big")
        yield _Chunk(data[start + 4 : start + 8], start, start + _FRAME_BYTES + length)
        start += _FRAME_BYTES + length


def _is_ballast(data: bytes, chunk: _Chunk, seen: set[bytes]) -> bool:
    is_ancillary = chunk.kind.isalpha() and chunk.kind[:1].islower()
    is_whole = chunk.end <= len(data) or b"IDAT" in seen
    if not is_ancillary or not is_whole or chunk.kind in _DECIDING:
        return False
    return chunk.kind not in _TEXTS or not _says_orientation(data, chunk, seen)


def _says_orientation(data: bytes, chunk: _Chunk, seen: set[bytes]) -> bool:
    """Returns whether to keep a text: the first of its keyword, if it is not too large."""
    body = data[chunk.start + 8 : chunk.end - 4]
    keyword = next((word for word in _SAYS_ORIENTATION if body.startswith(word)), b"")
    if keyword in seen:
        return False
    seen.add(keyword)
    return _size(chunk.kind, body[len(keyword) :]) <= MAX_TEXT_BYTES


def _size(kind: bytes, text: bytes) -> int:
    """Returns how long a text is once inflated, or some number above the limit."""
    if kind == b"tEXt" or (kind == b"iTXt" and text[:1] == b"\0"):
        return len(text)
    deflated = text[1:] if kind == b"zTXt" else text[2:].split(b"\0", 2)[-1]
    try:
        return len(zlib.decompressobj().decompress(deflated, MAX_TEXT_BYTES + 1))
    except zlib.error:
        return MAX_TEXT_BYTES + 1
