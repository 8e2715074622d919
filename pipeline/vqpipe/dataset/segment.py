"""The rows of some shards on this machine's disk, decoded once, whoever asks first.

    <column>.numbers, .places, .heap    pool by pool, rows of one shard behind those of the other
    done                                a byte a shard: 1 once all of its rows are there, for good
    lock                                a byte a shard: locked by who writes them

Any number of processes read and write at once. Where rows go is arithmetic, and what they are
depends on nothing else, so that a writer that is killed leaves rows that are written again.
"""

import contextlib
import errno
import fcntl
import functools
import os
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vqpipe.dataset.arrays import Array, HashColumn, NumbersFile, Rows, open_array, open_sized
from vqpipe.dataset.columns import Column
from vqpipe.dataset.index import Index, Pools, count_pools
from vqpipe.errors import ConfigError, DamagedError
from vqpipe.permutation import Numbers, mix
from vqpipe.sink.parts import read_part
from vqpipe.sink.samples import whole_samples

_AGAIN_S = 0.01
_HASHES = ""
"""Among a pool's arrays by name of column, that of hashes of keys."""


class Segment:
    """Rows of some shards of an index, as they come."""

    def __init__(
        self, folder: Path, index: Index, columns: tuple[Column, ...], shards: Numbers
    ) -> None:
        """Opens it; files are made if they are not there.

        Args:
            folder: Where it is; there already.
            index: What there is to read.
            columns: Which columns of it.
            shards: Which shards, by their places in the index, in order.
        """
        self._index, self._columns, self._shards = index, columns, shards
        counts = index.counts[shards]
        self._starts = np.concatenate([np.zeros_like(counts[:1]), counts.cumsum(axis=0)])
        self._done_file = NumbersFile(folder / "done", np.dtype("u1"), [(len(shards),)])
        (self._done,) = self._done_file.arrays
        self._is_whole = False
        self._lock = open_sized(folder / "lock", len(shards))
        self._threads: defaultdict[int, threading.Lock] = defaultdict(threading.Lock)
        samples = self._starts[-1].tolist()
        rows = [count * index.sorter.views for count in samples]
        shapes = index.sorter.shapes
        self._arrays: dict[str, Array] = {
            each.name: open_array(folder, each, rows, shapes) for each in columns
        }
        if index.sorter.views > 1:
            self._arrays[_HASHES] = HashColumn(folder, samples)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if hasattr(self, "_lock"):
            close(self._lock)

    def missing(self, pool: int | None = None, numbers: Numbers | None = None) -> list[int]:
        """Returns the shards that are not there, by their places in the segment.

        Args:
            pool: Of samples of this pool alone.
            numbers: And of these.
        """
        self._is_whole = self._is_whole or bool(self._done.all())
        if self._is_whole:
            return []
        if numbers is None:
            return _listed(np.flatnonzero(self._done == 0))
        places = np.searchsorted(self._starts[:, pool], numbers, side="right") - 1
        return _listed(np.unique(places[self._done[places] == 0]))

    def fill(self, place: int, *, waits: bool = True) -> bool:
        """Decodes a shard unless it is there.

        Args:
            place: The shard's in the segment.
            waits: Whether to wait for another writer that is at it.

        Returns:
            Whether it is there.

        Raises:
            MismatchError: If the shard is not what it was.
            StorageError: If the store does not give it.
            ConfigError: If the disk is full, or a column has a null that it cannot have.
        """
        with self._locked(place, waits=waits) as is_mine:
            if is_mine and not self._done[place]:
                with naming_full_disk():
                    self._decode(place)
        return bool(self._done[place])

    @contextlib.contextmanager
    def _locked(self, place: int, *, waits: bool) -> Iterator[bool]:
        thread = self._threads[place]
        if not thread.acquire(blocking=waits):
            yield False
            return
        try:
            is_mine = self._lock_byte(place, waits=waits)
            try:
                yield is_mine
            finally:
                if is_mine:
                    _set_lock(self._lock, place, fcntl.F_UNLCK)
        finally:
            thread.release()

    def _lock_byte(self, place: int, *, waits: bool) -> bool:
        """Locks a shard's byte against other processes, and other readers of this one.

        It is asked for again and again: a kernel that has threads wait for each other's locks may
        take that for a deadlock.

        Returns:
            Whether it is locked; False if another has it, and this does not wait.
        """
        while not _set_lock(self._lock, place, fcntl.F_WRLCK):
            if not waits:
                return False
            time.sleep(_AGAIN_S)
        return True

    def _decode(self, place: int) -> None:
        snapshot, sorter = self._index.snapshot, self._index.sorter
        shard = int(self._shards[place])
        names = [each.name for each in self._columns] + sorter.columns
        names += ["key"] if sorter.views > 1 else []
        tables = read_part(snapshot, shard, list(dict.fromkeys(names)))
        ends = self._starts[place].copy()
        for table in whole_samples(tables, sorter.views):
            pools = sorter.sort(table)
            self._write(table, pools, ends)
            ends += count_pools(pools, len(ends))
        if not np.array_equal(ends, self._starts[place + 1]):
            raise DamagedError(
                f"{snapshot.part(shard).uri} has other samples than were counted: "
                f"{(ends - self._starts[place]).tolist()} instead of "
                f"{(self._starts[place + 1] - self._starts[place]).tolist()}"
            )
        for array in self._arrays.values():
            array.sync()
        self._done_file.write(0, place, np.ones(1, np.uint8))
        self._done_file.sync()

    def _write(self, table: pa.Table, pools: Pools, firsts: Rows) -> None:
        views = self._index.sorter.views
        for pool, first in enumerate(firsts.tolist()):
            is_here = np.repeat(pools == pool, views)
            rows = table if is_here.all() else table.filter(pa.array(is_here))
            for each in self._columns if len(rows) else ():
                self._arrays[each.name].write(pool, first * views, _plain(rows[each.name]))
            if views > 1 and len(rows):
                keys = rows["key"].take(np.arange(0, len(rows), views))
                self._arrays[_HASHES].write(pool, first, keys)

    def take(self, pool: int, numbers: Numbers, lot: int) -> dict[str, Any]:
        """Returns columns of samples, which have to be there.

        Args:
            pool: Their pool.
            numbers: (n,): which of it.
            lot: 64 bits that draw the view of each image, with its key.
        """
        arrays, views = self._arrays, self._index.sorter.views
        rows = numbers
        if views > 1:
            rows = numbers * views + draw(arrays[_HASHES].take(pool, numbers), lot, views)
        return {each.name: arrays[each.name].take(pool, rows) for each in self._columns}

    def number_of_all(self, pool: int, numbers: Numbers) -> Numbers:
        """Returns which samples of the whole index these are: shard by shard, pool by pool."""
        if self._is_all:
            return numbers.copy()
        places = np.searchsorted(self._starts[:, pool], numbers, side="right") - 1
        found: Numbers = self._offsets[places, pool] + numbers - self._starts[places, pool]
        return found

    @functools.cached_property
    def _is_all(self) -> bool:
        """Whether samples have the same numbers here as in the whole index."""
        return self._index.counts.shape[1] == 1 and np.array_equal(
            self._shards, np.arange(len(self._index.counts))
        )

    @functools.cached_property
    def _offsets(self) -> npt.NDArray[np.int64]:
        """(shards, pools): number of the first sample among those of the whole index."""
        counts = self._index.counts
        before = np.cumsum(counts.ravel()) - counts.ravel()
        return before.reshape(counts.shape)[self._shards]


def draw(hashes: npt.NDArray[np.uint64], lot: int, views: int) -> Numbers:
    """Returns which view of each image comes: (n,) in 0..views-1."""
    words = mix(hashes + np.uint64(lot)) >> np.uint64(32)
    found: Numbers = (words * np.uint64(views) >> np.uint64(32)).astype(np.int64)
    return found


def _listed(places: Numbers) -> list[int]:
    found: list[int] = places.tolist()
    return found


_HAS_OWN_LOCKS = hasattr(fcntl, "F_OFD_SETLK")
"""Whether locks are an open file's, as on Linux; elsewhere they are a process's."""


def _set_lock(file: int, place: int, kind: int) -> bool:
    """Locks or unlocks one byte of a file; returns False if another has it."""
    try:
        if _HAS_OWN_LOCKS:
            said = struct.pack("hhqqi4x", kind, os.SEEK_SET, place, 1, 0)  # struct flock of Linux
            fcntl.fcntl(file, fcntl.F_OFD_SETLK, said)
        else:
            how = fcntl.LOCK_UN if kind == fcntl.F_UNLCK else fcntl.LOCK_EX | fcntl.LOCK_NB
            fcntl.lockf(file, how, 1, place)
    except BlockingIOError:
        return False
    return True


def _plain(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Returns values as themselves, not as numbers of a dictionary."""
    kind = values.type
    return values.cast(kind.value_type) if pa.types.is_dictionary(kind) else values


@contextlib.contextmanager
def naming_full_disk() -> Iterator[None]:
    """Makes of what a full disk causes an error that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise ConfigError(
            f"the reader's cache cannot be written: {error.strerror}. Name another disk by cache, "
            "or read in windows of fewer samples by window"
        ) from error


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG}
