"""JPEGs that were cut and closed again: an end mark (EOI) behind half the data, or another mark.

libjpeg fills what is missing with grey and only warns, which Pillow does not pass on. But without
a mark it waits for more, and Pillow says so. So a picture whose last pixel is the grey of missing
data is decoded once more, with ones, which are no code, in place of the mark behind its scan.

And which JPEGs cannot be decoded at a part of their size: those without losses.
"""

import io
import re
from collections.abc import Iterator
from typing import NamedTuple

from PIL import Image, JpegImagePlugin

# Of blocks all of whose coefficients are 0: grey, RGB, and, as Adobe inverts them, CMYK and YCCK.
_GREY = (128, (128, 128, 128), (127, 127, 127, 127), (128, 128, 128, 127))
_MARKER = re.compile(rb"\xff[\x01-\xfe]")  # ITU-T T.81, B.1.1.2; FF before it may be many
_MARKER_NO_RESTART = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_START_OF_SCAN, _RESTART_INTERVAL, _END = 0xDA, 0xDD, b"\xff\xd9"
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xDA)}
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL = {0xC0, 0xC1, 0xC3}  # Huffman codes, each pixel in one scan
_LOSSLESS = {0xC3, 0xC7, 0xCB, 0xCF}  # ITU-T T.81, table B.1
_PADDING = b"\xff\0" * 16  # libjpeg looks at most 8 bytes ahead


def is_lossless(data: bytes) -> bool:
    """Returns whether a JPEG holds differences of pixels instead of frequencies."""
    return any(kind in _LOSSLESS for kind, _ in _segments(data))


def is_closed_early(image: Image.Image, data: bytes) -> bool:
    """Returns whether a JPEG that is loaded lacks blocks at its end.

    Seen is what lacks more than a few blocks of a picture of one scan; progressive JPEGs, each of
    whose scans is of all blocks, are taken as they are.
    """
    if image.getpixel((image.width - 1, image.height - 1)) not in _GREY:
        return False
    end = _end_of_only_scan(data)
    if end is None:
        return False
    try:
        with JpegImagePlugin.JpegImageFile(io.BytesIO(data[:end] + _PADDING)) as open_ended:
            open_ended.load()
    except OSError:
        return True
    return False


def _end_of_only_scan(data: bytes) -> int | None:
    """Returns where the first scan ends; None if more may follow.

    Nothing but the end can be behind a scan of all that is in a sequential picture. Behind others
    may be another scan, and tables for it.
    """
    scan = _find_scan(data)
    if scan is None:
        return None
    marker = _MARKER_NO_RESTART if scan.has_restarts else _MARKER
    found = marker.search(data, scan.start)
    is_only = scan.is_whole or (found and found[0] == _END)
    return found.start() if found and is_only else None


class _Scan(NamedTuple):
    start: int
    """Of its codes, behind its header."""
    is_whole: bool
    """Whether no pixel has a code elsewhere."""
    has_restarts: bool


def _find_scan(data: bytes) -> _Scan | None:
    """Returns the first scan; None if there is none."""
    components, interval = None, 0
    for kind, at in _segments(data):
        body = data[at + 2 : at + 8]
        if kind == _START_OF_SCAN:
            is_whole = components is not None and body[:1] == components
            return _Scan(at + _length(data, at), is_whole, interval > 0)
        if kind in _FRAMES:
            components = body[5:] if kind in _SEQUENTIAL else None
        if kind == _RESTART_INTERVAL:
            interval = int.from_bytes(body[:2], "big")
    return None


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Yields the markers down to the first scan, each with where its length is, if it has one."""
    at, kind = 2, None
    while kind != _START_OF_SCAN and (found := _MARKER.search(data, at)):
        kind, at = found[0][1], found.end()
        yield kind, at
        at += 0 if kind in _WITHOUT_LENGTH else _length(data, at)


def _length(data: bytes, at: int) -> int:
    """Returns the bytes of a segment, these two included."""
    return int.from_bytes(data[at : at + 2], "big")
