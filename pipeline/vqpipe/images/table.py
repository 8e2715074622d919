"""Images, pixels and records of one table in memory that two processes share.

    sizes     bytes of each compressed image, `NO_IMAGE` where there is none
    lots      what is drawn of each
    records   what became of each image
    cuts      how each of its views was cut
    pixels    of its views: those of all images one behind the other, in the order of the images
    data      the compressed images, one after the other

Who fills the records is not trusted: they have a fixed size, and what is read of them is checked.
Where the pixels of an image lie follows from the shapes of those before it, which are shapes of the
run's, so that no record leads anywhere else.
"""

import itertools
import math
import mmap
import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vqpipe.images.compressed import NO_IMAGE, Compressed, places_of
from vqpipe.images.opened import OpenedImages
from vqpipe.images.preprocess import Preprocess, Views
from vqpipe.rejections import LeftOut, Reason, Rejection

_MESSAGE_BYTES = 800
_REASON_BYTES = max(map(len, Reason))
_RECORD = np.dtype(
    [
        ("state", np.uint8),
        ("size", np.int32, 2),
        ("shape", np.int32, 2),
        ("reason", f"S{_REASON_BYTES}"),
        ("message", f"S{_MESSAGE_BYTES}"),
    ]
)
_CUT = np.dtype([("crop", np.int32, 4), ("flip", np.uint8)])
# numpy takes ten times as long to write a record, and every image has one.
_WRITE_RECORD = struct.Struct(f"=B4i{_REASON_BYTES}s{_MESSAGE_BYTES}s")
_WRITE_OPEN, _WRITE_CUT = struct.Struct("=B4i"), struct.Struct("=4iB")
_TODO, _VIEWS, _REJECTED, _NO_IMAGE, _LEFT_OUT = range(5)


class Places(NamedTuple):
    """Where the parts of a table begin, in bytes; the sizes of its images stand first."""

    lots: int
    records: int
    cuts: int
    pixels: int
    data: int

    @classmethod
    def of(cls, count: int, how: Preprocess) -> "Places":
        """Returns those of so many images."""
        views = count * how.views
        sizes = (8 * count, 8 * count, _RECORD.itemsize * count, _CUT.itemsize * views)
        lots, records, cuts, pixels = itertools.accumulate(map(_align, sizes))
        return cls(lots, records, cuts, pixels, pixels + views * how.view_bytes)


class Table:
    """Images, records and pixels of one table in shared memory; parent and child see the same."""

    def __init__(self, memory: mmap.mmap, count: int, how: Preprocess) -> None:
        self._places, views = Places.of(count, how), (count, how.views)
        self._memory = memory
        self._shapes = np.array(how.shapes, np.int32)
        self._views, self._where = how.views, how.where
        self.sizes = np.frombuffer(memory, np.int64, count)
        self.lots = np.frombuffer(memory, np.uint64, count, self._places.lots)
        self.records = np.frombuffer(memory, _RECORD, count, self._places.records)
        cuts = np.frombuffer(memory, _CUT, math.prod(views), self._places.cuts)
        self.cuts = cuts.reshape(views)
        size = self._places.data - self._places.pixels
        self.pixels = np.frombuffer(memory, np.uint8, size, self._places.pixels)
        self.data = memoryview(memory)[self._places.data :]
        self._end: int | None = None

    def fill(self, images: Compressed) -> None:
        """Puts compressed images in, all of them still to open."""
        self.sizes[:] = images.sizes
        self.lots[:] = images.lots
        self.records["state"] = np.where(self.sizes == NO_IMAGE, _NO_IMAGE, _TODO)
        end = 0
        for piece in images.pieces:
            self.data[end : end + len(piece)] = piece
            end += len(piece)

    def first_left(self) -> int | None:
        """Returns the first row that is still to open, or None."""
        left = np.flatnonzero(self.records["state"] == _TODO)
        return int(left[0]) if len(left) else None

    def count_done(self) -> int:
        """Returns how many rows are through, those without an image among them."""
        return int(np.count_nonzero(self.records["state"] != _TODO))

    def left(self) -> Iterator[tuple[int, bytes, int]]:
        """Yields row, content and lot of every image that is still to open, in order."""
        places = places_of(self.sizes)
        for row in np.flatnonzero(self.records["state"] == _TODO).tolist():
            yield row, bytes(self.data[places[row]]), int(self.lots[row])

    def put(self, row: int, views: Views) -> None:
        """Records the views of an image behind those before; that they are there comes last."""
        end = self._find_end() if self._end is None else self._end
        cut = self._places.cuts + row * len(views) * _CUT.itemsize
        for view in views:
            start, end = end, end + view.pixels.size
            self.pixels[start:end] = view.pixels.ravel()
            place = cut + view.number * _CUT.itemsize
            _WRITE_CUT.pack_into(self._memory, place, *view.crop, view.flip)
        self._end = end
        said = (_VIEWS, views[0].width, views[0].height, *views[0].size)
        _WRITE_OPEN.pack_into(self._memory, self._record(row), *said)

    def _find_end(self) -> int:
        """Returns where the pixels end that are there: a child before may have put them."""
        there = self.records["shape"][self.records["state"] == _VIEWS].astype(np.int64)
        return int(there.prod(1).sum()) * 3 * self._views

    def reject(self, row: int, rejection: Rejection) -> None:
        """Records that an image cannot be opened."""
        message = rejection.message.encode("utf-8", "replace")[:_MESSAGE_BYTES]
        said = (rejection.reason.encode(), message)
        _WRITE_RECORD.pack_into(self._memory, self._record(row), _REJECTED, 0, 0, 0, 0, *said)

    def leave_out(self, row: int, found: LeftOut) -> None:
        """Records which condition an image does not meet."""
        said = (_LEFT_OUT, self._where.index(found.why), 0, 0, 0)
        _WRITE_OPEN.pack_into(self._memory, self._record(row), *said)

    def _record(self, row: int) -> int:
        return self._places.records + row * _RECORD.itemsize

    def take(self, had: npt.NDArray[np.bool_]) -> OpenedImages:
        """Returns what became of images; their pixels stay where they are.

        Args:
            had: (N,) which rows had an image, by the word of who filled the table.
        """
        records = self.records.copy()
        is_known = (records["shape"][:, None] == self._shapes).all(2).any(1)
        is_open = had & (records["state"] == _VIEWS) & is_known
        shapes = np.where(is_open[:, None], records["shape"], 0)
        crops, flips = self.cuts["crop"].copy(), self.cuts["flip"] != 0
        rejections: list[Rejection | LeftOut | None] = [None] * len(had)
        for row in np.flatnonzero(had & ~is_open).tolist():
            rejections[row] = self._find_left_out(records[row]) or _rejection(records[row])
        pixels = self.pixels[: 3 * self._views * int(shapes.astype(np.int64).prod(1).sum())]
        sizes = records["size"]
        return OpenedImages(pixels, is_open, sizes, shapes, crops, flips, rejections)

    def _find_left_out(self, record: np.void) -> LeftOut | None:
        """Returns why an image is left out, if its record says so."""
        number = int(record["size"][0])
        is_known = record["state"] == _LEFT_OUT and 0 <= number < len(self._where)
        return LeftOut(self._where[number]) if is_known else None


def _rejection(record: np.void) -> Rejection:
    reason = record["reason"].decode("utf-8", "replace")
    if record["state"] != _REJECTED or reason not in set(Reason):
        return Rejection(Reason.DECODER_CRASHED, "the process that opened it left no record of it")
    return Rejection(Reason(reason), record["message"].decode("utf-8", "replace"))


def _align(size: int) -> int:
    return -(-size // 64) * 64
