"""Where views lie in an image: the kinds that can be named, and the boxes that each has.

    center             one, in the middle
    five-crop:SCALE    the four corners, then the middle, of the central part of the image; a view
                       has 1 / SCALE of that part along each side
    ten-crop:SCALE     these, then the five of the image flipped, corners by where they are then
    random-crop:N      the middle, then N - 1 anywhere
    random-resized:N   the middle, then N - 1 of any place, size and proportions

Corners and their order are torchvision's (`FiveCrop`, `TenCrop`, `RandomCrop`, `RandomResizedCrop`
of `torchvision/transforms/transforms.py`). What is drawn at random is drawn of the image's lot, a
hash of the run's seed and the image's key, and of the view's number: so it is the same on any
machine, in any order and after any crash.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

SCALE = 1.1
"""Of five-crop and ten-crop unless they say otherwise: LlamaGen's `crop_range`."""
MOST_VIEWS = 256
"""Their numbers are uint8."""
_ATTEMPTS = 10

Box = tuple[int, int, int, int]
"""Left, top, right (exclusive), bottom (exclusive), in pixels."""
Size = tuple[int, int]
"""Width and height, in pixels."""


class Spot(NamedTuple):
    """Where a view lies on a field."""

    box: Box
    flip: bool = False
    is_first: bool = False
    """Whether it is in the middle, the first of a kind of which all others are drawn."""


class Field(NamedTuple):
    """What views are cut of: a part of the image, or of what it was resized to."""

    left: int
    top: int
    width: int
    height: int
    rounds: bool = False
    """Whether the half pixel of a middle is rounded to the even one, as torchvision does, and not
    down, as ADM does."""

    def put(self, left: int, top: int, size: Size) -> Box:
        """Returns the box of a width and height at a place, counted from the field's corner."""
        x, y = self.left + left, self.top + top
        return x, y, x + size[0], y + size[1]

    def middle(self, size: Size) -> Box:
        """Returns the box of a width and height in its middle."""
        over = self.width - size[0], self.height - size[1]
        left, top = (round(each / 2) if self.rounds else each // 2 for each in over)
        return self.put(left, top, size)

    def part(self, size: Size) -> "Field":
        """Returns the part of a width and height in its middle."""
        left, top, _, _ = self.middle(size)
        return Field(left, top, *size, self.rounds)


class Draws:
    """Numbers in [0, 1), as even as random ones, the same for the same lot, view and purpose."""

    def __init__(self, lot: int, view: int, what_for: bytes = b"") -> None:
        self._start = lot.to_bytes(8, "big") + view.to_bytes(2, "big") + what_for
        self._count = 0

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Returns the next one, scaled to [low, high)."""
        data = self._start + self._count.to_bytes(4, "big")
        self._count += 1
        drawn = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") >> 11
        return low + (high - low) * (drawn / 2**53)

    def below(self, count: int) -> int:
        """Returns the next one as a whole number of 0 to below count."""
        return min(count - 1, int(self.uniform() * count))


def lot_of(seed: int, key: str | None) -> int:
    """Returns an image's lot: 64 bits of a hash of the run's seed and its key."""
    text = f"{seed}\0{key or ''}".encode("utf-8", "surrogatepass")
    return int.from_bytes(
        hashlib.blake2b(text, digest_size=8, person=b"vqpipe lot").digest(), "big"
    )


class Drawing(NamedTuple):
    """What the views of a kind are drawn from."""

    lot: int
    """The image's."""
    first: int
    """Number of the kind's first view among those of the image, flipped ones not counted."""
    proportions: float
    """Width by height of a view."""
    area: tuple[float, float]
    """Least and most of the image's area, of random-resized."""
    ratio: tuple[float, float]
    """Least and most of width by height, as a multiple of the view's own, of random-resized."""


@dataclass(frozen=True)
class Kind:
    """One kind of views, as it is named."""

    name: str
    count: int
    scale: float = 1.0

    @property
    def is_random(self) -> bool:
        """Whether all but the first are drawn."""
        return self.name.startswith("random-")


_COUNTS = {"center": 1, "five-crop": 5, "ten-crop": 10}


def parse_kind(word: str) -> Kind:
    """Returns the kind of views that a word names.

    Raises:
        ValueError: If it names none; says which there are.
    """
    name, colon, said = word.partition(":")
    try:
        if name in {"random-crop", "random-resized"} and 1 <= int(said) <= MOST_VIEWS:
            return Kind(name, int(said))
        if name in {"five-crop", "ten-crop"} and 1 <= (scale := float(said or SCALE)) <= 16:
            return Kind(name, _COUNTS[name], scale)
        if word == "center" and not colon:
            return Kind(name, 1)
    except ValueError:
        pass
    raise ValueError(
        f"{word!r} names no views; there are center, five-crop, ten-crop (with five-crop:1.25, the "
        "part that they are cut of has 1.25 times their side), random-crop:N and random-resized:N"
    )


def spots_of(kind: Kind, field: Field, size: Size, drawing: Drawing) -> Iterator[Spot]:
    """Yields where the views of a kind lie, in order.

    Args:
        kind: The kind.
        field: What they are cut of.
        size: Width and height of each; those of random-resized have others.
        drawing: What is drawn from.
    """
    if kind.name in {"five-crop", "ten-crop"}:
        yield from _corners(field, size, flipped=False)
    if kind.name == "ten-crop":
        yield from _corners(field, size, flipped=True)
    if kind.name in {"five-crop", "ten-crop"}:
        return
    yield Spot(field.middle(size), is_first=kind.is_random)
    for number in range(1, kind.count):
        draws = Draws(drawing.lot, drawing.first + number)
        if kind.name == "random-crop":
            yield Spot(_anywhere(field, size, draws))
        else:
            yield Spot(_resized(field, drawing, draws))


def _corners(field: Field, size: Size, *, flipped: bool) -> Iterator[Spot]:
    """Yields five-crop's spots; boxes are in the field as it is, corners those of it flipped."""
    right, bottom = field.width - size[0], field.height - size[1]
    middle = round(right / 2), round(bottom / 2)
    for left, top in ((0, 0), (right, 0), (0, bottom), (right, bottom), middle):
        yield Spot(field.put(right - left if flipped else left, top, size), flipped)


def _anywhere(field: Field, size: Size, draws: Draws) -> Box:
    """Returns a box of a width and height, drawn."""
    top = draws.below(field.height - size[1] + 1)
    return field.put(draws.below(field.width - size[0] + 1), top, size)


def _resized(field: Field, drawing: Drawing, draws: Draws) -> Box:
    """Returns a box of random-resized: ten attempts at one that fits, else the largest there is."""
    least, most = (limit * drawing.proportions for limit in drawing.ratio)
    for _ in range(_ATTEMPTS):
        area = field.width * field.height * draws.uniform(*drawing.area)
        ratio = math.exp(draws.uniform(math.log(least), math.log(most)))
        size = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < size[0] <= field.width and 0 < size[1] <= field.height:
            return _anywhere(field, size, draws)
    ratio = min(max(field.width / field.height, least), most)
    across = max(1, min(field.width, round(field.height * ratio)))
    down = max(1, min(field.height, round(field.width / ratio)))
    return field.middle((across, down))
