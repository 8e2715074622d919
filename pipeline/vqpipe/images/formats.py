"""Pixels to bytes: the formats that images are written in."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from vqpipe.images.preprocess import Pixels


@dataclass(frozen=True)
class ImageFormat:
    """How pixels are stored."""

    name: Literal["jpeg", "png", "webp"]
    quality: int = 95
    """1 to 100, as libjpeg and libwebp count; a PNG has no losses whatever it is."""

    @property
    def extension(self) -> str:
        """What the names of such files end with, without the dot."""
        return "jpg" if self.name == "jpeg" else self.name


def compress(pixels: Pixels, how: ImageFormat, most_side: int | None = None) -> bytes:
    """Returns (H, W, 3) uint8 RGB as a file; colours of a JPEG are kept at full resolution.

    Args:
        pixels: The image.
        how: The format.
        most_side: Pixels of the longer side above which it is made smaller; None never.
    """
    buffer, image = io.BytesIO(), Image.fromarray(pixels)
    if most_side:
        image.thumbnail((most_side, most_side), Image.Resampling.LANCZOS)
    image.save(buffer, how.name, **_OPTIONS[how.name](how.quality))
    return buffer.getvalue()


def size_of(data: bytes) -> tuple[int, int]:
    """Returns height and width, in pixels, of what `compress` made, by its header."""
    with Image.open(io.BytesIO(data)) as image:
        return image.height, image.width


_OPTIONS: dict[str, Callable[[int], dict[str, int]]] = {
    "jpeg": lambda quality: {"quality": quality, "subsampling": 0},
    "png": lambda _: {},
    "webp": lambda quality: {"quality": quality},
}
