"""How a stored image is turned upright: by EXIF, or by XMP where that has none."""

import io
import struct
from collections.abc import Callable
from typing import NamedTuple

from PIL import AvifImagePlugin, ExifTags, Image, PngImagePlugin, TiffImagePlugin

from vqpipe.images import png
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


def size_of(image: Image.Image, data: bytes) -> tuple[int, int]:
    """Returns width and height of an image that is not loaded yet, once it is upright.

    Args:
        image: As its header has it.
        data: All of it, of which nothing is decompressed.
    """
    if isinstance(image, PngImagePlugin.PngImageFile):
        return _turn_of_png(data, is_animated=image.is_animated).swap(*image.size)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        if ExifTags.Base.Orientation in image.tag_v2:
            return image.size  # Pillow has swapped it by then
    elif isinstance(image, AvifImagePlugin.AvifImageFile):
        image.info.pop("xmp", None)  # whose orientation does not count
    return turn_of(image).swap(*image.size)


def _turn_of_png(data: bytes, *, is_animated: bool) -> Turn:
    """Returns what a PNG says, wherever in the file it does: Pillow would decode it to look."""

    def look() -> Image.Exif:
        header = io.BytesIO(png.without_pixels(data, is_animated=is_animated))
        with Image.open(header, formats=["PNG"]) as image:
            return Image.Image.getexif(image)

    return _turn(look)


def turn_of(image: Image.Image) -> Turn:
    """Returns what EXIF says; `ImageOps.exif_transpose` fails where that is unreadable."""
    return _turn(image.getexif)


def _turn(look: Callable[[], Image.Exif]) -> Turn:
    try:
        orientation = look().get(ExifTags.Base.Orientation)
    except (SyntaxError, ValueError, TypeError, KeyError, OSError, struct.error):
        return Turn()
    return turn_by(orientation) if isinstance(orientation, int) else Turn()
