"""Compressed images to uint8 views: what comes between a stage's reader and its codec."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vqpipe.images import Opened, Preprocess, View, open_images
from vqpipe.rejections import Rejection
from vqpipe.stages.columns import all_but, as_images, bitmap_of, put_rejections

Opener = Callable[[Sequence[memoryview | None], npt.NDArray[np.uint8], Preprocess], list[Opened]]
"""`vqpipe.images.views.open_images` or one like it."""


def open_rows(table: pa.Table, how: Preprocess, opener: Opener = open_images) -> pa.Table:
    """Replaces compressed images by uint8 views; an image that fails becomes a rejection.

    Args:
        table: Rows as they were read.
        how: How images become views.
        opener: What opens them: here, or in a process of their own.
    """
    # Arrow's allocator keeps pages; numpy's would fault in new ones, at a gigabyte a second. For
    # the same reason each image goes to its place at once: a list of them would need new pages.
    buffer = pa.allocate_buffer(len(table) * how.resolution**2 * 3)
    pixels = as_images(buffer, len(table), how.resolution)
    images = [image.as_buffer() for image in table["image"]]
    opened = opener([None if each is None else memoryview(each) for each in images], pixels, how)
    views = [view if isinstance(view, View) else None for view in opened]
    columns = {
        **all_but(table, "image"),
        **put_rejections(table, [view if isinstance(view, Rejection) else None for view in opened]),
        "view": _map(views, lambda _: 0, pa.uint8()),
        "width": _map(views, lambda view: view.width, pa.int32()),
        "height": _map(views, lambda view: view.height, pa.int32()),
        "crop": _map(views, lambda view: list(view.crop), pa.list_(pa.int32(), 4)),
        "flip": _map(views, lambda _: False, pa.bool_()),
        "pixels": _pixels(views, pixels),
    }
    return pa.table(columns)


def _map(
    views: Sequence[View | None], get: Callable[[View], object], kind: pa.DataType
) -> pa.Array:
    return pa.array([None if view is None else get(view) for view in views], kind)


def _pixels(views: Sequence[View | None], pixels: npt.NDArray[np.uint8]) -> pa.Array:
    """Returns the pixels of views (N, R, R, 3) as fixed-size binary, without a copy."""
    valid = bitmap_of(np.array([view is not None for view in views], bool))
    kind = pa.binary(math.prod(pixels.shape[1:]))
    return pa.Array.from_buffers(kind, len(views), [valid, pa.py_buffer(pixels)])
