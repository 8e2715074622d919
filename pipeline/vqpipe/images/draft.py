"""Large JPEGs decoded at a half, a quarter or an eighth of their size, for views still smaller.

A JPEG holds the frequencies of blocks of 8 x 8 pixels. libjpeg can decode the lowest 4 x 4, 2 x 2
or 1 x 1 of them to as many pixels, which costs less and leaves less to resample. Pixels come out a
little different; where they lie does not:

    position in the image    x, from 0 to its width (or height)
    among decoded pixels     x / s; they are ceil(width / s), the last of them partly beyond it
    a view                   resampled from crop / s, whatever fractions that has, and only then
                             turned: turned before, what is beyond would lie at the left
"""

from typing import NamedTuple

from PIL import Image, JpegImagePlugin

from vqpipe.images import jpeg
from vqpipe.images.frame import Crop
from vqpipe.images.orientation import Turn, turn_of
from vqpipe.images.preprocess import Preprocess

_SCALES = (8, 4, 2)
_LEAST_LEFT = 2
"""How many decoded pixels there are at least for each of a view, along a side: the filter of the
resize then passes little of the frequencies that were not decoded."""


class Decoded(NamedTuple):
    """What the pixels that were decoded are of the image."""

    width: int
    """Pixels of the image as it is stored."""
    height: int
    scale: int = 1
    """How many of its pixels, along a side, one that was decoded stands for."""
    turn: Turn = Turn()
    """What is still to be done to it."""

    @property
    def upright(self) -> tuple[int, int]:
        """Width and height of the image, in pixels of its own, once it is upright."""
        return self.turn.swap(self.width, self.height)

    def find(self, crop: Crop) -> tuple[float, float, float, float]:
        """Returns where a part of the upright image is among the pixels that were decoded."""
        left, top, right, bottom = self.turn.find(crop, self.width, self.height)
        scale = self.scale
        return left / scale, top / scale, right / scale, bottom / scale


def shrink(image: Image.Image, data: bytes, how: Preprocess, lot: int) -> Decoded | None:
    """Has a JPEG that is not loaded yet decoded smaller; returns None if it is left as it is."""
    if not isinstance(image, JpegImagePlugin.JpegImageFile) or jpeg.is_lossless(data):
        return None
    turn = turn_of(image)
    scale = _scale(*turn.swap(*image.size), how, lot)
    if scale == 1:
        return None
    decoded = Decoded(*image.size, scale, turn)
    image.draft(None, (image.width // scale, image.height // scale))
    return decoded


def _scale(width: int, height: int, how: Preprocess, lot: int) -> int:
    """Returns by how much an image of that size can be smaller, for all of its views."""
    rows, columns = how.shape_of(width, height)
    crops = [cut.crop for cut in how.cuts(width, height, lot)]
    least = min(
        min((right - left) / columns, (bottom - top) / rows) for left, top, right, bottom in crops
    )
    return next((scale for scale in _SCALES if least >= scale * _LEAST_LEFT), 1)
