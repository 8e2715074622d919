"""Compressed images to uint8 views: what comes between a stage's reader and its codec."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vqpipe import schema
from vqpipe.images import Compressed, OpenedImages, Preprocess, lot_of, open_images
from vqpipe.images.compressed import NO_IMAGE
from vqpipe.stages.columns import Mask, all_but, lists_of, pixel_columns, put_rejections

Opener = Callable[[Compressed, Preprocess], OpenedImages]
"""`vqpipe.images.open_images` or one like it."""
Places = npt.NDArray[np.int64]


def open_rows(table: pa.Table, how: Preprocess, opener: Opener = open_images) -> pa.Table:
    """Opens compressed images, and replaces them by uint8 views (`put_views`).

    Args:
        table: Rows as they were read.
        how: How images become views.
        opener: What opens them: here, or in a process of their own.
    """
    return put_views(table, opener(images_of(table, how), how))


def put_views(table: pa.Table, opened: OpenedImages) -> pa.Table:
    """Replaces compressed images by uint8 views; an image that fails becomes a rejection.

    Every row becomes as many as an image has views, one behind the other, each with all that was
    read of it: those of a rejection, and of what is no sample, too. So wherever tables are cut or
    put together at a multiple of that number, no sample is torn.

    Args:
        table: Rows as they were read. Those that have a column `view` already, of which one view
            each is asked for, stay one.
        opened: What became of their images.
    """
    read = pa.table({**all_but(table, "image"), **put_rejections(table, opened.rejections)})
    rows, numbers = _places(table, opened.views)
    read = read if len(rows) == len(read) else read.take(pa.array(rows))
    pixels = _pixels(opened, rows, numbers)
    return pa.table({**all_but(read, "view"), **_view_columns(opened, rows, numbers), **pixels})


def _places(table: pa.Table, views: int) -> tuple[Places, Places]:
    """Returns image (n,) and number (n,) of the view of each row that comes out."""
    if "view" in table.column_names:
        return np.arange(len(table)), table["view"].to_numpy().astype(np.int64)
    rows = np.repeat(np.arange(len(table)), views)
    return rows, np.arange(len(rows)) % views


def images_of(table: pa.Table, how: Preprocess) -> Compressed:
    """Returns the images of rows, without a copy of them, and what is drawn of each."""
    images = compressed_of(table["image"])
    if not how.draws:
        return images
    lots = [lot_of(how.seed, key) for key in table["key"].to_pylist()]
    return images.with_lots(np.array(lots, np.uint64))


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
    return Compressed(np.concatenate(sizes), pieces, np.zeros(len(column), np.uint64))


def _pieces(data: memoryview, ends: npt.NDArray[np.int64], is_valid: Mask) -> list[memoryview]:
    """Returns the values between `ends` (N + 1,) that are valid (N,), runs of them together."""
    starts = np.flatnonzero(np.diff(is_valid, prepend=False, append=False)).reshape(-1, 2)
    return [data[ends[first] : ends[last]] for first, last in starts.tolist()]


def _view_columns(opened: OpenedImages, rows: Places, numbers: Places) -> dict[str, pa.Array]:
    """Returns how views were cut (`schema.VIEW`); where there is none, no more than its number.

    Args:
        opened: The images.
        rows: (n,) image of each row of the table, in order.
        numbers: (n,) which of its views that has.
    """
    has_view, (width, height) = opened.is_open[rows], opened.sizes[rows].T
    kinds = {field.name: field.type for field in schema.VIEW}

    def column(name: str, values: npt.NDArray[np.generic]) -> pa.Array:
        return pa.array(values, kinds[name], mask=~has_view)

    return {
        "view": pa.array(numbers, kinds["view"]),
        "width": column("width", width),
        "height": column("height", height),
        "crop": lists_of(opened.crops[rows, numbers], has_view, kinds["crop"]),
        "flip": column("flip", opened.flips[rows, numbers]),
    }


def _pixels(opened: OpenedImages, rows: Places, numbers: Places) -> dict[str, pa.Array]:
    """Returns the pixels of views (`schema.PIXELS`): all of them as they lie, or a copy of some."""
    shapes, pixels = opened.shapes[rows].astype(np.int64), opened.pixels
    if len(rows) != len(opened) * opened.views:
        size, whole = 3 * shapes.prod(1), 3 * opened.shapes.astype(np.int64).prod(1)
        starts = opened.views * (np.cumsum(whole) - whole)[rows] + numbers * size
        spans = zip(starts.tolist(), (starts + size).tolist(), strict=True)
        none = np.zeros(0, np.uint8)
        pixels = np.concatenate([none, *(pixels[start:end] for start, end in spans)])
    return pixel_columns(pa.py_buffer(pixels), shapes, opened.is_open[rows])
