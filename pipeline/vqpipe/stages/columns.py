"""Columns of a table to arrays and back, without copies where that can be."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vqpipe.rejections import Rejection


def put_rejections(table: pa.Table, found: Sequence[Rejection | None]) -> dict[str, pa.Array]:
    """Returns the columns `reason` and `message` with newly found rejections in them."""
    reasons, messages = table["reason"].to_pylist(), table["message"].to_pylist()
    for i, rejection in enumerate(found):
        if rejection is not None:
            reasons[i], messages[i] = rejection.reason.value, rejection.message
    return {"reason": pa.array(reasons, pa.string()), "message": pa.array(messages, pa.string())}


def all_but(table: pa.Table, *names: str) -> dict[str, pa.ChunkedArray]:
    """Returns the columns of a table by name, without some of them."""
    return {name: table[name] for name in table.column_names if name not in names}


def images_of(column: pa.FixedSizeBinaryArray) -> npt.NDArray[np.uint8]:
    """Returns fixed-size binary as (N, R, R, 3) uint8, without a copy."""
    width = column.type.byte_width
    rows = column.buffers()[1].slice(column.offset * width, len(column) * width)
    return as_images(rows, len(column), round((width // 3) ** 0.5))


def as_images(buffer: pa.Buffer, count: int, side: int) -> npt.NDArray[np.uint8]:
    """Returns the bytes of images as (count, side, side, 3) uint8, without a copy."""
    return np.frombuffer(buffer, np.uint8).reshape(count, side, side, 3)


def lists_of(
    values: npt.NDArray[np.generic], valid: npt.NDArray[np.bool_], kind: pa.DataType
) -> pa.Array:
    """Returns numbers (N, n) as a column of lists of a fixed size, null where not `valid` (N,)."""
    items = pa.array(values.ravel(), kind.value_type)
    return pa.Array.from_buffers(kind, len(values), [bitmap_of(valid)], children=[items])


def bitmap_of(valid: npt.NDArray[np.bool_]) -> pa.Buffer:
    """Returns a mask (N,) as Arrow has it: a bit a row."""
    return pa.py_buffer(np.packbits(valid, bitorder="little"))
