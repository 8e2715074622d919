"""Views of an image that is open: cut out and resized, as `preprocess` says."""

import numpy as np
from PIL import Image

from vqpipe.images.crops import Size
from vqpipe.images.draft import Decoded
from vqpipe.images.frame import Cut, covering, halved
from vqpipe.images.preprocess import RESAMPLE, Pixels, Preprocess, View, Views


def resize_views(flat: Image.Image, decoded: Decoded, how: Preprocess, lot: int) -> Views:
    """Returns the views of an image, in order.

    Args:
        flat: Its pixels, RGB or grey.
        decoded: What these are of it.
        how: Which views there are.
        lot: The image's (`crops.lot_of`).
    """
    width, height = decoded.upright
    down, across = how.shape_of(width, height)
    opened = _Opened(flat, decoded, how, (across, down))
    return tuple(
        View(opened.view(cut), width, height, cut.crop, cut.flip, number)
        for number, cut in enumerate(how.cuts(width, height, lot))
    )


class _Opened:
    """An image of which views are made; what it is resized to before a cut is so only once.

    Args:
        flat: Its pixels.
        decoded: What these are of it.
        how: How views are made.
        size: Width and height of each.
    """

    def __init__(self, flat: Image.Image, decoded: Decoded, how: Preprocess, size: Size) -> None:
        self._flat, self._decoded, self._size = flat, decoded, size
        self._halves, self._filter = how.resize == "adm", RESAMPLE[how.resample]
        self._cuts_first = how.resize == "crop-first"
        self._canvases: dict[Size, Image.Image] = {}

    def view(self, cut: Cut) -> Pixels:
        """Returns a view's pixels (H, W, 3) uint8 RGB."""
        found = self._cut(cut)
        found = found.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if cut.flip else found
        return np.asarray(found if found.mode == "RGB" else found.convert("RGB"))

    def _cut(self, cut: Cut) -> Image.Image:
        if cut.covered is not None:
            return self._canvas(cut.covered).crop(cut.box)
        if self._cuts_first:  # nothing of what is around comes in
            return self._flat.crop(cut.crop).resize(self._size, self._filter)
        turn, box = self._decoded.turn, self._decoded.find(cut.crop)
        return turn.apply(self._flat.resize(turn.swap(*self._size), self._filter, box=box))

    def _canvas(self, covered: Size) -> Image.Image:
        """Returns the image resized until it covers a width and height."""
        if covered not in self._canvases:
            self._canvases[covered] = self._resize(covered)
        return self._canvases[covered]

    def _resize(self, covered: Size) -> Image.Image:
        if not self._halves:
            return self._flat.resize(covering(covered, self._flat.size), self._filter)
        flat, (*halves, last) = self._flat, halved(covered, self._flat.size)
        for size in halves:
            flat = flat.resize(size, Image.Resampling.BOX)
        return flat.resize(last, self._filter)
