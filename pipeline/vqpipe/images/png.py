"""PNG chunks: which of them decide pixels, and what a transparent colour is in 8 bits.

    signature | IHDR | iCCP, zTXt, ... | PLTE, tRNS | IDAT ... | iTXt, eXIf, ... | IEND

Pillow inflates texts and profiles while it looks for pixels, and gives an image up at which they
are large, or damaged. Here they are taken out before: of the ancillary chunks (PNG 3, section 11.3)
only those stay that say something of pixels, and one (cICP) that says that they are HDR.

A stream that ends at the end of a row, before the last one, is none of Pillow's errors: the rows
that are missing stay zeros. So where the last row is zeros the stream is inflated once more, and
its bytes are counted.
"""

import itertools
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

from vqpipe.images import hdr

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_TEXT_BYTES = 2**20
"""Most that a text may have once inflated; what Pillow allows."""

_DECIDING = {b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT"}
_SAYS_ORIENTATION = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")
_TEXTS = {b"tEXt", b"zTXt", b"iTXt"}
_OF_HEADERS = {b"IHDR", b"eXIf", b"IEND", *_TEXTS}
_END = b"\0\0\0\0IEND\xaeB`\x82"
_FRAME_BYTES = 12  # of a chunk: length, type, checksum
_COLOUR = 2  # of IHDR's colour types, red, green and blue
_CICP_BYTES = 4  # primaries, transfer function, matrix, range
_CHANNELS = {0: 1, _COLOUR: 3, 3: 1, 4: 2, 6: 4}  # by IHDR's colour type
_WHOLE = ((0, 0, 1, 1),)
_ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)  # of a pass, its first column and row, and the steps to the next; PNG 3, section 8.1
_INFLATED_AT_ONCE = 2**13  # bytes of the stream; zlib makes at most 1032 times as many of them


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


def without_pixels(data: bytes, *, is_animated: bool) -> bytes:
    """Returns a PNG with nothing but its size and what may say which way it is turned.

    Behind the pixels Pillow looks at no checksum, and no further than the next frame.

    Args:
        data: A PNG `without_ballast`.
        is_animated: Whether Pillow takes it for several frames.
    """
    parts, kinds = [SIGNATURE], set[bytes]()
    for chunk in _chunks(data):
        if is_animated and chunk.kind == b"fcTL" and b"IDAT" in kinds:
            break
        kinds.add(chunk.kind)
        if chunk.kind in _OF_HEADERS and chunk.end <= len(data):
            body = data[chunk.start + 4 : chunk.end - 4]
            parts += [
                data[chunk.start : chunk.start + 4],
                body,
                zlib.crc32(body).to_bytes(4, "big"),
            ]
    return b"".join((*parts, _END))


def transparent_level(data: bytes, stored: int) -> int:
    """Returns the level, of 8 bits, of a transparent grey that is stored in fewer."""
    most = int(2 ** min(8, _depth(data))) - 1
    return (stored & most) * 255 // most


def find_unsupported(data: bytes) -> str | None:
    """Returns why a PNG that Pillow opens would come out wrong, or None."""
    if data[12:16] != b"IHDR":
        return "its first chunk is no IHDR"
    if said := _find_hdr(data):
        return said
    if _depth(data) < 16 or data[25] != _COLOUR:
        return None
    if any(chunk.kind == b"tRNS" for chunk in _chunks(data)):
        return "a transparent colour of 16 bits, of which Pillow compares the wrong ones"
    return None


def is_closed_early(image: Image.Image, data: bytes) -> bool:
    """Returns whether a PNG that is loaded lacks rows at its end."""
    last = image.height - 1
    if _is_interlaced(data):
        last = image.height // 2 * 2 - 1  # of the last pass, which has every second row
    if last >= 0 and np.asarray(image.crop((0, last, image.width, last + 1))).any():
        return False
    return not _has_bytes(data, _bytes_of_pixels(data, image.width, image.height))


def _find_hdr(data: bytes) -> str | None:
    """Returns what is said of HDR before the pixels; behind them it does not count."""
    chunks = itertools.takewhile(lambda chunk: chunk.kind != b"IDAT", _chunks(data))
    return next(filter(None, (_says_hdr(data, chunk) for chunk in chunks)), None)


def _says_hdr(data: bytes, chunk: _Chunk) -> str | None:
    """Returns what a whole cICP says of HDR (PNG 3, 11.3.2.6); libpng leaves damaged ones out."""
    body = data[chunk.start + 8 : chunk.end - 4]
    checksum = int.from_bytes(data[chunk.end - 4 : chunk.end], "big")
    if chunk.kind != b"cICP" or len(body) != _CICP_BYTES or zlib.crc32(b"cICP" + body) != checksum:
        return None
    return hdr.find_unsupported(body[1])


def _is_interlaced(data: bytes) -> bool:
    return data[28] != 0


def _bytes_of_pixels(data: bytes, width: int, height: int) -> int:
    """Returns how many bytes there must be, with the one before each row that names its filter."""
    bits, total = _depth(data) * _CHANNELS[data[25]], 0
    for left, top, right, down in _ADAM7 if _is_interlaced(data) else _WHOLE:
        columns, rows = len(range(left, width, right)), len(range(top, height, down))
        total += rows * (1 + (columns * bits + 7) // 8) if columns else 0
    return total


def _has_bytes(data: bytes, least: int) -> bool:
    """Returns whether a stream inflates to so many bytes, of which few are held at a time."""
    inflater, count = zlib.decompressobj(), 0
    try:
        for part in _stream(data):
            count += len(inflater.decompress(part))
            if count >= least or inflater.eof:
                break
    except zlib.error:
        return True  # behind the pixels, or the decoder would have refused it
    return count >= least


def _stream(data: bytes) -> Iterator[memoryview]:
    view = memoryview(data)
    for chunk in _chunks(data):
        if chunk.kind == b"IDAT":
            body = view[chunk.start + 8 : chunk.end - 4]
            for start in range(0, len(body), _INFLATED_AT_ONCE):
                yield body[start : start + _INFLATED_AT_ONCE]


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
    if b"IDAT" not in seen and _says_hdr(data, chunk):
        return False
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
