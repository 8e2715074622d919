"""What a view is, and how images become views: how many, how large, and where each is cut.

Only this says so, with `shapes` and `crops`. Elsewhere a view is what it says of itself: its pixels
of whatever height and width, its number among the views of its image, its crop, and whether it is
flipped. `resize` does what is said here.
"""

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from vqpipe.images import crops
from vqpipe.images.crops import MOST_VIEWS, Drawing, Draws, Kind, Size, Spot
from vqpipe.images.frame import RESIZES, Crop, Cut, Frame, Resize, cuts_last
from vqpipe.images.shapes import Shape, find_bucket, find_inside
from vqpipe.images.sizes import holds
from vqpipe.rejections import LeftOut, Rejection

RESAMPLE = {
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "bilinear": Image.Resampling.BILINEAR,
    "box": Image.Resampling.BOX,
}
Flip = Literal["none", "both", "random"]
_LONG = 16
"""Proportions up to which any image may be resized to cover a view, whatever `max_pixels` is."""

Pixels = npt.NDArray[np.uint8]


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
    def size(self) -> Shape:
        """Height and width of the view, in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]


Views = tuple[View, ...]
"""Of one image, all of one shape."""
Opened = Views | Rejection | LeftOut | None
"""What becomes of an image: as many views as `Preprocess` says; None of none."""


@dataclass(frozen=True)
class Preprocess:
    """How images become views; the same for every image of a run."""

    shapes: tuple[Shape, ...]
    """Height and width that views may have, in pixels, from 1; an image's have one of them."""
    resample: str = "bicubic"
    """A filter of `RESAMPLE`, all antialiased by Pillow."""
    background: tuple[int, int, int] = (255, 255, 255)
    """RGB, 0..255, under transparent pixels."""
    max_pixels: int = 100_000_000
    """Images of more pixels, by their header, are rejected without being decompressed."""
    draft: bool = False
    """Whether large JPEGs are decoded at a part of their size (`draft`), where a view still has
    half the pixels along a side, or fewer: faster, and a little different."""
    resize: Resize = "one-step"
    kinds: tuple[str, ...] = ("center",)
    """Which views there are, one kind after the other (`crops`)."""
    flip: Flip = "none"
    """Whether each is there flipped as well, or is flipped or not by its lot. The first of a kind
    that is drawn at random never is by lot."""
    seed: int = 0
    """Of what is drawn."""
    inside: bool = False
    """Whether the shape of an image is that of all of it inside a square (`shapes.parse_fit`)."""
    area: tuple[float, float] = (0.08, 1.0)
    """Least and most of the image's area, of random-resized."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Least and most of width by height, as a multiple of the view's own, of random-resized."""
    where: tuple[str, ...] = ()
    """Conditions of width and height (`conditions`) without which an image is left out."""

    def __post_init__(self) -> None:
        if not self.shapes or min(map(min, self.shapes)) < 1:
            raise ValueError(f"shapes must be at least 1 x 1, and some, not {self.shapes}")
        if self.resample not in RESAMPLE:
            raise ValueError(f"resample must be one of {', '.join(RESAMPLE)}, not {self.resample}")
        if len(self.background) != 3 or not all(0 <= level <= 255 for level in self.background):
            raise ValueError(f"background must be three levels of 0..255, not {self.background}")
        if self.max_pixels < 1:
            raise ValueError(f"max_pixels must be at least 1, not {self.max_pixels}")
        _check_views(self)

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> Self:
        """Returns what `document` wrote, from JSON."""
        return cls(**{name: _frozen(value) for name, value in said.items()})

    def document(self) -> dict[str, Any]:
        """Returns it as JSON has it."""
        return asdict(self)

    @functools.cached_property
    def views(self) -> int:
        """How many views every image has, each of them a row."""
        return sum(kind.count for kind in self._kinds) * (2 if self.flip == "both" else 1)

    @functools.cached_property
    def view_bytes(self) -> int:
        """Bytes of the largest view."""
        return 3 * max(height * width for height, width in self.shapes)

    @functools.cached_property
    def draws(self) -> bool:
        """Whether anything of a view is drawn, so that lots of images matter."""
        return self.flip == "random" or any(kind.is_random for kind in self._kinds)

    @functools.cached_property
    def _kinds(self) -> tuple[Kind, ...]:
        return tuple(map(crops.parse_kind, self.kinds))

    def find_unmet(self, width: int, height: int) -> LeftOut | None:
        """Returns why an image of a size is left out; None if it is not."""
        unmet = (each for each in self.where if not holds(each, width, height))
        return next(map(LeftOut, unmet), None)

    @functools.cached_property
    def canvas_pixels(self) -> int:
        """Most pixels of an image, and of what it is resized to before it is cut."""
        scale = max(kind.scale for kind in self._kinds) if cuts_last(self.resize) else 0
        most = max(int(height * scale) * int(width * scale) for height, width in self.shapes)
        return max(self.max_pixels, _LONG * most)

    def canvas_of(self, width: int, height: int) -> Size:
        """Returns width and height of the largest that an image of a size is resized to.

        Only to be cut, that is: the views themselves do not count.
        """
        shape = self.shape_of(width, height)
        frames = (Frame.of(self.resize, kind, shape, (width, height)) for kind in self._kinds)
        return max((frame.canvas for frame in frames), key=math.prod)

    def shape_of(self, width: int, height: int) -> Shape:
        """Returns height and width of the views of an image of a size."""
        if len(self.shapes) == 1:
            return self.shapes[0]
        find = find_inside if self.inside else find_bucket
        return find(self.shapes, width, height)

    def cuts(self, width: int, height: int, lot: int = 0) -> tuple[Cut, ...]:
        """Returns how the views of an image of that size are cut, in order of their numbers.

        The one in the centre has the proportions of its shape, and is the largest with whole pixel
        coordinates: of a square, `(width - side) // 2` from the left.

        Args:
            width: Pixels of the upright image.
            height: Pixels of the upright image.
            lot: The image's (`crops.lot_of`), if anything is drawn.
        """
        shape, first, found = self.shape_of(width, height), 0, list[Cut]()
        for kind in self._kinds:
            frame = Frame.of(self.resize, kind, shape, (width, height))
            drawing = Drawing(lot, first, shape[1] / shape[0], self.area, self.ratio)
            for number, spot in enumerate(crops.spots_of(kind, frame.field, frame.size, drawing)):
                flips = self._flips(spot, Draws(lot, first + number, b"flip"))
                found += [frame.cut(spot.box, (width, height), flip=flip) for flip in flips]
            first += kind.count
        return tuple(found)

    def _flips(self, spot: Spot, draws: Draws) -> tuple[bool, ...]:
        """Returns whether a view at a spot is flipped; there are two of it if both is asked for."""
        if self.flip == "both":
            return (False, True)
        if self.flip == "random" and not spot.is_first:
            return (draws.uniform() < 0.5,)
        return (spot.flip,)


def _check_views(how: Preprocess) -> None:
    """Checks that kinds of views, flips and the resize go together."""
    if how.resize not in RESIZES:
        raise ValueError(f"resize must be one of {', '.join(RESIZES)}, not {how.resize}")
    if how.inside and how.resize != "squash":
        raise ValueError(f"only squash has the whole image in a view, and resize is {how.resize}")
    names = {crops.parse_kind(word).name for word in how.kinds}
    for is_wrong, said in _contradictions(how, names):
        if is_wrong:
            raise ValueError(said)
    if not 1 <= how.views <= MOST_VIEWS:
        raise ValueError(f"{how.views:,} views of an image are not in 1 to {MOST_VIEWS}")
    for name in ("area", "ratio"):
        least, most = getattr(how, name)
        if not 0 < least <= most or (name == "area" and most > 1):
            raise ValueError(f"{name} must be two shares, the smaller first, not {least}, {most}")


def _contradictions(how: Preprocess, names: set[str]) -> Iterator[tuple[bool, str]]:
    """Yields what does not go together, and whether it is asked for."""
    yield (
        how.resize == "squash" and names != {"center"},
        f"a whole image has one view, center, and not {', '.join(how.kinds)}",
    )
    yield (
        cuts_last(how.resize) and "random-resized" in names,
        f"random-resized cuts before it resizes, and {how.resize} resizes before it cuts",
    )
    yield (
        how.flip != "none" and "ten-crop" in names,
        f"ten-crop has flipped views of its own, and flip is {how.flip}",
    )
    yield (
        how.draft and how.resize not in {"one-step", "squash"},
        f"draft decodes JPEGs smaller, and {how.resize} needs them whole",
    )


def _frozen(value: Any) -> Any:  # noqa: ANN401 (whatever JSON holds)
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
