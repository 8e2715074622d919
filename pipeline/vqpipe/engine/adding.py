"""Objects added up by workers while a run goes on, so that its end has little left to read.

The driver learns of a commit by its receipt, and has a worker add up a thousand objects at a time,
those that earlier commands have committed too. What comes of it lies in the sink (`sink.subtotals`)
and is taken from there: the driver holds numbers of shards, never a histogram, and a worker that
dies, an answer that comes twice or never, or an object that is replaced costs a part, no more.
"""

import contextlib
import time
from collections.abc import Callable, Generator
from contextlib import closing
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import ray

from vqpipe.engine import capacity
from vqpipe.engine.committer import take_ended
from vqpipe.engine.watchdog import Tick
from vqpipe.sink.commit import committed_in
from vqpipe.sink.coverage import LEAST, Coverage
from vqpipe.sink.totals import add_part, places_added
from vqpipe.sink.writer import Writer

CORES_A_TASK = 8
"""Cores of the cluster for each part that is added up at a time; it mostly waits for the store."""
_CORES = 0.001
_RETRIES = 3
_PATIENCE_S = 120.0
"""At the end, seconds in which some part has to come; what is missing is read by the driver."""
_WAIT_S = 0.5


def add_along(
    ticks: Generator[Tick, None, None],
    writer: "ray.ObjectRef[Any]",
    todo: list[int],
    shards: int,
    *,
    earlier: bool = True,
) -> Generator[Tick, None, None]:
    """Yields the ticks of a graph, then more until workers have added up what it committed.

    Args:
        ticks: Of the graph.
        writer: The run, in the object store.
        todo: Places in the plan of the shards that it is to commit.
        shards: Of the plan; of few, nothing is added up before the end.
        earlier: Whether all others are committed, and are this command's to add up.
    """
    if shards < LEAST:
        yield from ticks
        return
    adder, last = _Adder(writer, todo, shards, earlier=earlier), None
    with closing(ticks):
        for tick in ticks:
            last = tick
            with contextlib.suppress(ray.exceptions.RayError):
                adder.work(tick)
            yield tick
    if last is None:
        return
    rest = last if last.receipts is None else Tick(None, last.counts)
    with contextlib.suppress(ray.exceptions.RayError):
        while adder.goes_on():
            yield rest


class _Adder:
    """Starts the tasks, a few at a time."""

    def __init__(
        self, writer: "ray.ObjectRef[Any]", todo: list[int], shards: int, *, earlier: bool
    ) -> None:
        self._writer, self._todo, self._shards = writer, todo, shards
        self._earlier = earlier
        self._committed: list[int] = []
        self._coverage: Coverage | None = None
        self._asked: list[Any] = []
        """What is to tell which parts there are, until it has."""
        self._has_asked = False
        self._at_work: list[Any] = []
        self._most = 1.0
        self._moved = time.monotonic()

    def work(self, tick: Tick) -> None:
        """Takes in what was committed, and starts what is due."""
        if not self._has_asked:
            self._has_asked = True
            self._asked = [_task(_find_added, self._writer)]
        if tick.receipts:
            self._committed += committed_in(tick.receipts)
        self._start(wait_s=0, at_end=False)

    def goes_on(self) -> bool:
        """Goes on at the end of the graph; tells whether there is more to wait for."""
        self._start(wait_s=_WAIT_S, at_end=True)
        is_waiting = bool(self._at_work) or bool(self._asked)
        return is_waiting and time.monotonic() - self._moved < _PATIENCE_S

    def _start(self, wait_s: float, *, at_end: bool) -> None:
        self._collect(wait_s)
        if self._coverage is None:
            return
        for place in self._committed:
            self._coverage.commit(place)
        self._committed.clear()
        while len(self._at_work) < self._most and (places := self._coverage.take(at_end=at_end)):
            self._at_work.append(_task(_add_up, self._writer, np.array(places, np.int32)))
            self._moved = time.monotonic()
            self._most = max(1, capacity.count_cores() / CORES_A_TASK)  # a request to Ray

    def _collect(self, wait_s: float) -> None:
        """Takes in what has ended, a task that failed too: who adds up all says what was wrong."""
        waiting = self._at_work if self._coverage else self._asked
        if not waiting:
            return
        ended, left = take_ended(waiting, wait_s)
        if ended:
            self._moved = time.monotonic()
        if self._coverage:
            self._at_work = left
        elif ended:
            added = []
            with contextlib.suppress(ray.exceptions.RayError):
                added = ray.get(self._asked[0])
            self._asked = []
            self._coverage = Coverage(self._shards, self._todo, added, earlier=self._earlier)


def _task(function: Callable[..., object], *arguments: object) -> object:
    """Starts a function on a worker; returns a reference to what it returns."""
    how = {"num_cpus": _CORES, "max_retries": _RETRIES, "scheduling_strategy": "SPREAD"}
    task = cast(Any, ray.remote(function)).options(name=function.__name__.strip("_"), **how)
    return task.remote(*arguments)


def _find_added(writer: Writer) -> list[npt.NDArray[np.int64]]:
    return places_added(writer.sink)


def _add_up(writer: Writer, places: npt.NDArray[np.int32]) -> None:
    add_part(writer.sink, places.tolist())
