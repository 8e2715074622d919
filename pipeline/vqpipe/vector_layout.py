"""Vectors of one image that stand beside its codes, or instead of them: said once, like a layout.

    latents    what the encoder says, before the look-up in the codebook
    quantized  what the codes stand for: what the decoder takes

Either is one flat list of numbers in any case, of a shape that is told here and in the column
itself. bfloat16, which Parquet does not know, is stored as the 16 bits that a number has in it: the
upper half of the float32 that is that number.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

Vectors = Literal["latents", "quantized"]
"""Name of the column as well."""
VectorDType = Literal["float16", "bfloat16", "float32"]
AskedVectors = Literal["pre", "quantized", "both"]
"""As an operator says it."""

LATENTS: Vectors = "latents"
QUANTIZED: Vectors = "quantized"
ASKED: dict[AskedVectors, tuple[Vectors, ...]] = {
    "pre": (LATENTS,),
    "quantized": (QUANTIZED,),
    "both": (LATENTS, QUANTIZED),
}
COLUMNS = ASKED["both"]
"""All that there may be, in order."""

_MEANINGS: dict[Vectors, str] = {
    LATENTS: "what the encoder says, before the look-up in the codebook",
    QUANTIZED: "what the codes stand for, which the decoder takes",
}
_AXES = {2: "channels, codes", 3: "channels, rows, columns"}
_NOTE = "bits of bfloat16: shifted up by 16, they are those of a float32"


@dataclass(frozen=True)
class VectorLayout:
    """What a column of vectors holds."""

    name: Vectors
    shape: tuple[int | str, ...]
    """Of an image's: (C, h, w), or (C, n) where its codes are a sequence; row-major. Where images
    differ, the names of the columns that say it: (C, "grid_h", "grid_w")."""
    dtype: VectorDType

    @classmethod
    def read(cls, name: Vectors, said: Mapping[str, Any]) -> Self:
        """Returns what `document` wrote."""
        return cls(name, tuple(said["shape"]), said["dtype"])

    def document(self) -> dict[str, Any]:
        """Returns it as JSON has it."""
        return {
            "shape": list(self.shape),
            "axes": self.axes,
            "dtype": self.dtype,
            "stored_as": self.stored_as,
        }

    def metadata(self) -> dict[str, str]:
        """Returns what the column says of itself."""
        said = {**self.document(), "shape": json.dumps(self.shape)}
        note = {"note": _NOTE} if self.dtype == "bfloat16" else {}
        return {"holds": self.meaning, **said, **note}

    @property
    def meaning(self) -> str:
        """What the numbers are, in words."""
        return _MEANINGS[self.name]

    @property
    def axes(self) -> str:
        """What the numbers of `shape` count, in words."""
        return _AXES[len(self.shape)]

    @property
    def stored_as(self) -> str:
        """Type of the numbers in Parquet."""
        return "uint16" if self.dtype == "bfloat16" else self.dtype

    @property
    def length(self) -> int | None:
        """Numbers of an image; None where images differ."""
        sides = [side for side in self.shape if isinstance(side, int)]
        return math.prod(sides) if len(sides) == len(self.shape) else None

    def describe(self) -> str:
        """Returns what it looks like, in words, for a line of a table."""
        return f"{self.name} ({', '.join(map(str, self.shape))}), {self.dtype}"


def document_of(vectors: Iterable[VectorLayout]) -> dict[str, Any] | None:
    """Returns what `run.json` and footers say of all columns of vectors; None if there are none."""
    return {each.name: each.document() for each in vectors} or None


def read_document(said: Mapping[str, Any] | None) -> tuple[VectorLayout, ...]:
    """Returns what `document_of` wrote, in the order of the columns."""
    known = said or {}
    return tuple(VectorLayout.read(name, known[name]) for name in COLUMNS if name in known)


def is_bfloat16(metadata: Mapping[bytes, bytes] | None) -> bool:
    """Tells whether a column says of its numbers of 16 bits that they are bits of bfloat16."""
    return (metadata or {}).get(b"dtype") == b"bfloat16"
