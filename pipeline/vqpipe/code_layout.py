"""What the codes of one image are: said once, in `run.json` and in every footer.

`codes` is one flat list in any case. A layout says how to read it:

    grid       one grid of codes, row by row; shapes [[h, w]]
    sequence   codes in a row, each of which is about the whole image; shapes [[n]]
    stacked    a grid with several codes at each place, side by side; shapes [[h, w, d]]
    scales     grids, from the coarsest to the finest, each of which adds to those before;
               shapes [[h1, w1], [h2, w2], ...]
    grids      images differ: each has a grid, or a stack, of one of these shapes, and `grid_h` and
               `grid_w` of its row say which; shapes [[h1, w1], [h2, w2], ...] or with d behind
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

Kind = Literal["grid", "sequence", "stacked", "scales", "grids"]

_ORDERS: dict[Kind, str] = {
    "grid": "row-major",
    "sequence": "in sequence",
    "stacked": "row-major, the codes of a place side by side",
    "scales": "from coarse to fine, each row-major",
    "grids": "row-major",
}


@dataclass(frozen=True)
class CodeLayout:
    """How the codes of an image lie in their list, and what they are codes of."""

    kind: Kind
    shapes: tuple[tuple[int, ...], ...]
    """Of each part, one behind the other; all but `scales` and `grids` have one. Of `grids`, those
    that an image may have."""
    codebooks: tuple[int, ...]
    """Entries of each codebook: one that all codes share, or of `stacked` one for each code of a
    place."""

    @classmethod
    def grid(cls, height: int, width: int, codebook_size: int) -> "CodeLayout":
        """Returns the layout of a grid of so many rows and columns."""
        return cls("grid", ((height, width),), (codebook_size,))

    @classmethod
    def grids(cls, layouts: Sequence["CodeLayout"]) -> "CodeLayout":
        """Returns the layout of images of which each has one of several grids, or stacks."""
        shapes = {each.shapes[0] for each in layouts}
        return cls("grids", tuple(sorted(shapes)), layouts[0].codebooks)

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> Self:
        """Returns what `document` wrote."""
        return cls(said["kind"], tuple(map(tuple, said["shapes"])), tuple(said["codebooks"]))

    def document(self) -> dict[str, Any]:
        """Returns it as JSON has it."""
        return {
            "kind": self.kind,
            "shapes": [list(shape) for shape in self.shapes],
            "order": self.order,
            "codebooks": list(self.codebooks),
            "bits": self.bits,
        }

    @property
    def order(self) -> str:
        """In which codes follow each other, in words."""
        return _ORDERS[self.kind]

    @property
    def differs(self) -> bool:
        """Whether images differ in the number of their codes, or in the shape of their grids."""
        return self.kind == "grids"

    @property
    def length(self) -> int:
        """Codes of an image; where images differ, the most that one may have."""
        lengths = map(math.prod, self.shapes)
        return max(lengths) if self.differs else sum(lengths)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array that an image's codes are; `scales` are flat, being of several sizes.

        Where images differ, `shape_of` says it of one.
        """
        assert not self.differs, "images have no shape in common"
        return self.shapes[0] if len(self.shapes) == 1 else (self.length,)

    def shape_of(self, rows: int, columns: int) -> tuple[int, ...] | None:
        """Returns the shape of the codes of an image that has a grid of so many places.

        None if there is no such one. Where images do not differ, all have the same.
        """
        if not self.differs:
            return self.shape
        return next((each for each in self.shapes if each[:2] == (rows, columns)), None)

    @property
    def codebook_size(self) -> int:
        """Entries of the largest codebook: codes are from 0 to below it."""
        return max(self.codebooks)

    @property
    def bits(self) -> int:
        """Of a code."""
        return max(self.codebook_size - 1, 1).bit_length()

    @property
    def count(self) -> str:
        """How many codes an image has, in words."""
        least = min(map(math.prod, self.shapes))
        is_one = not self.differs or least == self.length
        return f"{self.length:,}" if is_one else f"{least:,} to {self.length:,}"

    def describe(self, times: str = " x ") -> str:
        """Returns what it looks like, in words, for a line of a table."""
        shown = [times.join(map(str, shape)) for shape in self.shapes]
        if self.kind == "sequence":
            return f"a sequence of {shown[0]}"
        if self.kind == "stacked":
            return f"{times.join(map(str, self.shapes[0][:2]))} places of {self.shapes[0][2]}"
        if self.differs:
            return f"{len(shown):,} grids, {shown[0]} to {shown[-1]}"
        if self.kind == "scales":
            return f"{len(shown)} scales, {shown[0]} to {shown[-1]}"
        return shown[0]
