"""Latents and quantized vectors of encoded images, as columns beside their codes.

They come as the codec has rounded them, for images of one shape at a time. What the type of a
column cannot hold has become infinity there, and is no value: such an image is rejected, and told
which type to take.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vqpipe.rejections import Reason, Rejection
from vqpipe.stages.columns import Mask, Places, bitmap_of, lists_of
from vqpipe.vector_layout import VectorDType, is_bfloat16

Vectors = npt.NDArray[Any]
"""(n, C, ...) float16, float32, or uint16, which are bits of bfloat16."""

_EXPONENT = {"float16": 0x7C00, "bfloat16": 0x7F80}
"""Bits that are all set in infinity and NaN, and in nothing else."""
_MOST = {"float16": "65,504", "bfloat16": "3.39e38"}
_WIDER = {"float16": "bfloat16 or float32", "bfloat16": "float32"}


class VectorColumns:
    """Vectors of a table's images while these are encoded.

    Args:
        fields: The columns: lists of numbers, of a fixed or a variable length.
        rows: Of the table.
    """

    def __init__(self, fields: Sequence[pa.Field], rows: int) -> None:
        self._fields = fields
        self._found: list[tuple[Places, Sequence[Vectors]]] = []
        self.faults: list[Rejection | None] = [None] * rows
        """Of images whose vectors are too large for the type of their column."""

    def put(self, rows: Places, finite: Mask, vectors: Sequence[Vectors]) -> Mask:
        """Takes vectors of images of one shape; returns which of them have all of theirs.

        Args:
            rows: Places of the images in the table (n,).
            finite: Which of them have finite latents, before any rounding.
            vectors: For each column, in order (n, C, ...).
        """
        self._found.append((rows, vectors))
        good = finite.copy()
        for field, found in zip(self._fields, vectors, strict=True):
            dtype = _dtype_of(field)
            held = good if dtype == "float32" else good & are_finite(found, dtype)
            for row in rows[good & ~held]:
                self.faults[row] = _too_large(field.name, dtype)
            good = held
        return good

    def columns(self, good: Mask) -> dict[str, pa.Array]:
        """Returns the columns by name, null where not `good` (N,)."""
        return {
            field.name: _column(field.type, [(rows, each[i]) for rows, each in self._found], good)
            for i, field in enumerate(self._fields)
        }


def are_finite(vectors: Vectors, dtype: VectorDType) -> Mask:
    """Returns which rows (N,) of vectors (N, ...), of such numbers, hold neither NaN nor inf."""
    if dtype == "float32":
        held: Mask = np.isfinite(vectors)
    else:
        exponent = _EXPONENT[dtype]
        held = (vectors.view(np.uint16) & exponent) != exponent
    found: Mask = np.logical_and.reduce(held.reshape(len(vectors), -1), axis=1)
    return found


def to_float32(vectors: Vectors, dtype: VectorDType) -> npt.NDArray[np.float32]:
    """Returns the numbers that vectors of a type stand for."""
    if dtype == "bfloat16":
        return (vectors.astype(np.uint32) << 16).view(np.float32)
    return vectors.astype(np.float32)


def _dtype_of(field: pa.Field) -> VectorDType:
    if is_bfloat16(field.metadata):
        return "bfloat16"
    return "float16" if pa.types.is_float16(field.type.value_type) else "float32"


def _too_large(name: str, dtype: VectorDType) -> Rejection:
    message = (
        f"{dtype} holds numbers up to {_MOST[dtype]}, and the {name} of this image have larger "
        f"ones: encode with --latents-dtype {_WIDER[dtype]}, into another sink"
    )
    return Rejection(Reason.NON_FINITE, message)


def _column(kind: pa.DataType, found: list[tuple[Places, Vectors]], good: Mask) -> pa.Array:
    """Returns a column of lists (N,) of vectors (n, C, ...) of some rows each."""
    lengths = np.zeros(len(good), np.int64)
    for rows, vectors in found:
        lengths[rows] = vectors[0].size if len(vectors) else 0
    if pa.types.is_fixed_size_list(kind):
        lengths[:] = kind.list_size
    ends = np.concatenate([[0], np.cumsum(lengths)])
    flat = np.zeros(ends[-1], kind.value_type.to_pandas_dtype())
    for rows, vectors in found:
        for row, each in zip(rows, vectors, strict=True):
            flat[ends[row] : ends[row + 1]] = each.ravel()
    if pa.types.is_fixed_size_list(kind):
        return lists_of(flat.reshape(len(good), kind.list_size), good, kind)
    offsets = pa.py_buffer(ends.astype(np.int64 if pa.types.is_large_list(kind) else np.int32))
    items = pa.array(flat, kind.value_type)
    return pa.Array.from_buffers(kind, len(good), [bitmap_of(good), offsets], children=[items])
