"""JPEGs that were cut and closed again: an end mark (EOI) behind half the data.

libjpeg fills what is missing with grey and only warns, which Pillow does not pass on. But without
an end mark it waits for more, and Pillow says so. So a picture whose last pixel is the grey of
missing data is decoded once more, with ones, which are no code, in place of its end mark.
"""

import io
import re

from PIL import Image, JpegImagePlugin

_GREY = (128, (128, 128, 128))  # of blocks all of whose coefficients are 0
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # ITU-T T.81, B.1.1.2; restarts left out
_START_OF_SCAN, _END = 0xDA, b"\xff\xd9"
_PADDING = b"\xff\0" * 16  # libjpeg looks at most 8 bytes ahead


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
    """Returns where the end mark is behind the first scan; None if something else is there."""
    at = 2
    while data[at : at + 1] == b"\xff" and data[at + 1] != _START_OF_SCAN:
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    found = _MARKER.search(data, at + 2 + int.from_bytes(data[at + 2 : at + 4], "big"))
    return found.start() if found and found[0] == _END else None
