"""What became of compressed images: views one behind the other in memory, and rejections."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vqpipe.images.compressed import Compressed
from vqpipe.images.preprocess import Opened, Pixels, Preprocess, View, Views
from vqpipe.images.views import views_of
from vqpipe.rejections import LeftOut, Rejection


@dataclass(frozen=True, eq=False)
class OpenedImages:
    """Of N images the V views, those of an image of one shape; as a sequence, an `Opened` each."""

    pixels: Pixels
    """(bytes,) uint8: the views (H, W, 3) RGB of all images that have any, one behind the other."""
    is_open: npt.NDArray[np.bool_]
    """(N,) whether an image has views."""
    sizes: npt.NDArray[np.int32]
    """(N, 2) width and height of the originals, in pixels, after EXIF orientation."""
    shapes: npt.NDArray[np.int32]
    """(N, 2) height and width of the views of each image, in pixels; 0 of one that has none."""
    crops: npt.NDArray[np.int32]
    """(N, V, 4) left, top, right and bottom in pixels of the original."""
    flips: npt.NDArray[np.bool_]
    """(N, V) whether left and right have changed places."""
    rejections: Sequence[Rejection | LeftOut | None]
    """Why images have no views; None too where there was no image."""

    def __len__(self) -> int:
        return len(self.is_open)

    @property
    def views(self) -> int:
        """Of each image."""
        return int(self.flips.shape[1])

    def __getitem__(self, row: int) -> Opened:
        """Returns what became of one image."""
        if not 0 <= row < len(self):
            raise IndexError(row)
        if not self.is_open[row]:
            return self.rejections[row]
        view_bytes = 3 * self.shapes.astype(np.int64).prod(1)
        start, end = (int(self.views * view_bytes[:each].sum()) for each in (row, row + 1))
        pixels = self.pixels[start:end].reshape(self.views, *self.shapes[row].tolist(), 3)
        width, height = self.sizes[row].tolist()
        cuts = zip(self.crops[row].tolist(), self.flips[row].tolist(), strict=True)
        return tuple(
            View(pixels[number], width, height, tuple(crop), flip, number)
            for number, (crop, flip) in enumerate(cuts)
        )


def open_images(images: Compressed, how: Preprocess) -> OpenedImages:
    """Returns the views of images, opened one after the other in this process."""
    opened = [
        None if image is None else views_of(image, how, lot)
        for image, lot in zip(images, images.lots.tolist(), strict=True)
    ]
    rows, views = len(images), (len(images), how.views)
    pixels = [view.pixels.ravel() for each in opened if isinstance(each, tuple) for view in each]
    found = OpenedImages(
        np.concatenate([*pixels, np.zeros(0, np.uint8)]),
        np.array([isinstance(each, tuple) for each in opened], bool),
        np.zeros((rows, 2), np.int32),
        np.zeros((rows, 2), np.int32),
        np.zeros((*views, 4), np.int32),
        np.zeros(views, bool),
        [None if isinstance(each, tuple) else each for each in opened],
    )
    for row, each in enumerate(opened):
        if isinstance(each, tuple):
            _note(found, row, each)
    return found


def _note(found: OpenedImages, row: int, views: Views) -> None:
    """Notes what the views of an image are."""
    found.sizes[row] = views[0].width, views[0].height
    found.shapes[row] = views[0].size
    for view in views:
        found.crops[row, view.number] = view.crop
        found.flips[row, view.number] = view.flip
