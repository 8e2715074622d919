"""What the codes of one image are: said once, in `run.json` and in every footer.

`codes` is one flat list in any case. A layout says how to read it:

    grid       one grid of codes, row by row; shapes [[h, w]]
    sequence   codes in a row, each of which is about the whole image; shapes [[n]]
    stacked    a grid with several codes at each place, side by side; shapes [[h, w, d]]
    scales     grids, from the coarsest to the finest, each of which adds to those before;
               shapes [[h1, w1], [h2, w2], ...]
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

Kind = Literal["grid", "sequence", "stacked", "scales"]

_ORDERS: dict[Kind, str] = {
    "grid": "row-major",
    "sequence": "in sequence",
    "stacked": "row-major, the codes of a place side by side",
    "scales": "from coarse to fine, each row-major",
}


@dataclass(frozen=True)
class CodeLayout:
    """How the codes of an image lie in their list, and what they are codes of."""

    kind: Kind
    shapes: tuple[tuple[int, ...], ...]
    """Of each part, one behind the other; all parts but those of `scales` are one."""
    codebooks: tuple[int, ...]
    """Entries of each codebook: one that all codes share, or of `stacked` one for each code of a
    place."""

    @classmethod
    def grid(cls, height: int, width: int, codebook_size: int) -> "CodeLayout":
        """Returns the layout of a grid of so many rows and columns."""
        return cls("grid", ((height, width),), (codebook_size,))

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
    def length(self) -> int:
        """Codes of an image."""
        return sum(map(math.prod, self.shapes))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array that an image's codes are; `scales` are flat, being of several sizes."""
        return self.shapes[0] if len(self.shapes) == 1 else (self.length,)

    @property
    def codebook_size(self) -> int:
        """Entries of the largest codebook: codes are from 0 to below it."""
        return max(self.codebooks)

    @property
    def bits(self) -> int:
        """Of a code."""
        return max(self.codebook_size - 1, 1).bit_length()

    def describe(self, times: str = " x ") -> str:
        """Returns what it looks like, in words, for a line of a table."""
        shown = [times.join(map(str, shape)) for shape in self.shapes]
        if self.kind == "sequence":
            return f"a sequence of {shown[0]}"
        if self.kind == "stacked":
            return f"{times.join(map(str, self.shapes[0][:2]))} places of {self.shapes[0][2]}"
        if self.kind == "scales":
            return f"{len(shown)} scales, {shown[0]} to {shown[-1]}"
        return shown[0]
