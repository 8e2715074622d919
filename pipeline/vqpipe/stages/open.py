"""Compressed images to uint8 views: what comes between a stage's reader and its codec."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vqpipe.images import Opened, Preprocess, View, open_images
from vqpipe.rejections import Rejection
from vqpipe.stages.columns import all_but, pixel_columns, put_rejections

Opener = Callable[[Sequence[memoryview | None], npt.NDArray[np.uint8], Preprocess], list[Opened]]
"""`vqpipe.images.views.open_images` or one like it."""


def open_rows(table: pa.Table, how: Preprocess, opener: Opener = open_images) -> pa.Table:
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
        opener: What opens them: here, or in a process of their own.
    """
    # Arrow's allocator keeps pages; numpy's would fault in new ones, at a gigabyte a second. For
    # the same reason each image goes to its place at once: a list of them would need new pages.
    shape = (len(table), how.views, *how.size, 3)
    buffer = pa.allocate_buffer(math.prod(shape))
    pixels = np.frombuffer(buffer, np.uint8).reshape(shape)
    images = [image.as_buffer() for image in table["image"]]
    opened = opener([None if each is None else memoryview(each) for each in images], pixels, how)
    rejections = [each if isinstance(each, Rejection) else None for each in opened]
    read = pa.table({**all_but(table, "image"), **put_rejections(table, rejections)})
    views = [view for each in opened for view in (each if isinstance(each, tuple) else (None,))]
    place = math.prod(shape[1:])  # of an image, with pixels in it or without
    sizes = [None if view is None else view.size for view in views]
    columns = {**_view_columns(views), **pixel_columns(buffer, sizes, place)}
    return pa.table({**all_but(_repeated(read, opened)), **columns})


def _repeated(table: pa.Table, opened: Sequence[Opened]) -> pa.Table:
    """Returns each row as often as its image has views, and once if it has none."""
    counts = [len(each) if isinstance(each, tuple) else 1 for each in opened]
    if len(table) == sum(counts):
        return table
    return table.take(pa.array(np.repeat(np.arange(len(table)), counts)))


def _view_columns(views: Sequence[View | None]) -> dict[str, pa.Array]:
    """Returns how views were cut, null where there is none (`schema.VIEW`)."""
    return {
        "view": _map(views, lambda view: view.number, pa.uint8()),
        "width": _map(views, lambda view: view.width, pa.int32()),
        "height": _map(views, lambda view: view.height, pa.int32()),
        "crop": _map(views, lambda view: list(view.crop), pa.list_(pa.int32(), 4)),
        "flip": _map(views, lambda view: view.flip, pa.bool_()),
    }


def _map(
    views: Sequence[View | None], get: Callable[[View], object], kind: pa.DataType
) -> pa.Array:
    return pa.array([None if view is None else get(view) for view in views], kind)
