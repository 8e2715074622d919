"""The stages of decoding before the commit, tables in, tables out, for any engine or a plain loop.

    decode_rows    codes or latents, as bytes  ->  pixels
    compress_rows  pixels                      ->  compressed images

The rows that come in are those of `vqpipe.schema.read_schema`: `image` holds what
`vqpipe.sources.codes` found in a row, int64 codes or float32 latents, little-endian. No row is
dropped on the way: one that fails becomes a row with a reason.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vqpipe.images import ImageFormat, compress
from vqpipe.schema import Reason, Rejection
from vqpipe.stages.read import put_rejections

Decode = Callable[[npt.NDArray[Any]], tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]]
"""Codes (N, h, w) or latents (N, C, h, w) in; pixels (N, H, W, 3) and a mask (N,) out."""


@dataclass(frozen=True)
class Form:
    """What the codes or latents of one image look like."""

    grid: tuple[int, int]
    """Rows and columns."""
    codebook_size: int
    """Codes are smaller."""
    channels: int = 0
    """Of latents; 0 for codes."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(h, w) of codes, (C, h, w) of latents."""
        return (self.channels, *self.grid) if self.channels else self.grid

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the bytes that a row holds."""
        return np.dtype("<f4" if self.channels else "<i8")

    def plain(self) -> bytes:
        """Returns codes or latents that are all 0."""
        return bytes(math.prod(self.shape) * self.dtype.itemsize)

    def parse(self, data: bytes) -> npt.NDArray[Any]:
        """Returns the numbers of a row, in their shape.

        Raises:
            ValueError: If there are not as many as there must be, or a code is out of range.
        """
        found = np.frombuffer(data, self.dtype)
        expected = math.prod(self.shape)
        if len(found) != expected:
            shape = " x ".join(map(str, self.shape))
            raise ValueError(f"{len(found)} numbers, where {shape} make {expected}")
        if not self.channels and not 0 <= found.min() <= found.max() < self.codebook_size:
            outside = found[(found < 0) | (found >= self.codebook_size)]
            raise ValueError(f"code {outside[0]} is not in 0 to {self.codebook_size - 1}")
        return found.reshape(self.shape)


def decode_rows(table: pa.Table, decode: Decode, form: Form, pixel_bytes: int) -> pa.Table:
    """Replaces codes by pixels; what is no codes, or gives no finite image, becomes a rejection.

    Args:
        table: Rows as they were read.
        decode: The codec.
        form: What codes look like.
        pixel_bytes: Bytes of one image, (H, W, 3) uint8.
    """
    parsed = [_parse(value, form) for value in table["image"]]
    good = {i: each for i, each in enumerate(parsed) if isinstance(each, np.ndarray)}
    rejections = [each if isinstance(each, Rejection) else None for each in parsed]
    pixels: list[bytes | None] = [None] * len(table)
    if good:
        images, finite = decode(np.stack(list(good.values())))
        for i, image, is_finite in zip(good, images, finite, strict=True):
            pixels[i] = image.tobytes() if is_finite else None
            rejections[i] = None if is_finite else _NON_FINITE
    known = {name: table[name] for name in table.column_names if name != "image"}
    found = pa.array(pixels, pa.binary(pixel_bytes))
    return pa.table({**known, **put_rejections(table, rejections), "pixels": found})


_NON_FINITE = Rejection(Reason.NON_FINITE, "the network's pixels hold NaN or infinity")


def _parse(value: pa.Scalar, form: Form) -> npt.NDArray[Any] | Rejection | None:
    if not value.is_valid:
        return None  # rejected while reading
    try:
        return form.parse(value.as_buffer())
    except ValueError as error:
        return Rejection(Reason.BAD_CODES, str(error))


def compress_rows(table: pa.Table, how: ImageFormat, size: tuple[int, int]) -> pa.Table:
    """Replaces pixels by compressed images.

    Args:
        table: Decoded rows.
        how: The format.
        size: Height and width in pixels.
    """
    images = [
        compress(np.frombuffer(value.as_buffer(), np.uint8).reshape(*size, 3), how)
        if value.is_valid
        else None
        for value in table["pixels"]
    ]
    known = {name: table[name] for name in table.column_names if name != "pixels"}
    return pa.table({**known, "image": pa.array(images, pa.large_binary())})
