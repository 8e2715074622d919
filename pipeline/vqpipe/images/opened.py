"""What became of compressed images: views side by side in one piece of memory, and rejections."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vqpipe.images.compressed import Compressed
from vqpipe.images.preprocess import Opened, Pixels, Preprocess, View, Views
from vqpipe.images.views import views_of
from vqpipe.rejections import Rejection


@dataclass(frozen=True, eq=False)
class OpenedImages:
    """Of N images the V views, of height H and width W; as a sequence, an `Opened` of each."""

    pixels: Pixels
    """(N, V, H, W, 3) uint8 RGB, one behind the other; zeros where there is no view."""
    is_open: npt.NDArray[np.bool_]
    """(N,) whether an image has views."""
    sizes: npt.NDArray[np.int32]
    """(N, 2) width and height of the originals, in pixels, after EXIF orientation."""
    crops: npt.NDArray[np.int32]
    """(N, V, 4) left, top, right and bottom in pixels of the original."""
    flips: npt.NDArray[np.bool_]
    """(N, V) whether left and right have changed places."""
    rejections: Sequence[Rejection | None]
    """Why images have no views; None too where there was no image."""

    def __len__(self) -> int:
        return len(self.is_open)

    def __getitem__(self, row: int) -> Opened:
        """Returns what became of one image."""
        if not 0 <= row < len(self):
            raise IndexError(row)
        if not self.is_open[row]:
            return self.rejections[row]
        width, height = self.sizes[row].tolist()
        cuts = zip(self.crops[row].tolist(), self.flips[row].tolist(), strict=True)
        return tuple(
            View(self.pixels[row, number], width, height, tuple(crop), flip, number)
            for number, (crop, flip) in enumerate(cuts)
        )


def open_images(images: Compressed, how: Preprocess) -> OpenedImages:
    """Returns the views of images, opened one after the other in this process."""
    rows, views = len(images), (len(images), how.views)
    rejections: list[Rejection | None] = [None] * rows
    found = OpenedImages(
        np.zeros((*views, *how.size, 3), np.uint8),
        np.zeros(rows, bool),
        np.zeros((rows, 2), np.int32),
        np.zeros((*views, 4), np.int32),
        np.zeros(views, bool),
        rejections,
    )
    for row, image in enumerate(images):
        opened = None if image is None else views_of(image, how)
        if isinstance(opened, tuple):
            _put(found, row, opened)
        else:
            rejections[row] = opened
    return found


def _put(found: OpenedImages, row: int, views: Views) -> None:
    """Puts the views of an image into their places."""
    found.is_open[row] = True
    found.sizes[row] = views[0].width, views[0].height
    for view in views:
        found.pixels[row, view.number] = view.pixels
        found.crops[row, view.number] = view.crop
        found.flips[row, view.number] = view.flip
