"""Rows in one process: segments of an index, filled as they are asked for, and ahead of that."""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from vqpipe.dataset.cache import Cache, Place
from vqpipe.dataset.columns import Column
from vqpipe.dataset.index import Index
from vqpipe.dataset.order import Order, Picked
from vqpipe.dataset.segment import Segment, naming_full_disk
from vqpipe.permutation import Numbers
from vqpipe.picks import hash_of

_LAYOUT = "1"
"""Of what lies in the cache."""
HELD = 3
"""Segments of a process: that of a batch, the one before, which others may be in, and the next."""
SAMPLE, REPEAT = "__sample__", "__repeat__"
"""Of a batch: numbers of its samples among all there are, and which are there a second time."""


@dataclass(frozen=True, eq=False)
class Source:
    """What is read, and how; plain data, sent to every process."""

    index: Index
    columns: tuple[Column, ...]
    cache: Cache
    threads: int
    """That decode shards, in a process."""

    def bytes_of(self, shards: Numbers) -> int:
        """Returns about how many bytes the rows of shards take in the cache."""
        sorter = self.index.sorter
        rows = self.index.counts[shards].sum(axis=0) * sorter.views
        fixed = [
            int(count) * sum(_row_bytes(each, shape) for each in self.columns)
            for count, shape in zip(rows, sorter.shapes, strict=True)
        ]
        return sum(fixed)

    def key(self, shards: Numbers) -> str:
        """Returns what their segment is called: whoever reads the same rows finds it."""
        said = f"{_LAYOUT} {self.index.digest} {self.columns!r} {self.index.sorter.views}"
        found = hashlib.sha256(said.encode())
        found.update(shards.astype("<i8").tobytes())
        return found.hexdigest()[:32]


def _row_bytes(column: Column, shape: tuple[int, ...]) -> int:
    """Returns the bytes of a row; of what has no fixed length, those of its place and a guess."""
    if column.kind != "numbers":
        return 64
    return int(np.prod(column.numbers(shape), dtype=np.int64)) * np.dtype(column.dtype).itemsize


class Reader:
    """Takes rows, in the process that made it and its threads."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._held: dict[str, tuple[Place, Segment]] = {}
        self._pool = ThreadPoolExecutor(source.threads, "vqpipe-decode")
        self._ahead: set[Future[bool]] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def take(self, order: Order, picked: Sequence[Picked], lot: int) -> dict[str, Any]:
        """Returns the columns of samples that go into one batch, and which samples they are.

        Args:
            order: That they stand in.
            picked: Where: all of one shape.
            lot: 64 bits that draw the view of each image, with its key.
        """
        parts = [self._take(order, each, lot) for each in picked]
        self._run_ahead(order, picked[-1].window)
        if len(parts) == 1:
            return parts[0]
        return {name: _join([part[name] for part in parts]) for name in parts[0]}

    def _take(self, order: Order, picked: Picked, lot: int) -> dict[str, Any]:
        segment = self._segment(order.windows[picked.window])
        self._fill(segment, segment.missing(picked.pool, picked.numbers))
        return {
            **segment.take(picked.pool, picked.numbers, lot),
            SAMPLE: segment.number_of_all(picked.pool, picked.numbers),
            REPEAT: picked.is_repeat,
        }

    def _segment(self, shards: Numbers) -> Segment:
        key = self._source.key(shards)
        held = self._held.pop(key, None)
        if held is None:
            place = self._source.cache.open(key, self._source.bytes_of(shards))
            source = self._source
            with naming_full_disk():
                held = place, Segment(place.path, source.index, source.columns, shards)
        self._held[key] = held  # the last used last
        while len(self._held) > HELD:
            self._held.pop(next(iter(self._held)))
        return held[1]

    def _fill(self, segment: Segment, places: list[int]) -> None:
        """Decodes shards that are asked for; those that others are at come last."""
        busy = [
            place
            for place, is_there in zip(places, self._map(segment, places), strict=True)
            if not is_there
        ]
        for place in busy:
            segment.fill(place)

    def _map(self, segment: Segment, places: list[int]) -> Iterator[bool]:
        if len(places) < 2:
            return iter([False] * len(places))
        return self._pool.map(lambda place: segment.fill(place, waits=False), places)

    def _run_ahead(self, order: Order, window: int) -> None:
        """Has threads decode what is not asked for yet: of this window, then of the next."""
        self._ahead = {each for each in self._ahead if not _is_done(each)}
        if len(self._ahead) >= self._source.threads:
            return
        for each in order.windows[window : window + 2]:
            segment = self._segment(each)
            for place in segment.missing()[: self._source.threads - len(self._ahead)]:
                self._ahead.add(self._pool.submit(segment.fill, place, waits=False))
            if self._ahead:
                return


def _is_done(work: Future[bool]) -> bool:
    """Tells whether work ahead is done; what failed fails again when it is asked for."""
    if work.done():
        with contextlib.suppress(Exception):
            work.result()
    return work.done()


def _join(values: list[Any]) -> Any:  # noqa: ANN401 (arrays, or lists)
    if isinstance(values[0], list):
        return [each for value in values for each in value]
    return np.concatenate(values)


def lot_of(seed: int, epoch: int) -> int:
    """Returns the bits that draw views in an epoch."""
    return int.from_bytes(hash_of(f"{seed} {epoch}", what_for=b"view "), "little")
