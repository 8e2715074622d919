"""What a view is, and how images become views: how many, how large, and where each is cut.

Only this says so. Elsewhere a view is what it says of itself: its pixels of whatever height and
width, its number among the views of its image, its crop, and whether it is flipped.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from vqpipe.rejections import Rejection

RESAMPLE = {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}

Pixels = npt.NDArray[np.uint8]
Crop = tuple[int, int, int, int]
"""Left, top, right (exclusive), bottom (exclusive) of what is kept, in original pixels."""


class Cut(NamedTuple):
    """How a view is cut out of its image."""

    crop: Crop
    flip: bool
    """Whether left and right change places."""


class View(NamedTuple):
    """One image as the network sees it, and how it was cut."""

    pixels: Pixels
    """(H, W, 3) uint8 RGB, 0..255, HWC."""
    width: int
    """Pixels of the original, after EXIF orientation."""
    height: int
    """Pixels of the original, after EXIF orientation."""
    crop: Crop
    flip: bool
    """Whether left and right have changed places."""
    number: int
    """Among the views of its image, from 0."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the view, in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]


Views = tuple[View, ...]
Opened = Views | Rejection | None
"""What becomes of an image: as many views as `Preprocess` says; None of none."""


def square(side: int) -> tuple[int, int]:
    """Returns the size of a view that is a square, from its side in pixels."""
    return side, side


@dataclass(frozen=True)
class Preprocess:
    """How images become views; the same for every image of a run."""

    size: tuple[int, int]
    """Height and width of every view, in pixels, from 1."""
    resample: str = "bicubic"
    """`bicubic` or `lanczos`, both antialiased by Pillow."""
    background: tuple[int, int, int] = (255, 255, 255)
    """RGB, 0..255, under transparent pixels."""
    max_pixels: int = 100_000_000
    """Images of more pixels, by their header, are rejected without being decompressed."""
    draft: bool = False
    """Whether large JPEGs are decoded at a part of their size (`draft`), where a view still has
    half the pixels along a side, or fewer: faster, and a little different."""

    def __post_init__(self) -> None:
        if min(self.size) < 1:
            raise ValueError(f"size must be at least 1 x 1, not {self.size}")
        if self.resample not in RESAMPLE:
            raise ValueError(f"resample must be one of {', '.join(RESAMPLE)}, not {self.resample}")
        if len(self.background) != 3 or not all(0 <= level <= 255 for level in self.background):
            raise ValueError(f"background must be three levels of 0..255, not {self.background}")
        if self.max_pixels < 1:
            raise ValueError(f"max_pixels must be at least 1, not {self.max_pixels}")

    @property
    def views(self) -> int:
        """How many views every image has, each of them a row."""
        return 1

    def cuts(self, width: int, height: int) -> tuple[Cut, ...]:
        """Returns how the views of an image of that size are cut, in order of their numbers.

        The one view has the proportions of `size`, and is the largest in the centre with whole
        pixel coordinates: of a square, `(width - side) // 2` from the left.
        """
        rows, columns = self.size
        across = max(1, min(width, height * columns // rows))
        down = max(1, min(height, width * rows // columns))
        left, top = (width - across) // 2, (height - down) // 2
        return (Cut((left, top, left + across, top + down), flip=False),)
