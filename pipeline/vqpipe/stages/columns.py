"""Columns of a table to arrays and back, without copies where that can be."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vqpipe import schema
from vqpipe.rejections import LeftOut, Rejection, words_of

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Places = npt.NDArray[np.integer]


def put_rejections(
    table: pa.Table, found: Sequence[Rejection | LeftOut | None]
) -> dict[str, pa.Array | pa.ChunkedArray]:
    """Returns the columns `reason` and `message` with what was newly found in them."""
    if not any(found):
        return {name: table[name] for name in ("reason", "message")}
    reasons, messages = table["reason"].to_pylist(), table["message"].to_pylist()
    for i, rejection in enumerate(found):
        if rejection is not None:
            reasons[i], messages[i] = words_of(rejection)
    return {"reason": pa.array(reasons, pa.string()), "message": pa.array(messages, pa.string())}


def all_but(table: pa.Table, *names: str) -> dict[str, pa.ChunkedArray]:
    """Returns the columns of a table by name, without some of them."""
    return {name: table[name] for name in table.column_names if name not in names}


def images_by_shape(table: pa.Table) -> Iterator[tuple[Places, Pixels]]:
    """Yields the images of rows that have any, those of one shape together.

    Yields:
        Places of the rows (n,), in order, and their pixels (n, H, W, 3): no copy if they lie one
        behind the other, as those of a table do that are all of one shape.
    """
    column = table["pixels"]
    # pyarrow 26 copies all pixels of even one chunk when it combines them
    pixels = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    places = np.flatnonzero(np.asarray(pixels.is_valid()))
    heights, widths = (table[each.name].to_numpy()[places] for each in schema.PIXELS[1:])
    for height, width in sorted(set(zip(heights.tolist(), widths.tolist(), strict=True))):
        rows = places[(heights == height) & (widths == width)]
        yield rows, _images(pixels, rows, (int(height), int(width), 3))


def _images(pixels: pa.LargeBinaryArray, rows: Places, shape: tuple[int, int, int]) -> Pixels:
    """Returns the images of some rows (n, *shape)."""
    _, ends, data = pixels.buffers()
    starts = np.frombuffer(ends, np.int64)[pixels.offset + rows]
    size = int(np.prod(shape))
    flat = np.frombuffer(data, np.uint8)
    if (np.diff(starts) == size).all():
        return flat[starts[0] : starts[0] + size * len(rows)].reshape(-1, *shape)
    return np.stack([flat[start : start + size] for start in starts]).reshape(-1, *shape)


def pixels_of(table: pa.Table, column: str = "pixels") -> Iterator[Pixels | None]:
    """Yields the pixels (H, W, 3) of every row, or of another column of as many; None for null."""
    sides = (table[each.name].to_pylist() for each in schema.PIXELS[1:])
    for value, *size in zip(table[column], *sides, strict=True):
        flat = np.frombuffer(value.as_buffer(), np.uint8) if value.is_valid else None
        yield None if flat is None else flat.reshape(*size, 3)


def pixel_columns(
    buffer: pa.Buffer, shapes: npt.NDArray[np.integer], has_pixels: Mask
) -> dict[str, pa.Array]:
    """Returns `schema.PIXELS` of rows whose pixels lie one behind the other, without a copy.

    Args:
        buffer: The pixels, HWC uint8.
        shapes: (N, 2) height and width of each; 0 of rows without any.
        has_pixels: (N,) in which rows some are.
    """
    lengths = 3 * shapes.astype(np.int64).prod(1)
    ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    found = [bitmap_of(has_pixels), pa.py_buffer(ends), buffer]
    pixels = pa.Array.from_buffers(pa.large_binary(), len(has_pixels), found)
    sides = zip(schema.PIXELS[1:], shapes.T, strict=True)
    named = {each.name: pa.array(side, each.type, mask=~has_pixels) for each, side in sides}
    return {"pixels": pixels, **named}


def size_columns(sizes: Sequence[tuple[int, int] | None]) -> dict[str, pa.Array]:
    """Returns height and width of the pixels in each row as columns."""
    sides = [size or (None, None) for size in sizes]
    return {
        field.name: pa.array([each[axis] for each in sides], field.type)
        for axis, field in enumerate(schema.PIXELS[1:])
    }


def lists_of(
    values: npt.NDArray[np.generic], valid: npt.NDArray[np.bool_], kind: pa.DataType
) -> pa.Array:
    """Returns numbers (N, n) as a column of lists of a fixed size, null where not `valid` (N,)."""
    items = pa.array(values.ravel(), kind.value_type)
    return pa.Array.from_buffers(kind, len(values), [bitmap_of(valid)], children=[items])


def scattered(
    groups: Sequence[tuple[Places, npt.NDArray[Any]]], good: Mask, kind: pa.DataType
) -> pa.Array:
    """Returns numbers as a column of lists, null where not `good` (N,).

    Args:
        groups: Places of rows (n,), and the numbers of each (n, ...), as many for all of a group.
        good: (N,) which rows have any.
        kind: Lists, of a fixed size or not.
    """
    is_fixed = pa.types.is_fixed_size_list(kind)
    lengths = np.full(len(good), kind.list_size if is_fixed else 0)
    for rows, found in groups:
        lengths[rows] = np.where(good[rows], found[0].size if len(found) else 0, lengths[rows])
    ends = np.concatenate([[0], np.cumsum(lengths)])
    flat = np.zeros(ends[-1], kind.value_type.to_pandas_dtype())
    for rows, found in groups:
        values = found.reshape(len(found), -1)[good[rows]]
        flat[ends[rows[good[rows]]][:, None] + np.arange(values.shape[1])] = values
    if is_fixed:
        return lists_of(flat.reshape(len(good), kind.list_size), good, kind)
    items, offsets = pa.array(flat, kind.value_type), pa.py_buffer(ends.astype(np.int32))
    return pa.Array.from_buffers(kind, len(good), [bitmap_of(good), offsets], children=[items])


def bitmap_of(valid: npt.NDArray[np.bool_]) -> pa.Buffer:
    """Returns a mask (N,) as Arrow has it: a bit a row."""
    return pa.py_buffer(np.packbits(valid, bitorder="little"))
