"""How pixels become codes, in words and numbers that need no torch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

DType = Literal["float32", "tf32", "bfloat16", "float16"]
PixelRange = Literal["signed", "unit"]
AskedRange = Literal["auto", "signed", "unit"]
"""A range as an operator says it: `auto` has it found."""
Images = npt.NDArray[np.uint8]
"""(N, H, W, 3) RGB."""
Codes = npt.NDArray[np.int64]
"""(N, h, w), 0 <= code < codebook size."""
Mask = npt.NDArray[np.bool_]
"""(N,)."""
OnBatch = Callable[[int], None]
"""Told how many items each finished batch held."""
BATCH_SIZE = {"cuda": 64, "cpu": 1}
"""Images in one forward: on a GPU by default, on a CPU always."""


def batch_size_for(kind: str, shapes: int) -> int:
    """Returns how many images are in one forward by default.

    Images of one shape fill batches of their own, and the last of each is padded, on average by
    half: so where shapes are many, batches are small, and padding is a tenth.

    Args:
        kind: Of the device, `cuda` or `cpu`.
        shapes: That images may have.
    """
    if kind == "cpu" or shapes == 1:
        return BATCH_SIZE[kind]
    return next(size for size, most in _OF_SHAPES if shapes <= most)


_OF_SHAPES = ((16, 16), (8, 40), (4, 10**6))
"""Images in one forward, for so many shapes at most."""
SCALE_SHIFT: dict[PixelRange, tuple[float, float]] = {"signed": (2.0, -1.0), "unit": (1.0, 0.0)}
"""What takes [0, 1] to the range that the network was trained on."""


@dataclass(frozen=True, kw_only=True)
class CodecConfig:
    """How pixels become codes; every field changes some codes."""

    dtype: DType = "float32"
    """Arithmetic of the network. `tf32` is float32 with products of 10-bit mantissas on GPUs that
    can; elsewhere it is float32."""
    pixel_range: PixelRange = "signed"
    """What the network was trained on: [-1, 1] or [0, 1]."""
    eager: bool = False
    """Whether a GPU, as a CPU always does, runs the network's kernels one by one. Those that
    `torch.compile` fuses for it are faster and round less often."""


Device = Literal["auto", "cpu", "cuda"]
AUDIT_SHARE = 1 / 1000
"""Share of the images that is looked at twice (`stages.audit`) unless told otherwise. Float32 takes
a GPU some ten times as long as bfloat16, and decoding twice as long as encoding: together, a
hundredth of its time."""
