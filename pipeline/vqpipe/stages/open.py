"""Compressed images to uint8 views: what comes between a stage's reader and its codec."""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vqpipe import schema
from vqpipe.images import Compressed, OpenedImages, Preprocess, open_images
from vqpipe.images.compressed import NO_IMAGE
from vqpipe.stages.columns import Mask, all_but, lists_of, pixel_columns, put_rejections

Opener = Callable[[Compressed, Preprocess], OpenedImages]
"""`vqpipe.images.open_images` or one like it."""


def open_rows(table: pa.Table, how: Preprocess, opener: Opener = open_images) -> pa.Table:
    """Opens compressed images, and replaces them by uint8 views (`put_views`).

    Args:
        table: Rows as they were read.
        how: How images become views.
        opener: What opens them: here, or in a process of their own.
    """
    return put_views(table, how, opener(compressed_of(table["image"]), how))


def put_views(table: pa.Table, how: Preprocess, opened: OpenedImages) -> pa.Table:
    """Replaces compressed images by uint8 views; an image that fails becomes a rejection.

    An image of several views becomes as many rows, one behind the other, each with all that was
    read of it. Up to the codec that is all there is to it. The commit does not take such rows yet:
    for it a row number is a sample that comes once (`commit._each_once`, `assembly._Ledger`,
    `ranges.Staged`, and the counts in its receipts and footers), and so it is for `evaluate`, which
    looks for codes by the row number (`PairReader`). Each of them would have to take it together
    with `view`.

    Args:
        table: Rows as they were read.
        how: How images become views.
        opened: What became of its images.
    """
    read = pa.table({**all_but(table, "image"), **put_rejections(table, opened.rejections)})
    rows = np.repeat(np.arange(len(table)), np.where(opened.is_open, how.views, 1))
    read = read if len(rows) == len(read) else read.take(pa.array(rows))
    has_view = opened.is_open[rows]
    image_bytes = how.views * math.prod(how.size) * 3  # in its place, with pixels or without
    pixels = pixel_columns(pa.py_buffer(opened.pixels), how.size, has_view, image_bytes)
    return pa.table({**all_but(read), **_view_columns(opened, rows, has_view), **pixels})


def compressed_of(column: pa.ChunkedArray) -> Compressed:
    """Returns a column of large binary values, without a copy of them."""
    sizes, pieces = [np.zeros(0, np.int64)], []
    for chunk in column.chunks:
        _, ends, data = chunk.buffers()
        place = np.frombuffer(ends, np.int64)[chunk.offset : chunk.offset + len(chunk) + 1]
        is_valid = np.asarray(chunk.is_valid())
        sizes.append(np.where(is_valid, np.diff(place), NO_IMAGE))
        if data is not None:
            pieces += _pieces(memoryview(data).cast("B"), place, is_valid)
    return Compressed(np.concatenate(sizes), pieces)


def _pieces(data: memoryview, ends: npt.NDArray[np.int64], is_valid: Mask) -> list[memoryview]:
    """Returns the values between `ends` (N + 1,) that are valid (N,), runs of them together."""
    starts = np.flatnonzero(np.diff(is_valid, prepend=False, append=False)).reshape(-1, 2)
    return [data[ends[first] : ends[last]] for first, last in starts.tolist()]


def _view_columns(
    opened: OpenedImages, rows: npt.NDArray[np.int64], has_view: Mask
) -> dict[str, pa.Array]:
    """Returns how views were cut, null where there is none (`schema.VIEW`).

    Args:
        opened: The images.
        rows: (n,) image of each row of the table, in order.
        has_view: (n,) whether that has any.
    """
    numbers = np.arange(len(rows)) - np.searchsorted(rows, rows)
    width, height = opened.sizes[rows].T
    kinds = {field.name: field.type for field in schema.VIEW}

    def column(name: str, values: npt.NDArray[np.generic]) -> pa.Array:
        return pa.array(values, kinds[name], mask=~has_view)

    return {
        "view": column("view", numbers),
        "width": column("width", width),
        "height": column("height", height),
        "crop": lists_of(opened.crops[rows, numbers], has_view, kinds["crop"]),
        "flip": column("flip", opened.flips[rows, numbers]),
    }
