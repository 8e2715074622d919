"""How a stored image is turned upright: by EXIF, or by XMP where that has none."""

import struct
from typing import NamedTuple

from PIL import ExifTags, Image

from vqpipe.images.frame import Crop


class Turn(NamedTuple):
    """What makes a stored image upright; by default nothing."""

    method: Image.Transpose | None = None
    is_swapped: bool = False
    """Whether what is stored as a row becomes a column."""
    is_mirrored: tuple[bool, bool] = (False, False)
    """Whether stored columns, and stored rows, are taken from the last to the first."""

    def apply(self, image: Image.Image) -> Image.Image:
        """Returns an image turned."""
        return image if self.method is None else image.transpose(self.method)

    def swap(self, width: int, height: int) -> tuple[int, int]:
        """Returns the size of an upright image from that of the stored one, or the reverse."""
        return (height, width) if self.is_swapped else (width, height)

    def find(self, crop: Crop, width: int, height: int) -> Crop:
        """Returns where a part of the upright image is in the stored one.

        Args:
            crop: The part.
            width: Pixels of the stored image.
            height: Pixels of the stored image.
        """
        left, top, right, bottom = crop
        if self.is_swapped:
            left, top, right, bottom = top, left, bottom, right
        if self.is_mirrored[0]:
            left, right = width - right, width - left
        if self.is_mirrored[1]:
            top, bottom = height - bottom, height - top
        return left, top, right, bottom


_T = Image.Transpose
_TURNS = {
    2: Turn(_T.FLIP_LEFT_RIGHT, is_mirrored=(True, False)),
    3: Turn(_T.ROTATE_180, is_mirrored=(True, True)),
    4: Turn(_T.FLIP_TOP_BOTTOM, is_mirrored=(False, True)),
    5: Turn(_T.TRANSPOSE, is_swapped=True),
    6: Turn(_T.ROTATE_270, is_swapped=True, is_mirrored=(False, True)),
    7: Turn(_T.TRANSVERSE, is_swapped=True, is_mirrored=(True, True)),
    8: Turn(_T.ROTATE_90, is_swapped=True, is_mirrored=(True, False)),
}  # EXIF 2.32, tag 0x0112; the table of PIL.ImageOps.exif_transpose


def turn_by(number: int) -> Turn:
    """Returns what an orientation says, as EXIF counts them."""
    return _TURNS.get(number, Turn())


def turn_of(image: Image.Image) -> Turn:
    """Returns what EXIF says; `ImageOps.exif_transpose` fails where that is unreadable."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except (SyntaxError, ValueError, TypeError, KeyError, OSError, struct.error):
        return Turn()
    return turn_by(orientation) if isinstance(orientation, int) else Turn()
