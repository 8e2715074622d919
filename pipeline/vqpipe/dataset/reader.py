"""Rows in one process: segments of an index, filled as they are asked for, and ahead of that."""

import contextlib
import hashlib
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from vqpipe.conditions.expression import tree
from vqpipe.dataset.cache import Cache, Place
from vqpipe.dataset.columns import Column, Shape
from vqpipe.dataset.index import Index
from vqpipe.dataset.order import Order, Picked
from vqpipe.dataset.segment import Segment, naming_full_disk
from vqpipe.errors import ConfigError
from vqpipe.permutation import Numbers
from vqpipe.picks import hash_of

_PLACE_BYTES = 16
_LAYOUT = "2"
"""Of what lies in the cache."""
_HELD = 2
"""Segments of a process: that of a batch, and the next."""
_WINDOWS = 3
"""Of which segments are held by processes of which some are ahead of others."""
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
    heaps: Mapping[str, float] = field(default_factory=dict)
    """About how many bytes a row has of what has no fixed length, by column."""

    def bytes_of(self, shards: Numbers) -> int:
        """Returns about how many bytes the rows of shards take in the cache."""
        sorter = self.index.sorter
        rows = self.index.counts[shards].sum(axis=0) * sorter.views
        sizes = [
            int(count) * sum(self._row_bytes(each, shape) for each in self.columns)
            for count, shape in zip(rows, sorter.shapes, strict=True)
        ]
        return round(sum(sizes))

    def _row_bytes(self, column: Column, shape: Shape) -> float:
        if column.kind != "numbers":
            return _PLACE_BYTES + self.heaps.get(column.name, 0.0)
        return math.prod(column.numbers(shape)) * np.dtype(column.dtype).itemsize

    def check_room(self, window: int | None, ahead: int = 0) -> None:
        """Checks that what is held at a time fits into the cache.

        Args:
            window: About how many samples a segment has; None is all.
            ahead: Samples by which some processes are ahead of others.

        Raises:
            ConfigError: If it does not.
        """
        counts = self.index.counts.sum(axis=1)
        size = self.bytes_of(np.arange(len(counts)))
        if window is not None and len(counts):
            share = (window + int(counts.max())) / max(int(counts.sum()), 1)
            size = min(size, int(size * share * (_WINDOWS + -(-ahead // window))))
        self.cache.check(size)

    def key(self, shards: Numbers) -> str:
        """Returns what their segment is called: whoever reads the same rows finds it."""
        said = f"{_LAYOUT} {self.index.digest} {self.columns!r} {self.index.sorter.views}"
        found = hashlib.sha256(said.encode())
        found.update(shards.astype("<i8").tobytes())
        return found.hexdigest()[:32]


class Reader:
    """Takes rows of one epoch, in the process that made it and its threads."""

    def __init__(self, source: Source, order: Order, lot: int) -> None:
        """Takes what is read.

        Args:
            source: Which rows, and how.
            order: Of the epoch.
            lot: 64 bits that draw the view of each image, with its key.
        """
        self._source, self.order, self._lot = source, order, lot
        self._held: dict[int, tuple[Place, Segment]] = {}
        if source.index.sorter.condition:
            tree(source.index.sorter.condition)  # parsed by one thread, for all
        self._pool = ThreadPoolExecutor(source.threads, "vqpipe-decode")
        self._ahead: set[Future[bool]] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:  # noqa: SIM105 (contextlib may be gone)
            self._pool.shutdown(wait=False, cancel_futures=True)
        except AttributeError:  # the interpreter ends, its modules are gone, and threads joined
            pass

    def take(self, picked: Sequence[Picked]) -> dict[str, Any]:
        """Returns the columns of samples that go into one batch, and which samples they are.

        Args:
            picked: Where they stand: all of one shape.
        """
        parts = [self._take(each) for each in picked]
        self._run_ahead(picked[-1].window)
        if len(parts) == 1:
            return parts[0]
        return {name: _join([part[name] for part in parts]) for name in parts[0]}

    def _take(self, picked: Picked) -> dict[str, Any]:
        segment = self._segment(picked.window)
        self._fill(segment, segment.missing(picked.pool, picked.numbers))
        return {
            **segment.take(picked.pool, picked.numbers, self._lot),
            SAMPLE: segment.number_of_all(picked.pool, picked.numbers),
            REPEAT: picked.is_repeat,
        }

    def _segment(self, window: int) -> Segment:
        held = self._held.pop(window, None)
        while len(self._held) >= _HELD:
            self._held.pop(next(iter(self._held)))
        self._held[window] = held or self._open(window)  # the last used last
        return self._held[window][1]

    def _open(self, window: int) -> tuple[Place, Segment]:
        source, shards = self._source, self.order.windows[window]
        place = source.cache.open(source.key(shards), source.bytes_of(shards))
        with naming_full_disk():
            return place, Segment(place.path, source.index, source.columns, shards)

    def _fill(self, segment: Segment, places: list[int]) -> None:
        """Decodes shards that are asked for; those that others are at come last."""
        if len(places) > 1:
            done = self._pool.map(lambda place: segment.fill(place, waits=False), places)
            places = [place for place, is_there in zip(places, done, strict=True) if not is_there]
        for place in places:
            segment.fill(place)

    def _run_ahead(self, window: int) -> None:
        """Has threads decode what is not asked for yet: of this window, then of the next."""
        self._ahead = {each for each in self._ahead if not _is_done(each)}
        free = self._source.threads - len(self._ahead)
        if free < 1:
            return
        for each in range(window, min(window + 2, len(self.order.windows))):
            try:
                segment = self._segment(each)
            except ConfigError:  # there is no room for it yet; it is opened when it is asked for
                return
            places = segment.missing()[:free]
            self._ahead |= {self._pool.submit(segment.fill, p, waits=False) for p in places}
            if places:
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
