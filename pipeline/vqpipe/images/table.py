"""Images, pixels and records of one table in memory that two processes share.

    sizes     bytes of each compressed image, -1 where there is none
    records   what became of each image
    cuts      how each of its views was cut
    pixels    of each of its views
    data      the compressed images, one after the other

Who fills the records is not trusted: they have a fixed size, and what is read of them is checked.
"""

import itertools
import math
import mmap
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from vqpipe.images.preprocess import Opened, Pixels, Preprocess, View, Views
from vqpipe.rejections import Reason, Rejection

_MESSAGE_BYTES = 800
_RECORD = np.dtype(
    [
        ("state", np.uint8),
        ("width", np.int32),
        ("height", np.int32),
        ("reason", f"S{max(map(len, Reason))}"),
        ("message", f"S{_MESSAGE_BYTES}"),
    ]
)
_CUT = np.dtype([("crop", np.int32, 4), ("flip", np.uint8)])
_TODO, _VIEWS, _REJECTED, _NO_IMAGE = range(4)


class Places(NamedTuple):
    """Where the parts of a table begin, in bytes; the sizes of its images stand first."""

    records: int
    cuts: int
    pixels: int
    data: int

    @classmethod
    def of(cls, count: int, how: Preprocess) -> "Places":
        """Returns those of so many images."""
        views = count * how.views
        sizes = (8 * count, _RECORD.itemsize * count, _CUT.itemsize * views)
        records, cuts, pixels = itertools.accumulate(map(_align, sizes))
        return cls(records, cuts, pixels, pixels + views * math.prod(how.size) * 3)


class Table:
    """Images, records and pixels of one table in shared memory; parent and child see the same."""

    def __init__(self, memory: mmap.mmap, count: int, how: Preprocess) -> None:
        places, views = Places.of(count, how), (count, how.views)
        self.sizes = np.frombuffer(memory, np.int64, count)
        self.records = np.frombuffer(memory, _RECORD, count, places.records)
        cuts = np.frombuffer(memory, _CUT, math.prod(views), places.cuts)
        self.cuts = cuts.reshape(views)
        pixels = np.frombuffer(memory, np.uint8, places.data - places.pixels, places.pixels)
        self.pixels = pixels.reshape(*views, *how.size, 3)
        self.data = memoryview(memory)[places.data :]

    def fill(self, images: Sequence[bytes | memoryview | None], sizes: list[int]) -> None:
        """Puts compressed images in, all of them still to open."""
        self.sizes[:] = sizes
        self.records["state"] = np.where(self.sizes < 0, _NO_IMAGE, _TODO)
        end = 0
        for image in images:
            if image is not None:
                self.data[end : end + len(image)] = memoryview(image).cast("B")
                end += len(image)

    def first_left(self) -> int | None:
        """Returns the first row that is still to open, or None."""
        left = np.flatnonzero(self.records["state"] == _TODO)
        return int(left[0]) if len(left) else None

    def left(self) -> Iterator[tuple[int, bytes]]:
        """Yields row and content of every image that is still to open."""
        ends = np.cumsum(self.sizes.clip(min=0))
        for row in np.flatnonzero(self.records["state"] == _TODO).tolist():
            yield row, bytes(self.data[ends[row] - self.sizes[row] : ends[row]])

    def put(self, row: int, views: Views) -> None:
        """Records the views of an image; that they are there comes last."""
        for view, pixels, cut in zip(views, self.pixels[row], self.cuts[row], strict=True):
            pixels[:] = view.pixels
            cut["crop"], cut["flip"] = view.crop, view.flip
        self.records[row] = (_VIEWS, views[0].width, views[0].height, b"", b"")

    def reject(self, row: int, rejection: Rejection) -> None:
        """Records that an image cannot be opened."""
        message = rejection.message.encode("utf-8", "replace")[:_MESSAGE_BYTES]
        self.records[row] = (_REJECTED, 0, 0, rejection.reason.encode(), message)

    def take(self, row: int, target: Pixels) -> Opened:
        """Returns what became of an image, its pixels copied to `target` (V, H, W, 3)."""
        record = self.records[row]
        if record["state"] == _VIEWS:
            target[:] = self.pixels[row]
            width, height, cuts = int(record["width"]), int(record["height"]), self.cuts[row]
            return tuple(
                View(target[i], width, height, tuple(cut["crop"].tolist()), bool(cut["flip"]), i)
                for i, cut in enumerate(cuts)
            )
        target[:] = 0
        if record["state"] == _NO_IMAGE:
            return None
        message = record["message"].decode("utf-8", "replace")
        return Rejection(Reason(record["reason"].decode()), message)


def _align(size: int) -> int:
    return -(-size // 64) * 64
