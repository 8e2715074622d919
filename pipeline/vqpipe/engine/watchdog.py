"""What the driver sees of a graph that runs: receipts, counts, and whether anything moves."""

import contextlib
import math
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
from ray.actor import ActorHandle

from vqpipe.engine import capacity
from vqpipe.engine.committer import Committer, Receipts
from vqpipe.engine.counter import Tally
from vqpipe.engine.failures import explain
from vqpipe.engine.head import Head
from vqpipe.engine.outlet import Outlet
from vqpipe.engine.places import Place, describe_missing
from vqpipe.engine.timesheet import Timesheet
from vqpipe.errors import DeviceError, NoProgressError
from vqpipe.sink.commit import committed_in
from vqpipe.stages.attempts import ATTEMPTS

CODEC_CORES = 0.5
"""Logical cores that a codec needs, beside its device."""

_POLL_S = 0.5
_ASK_S = 1.0
"""Seconds between two questions to the counter, each of which takes two processes a millisecond or
two: blocks may come many times in a second."""


@dataclass(frozen=True)
class Tick:
    """What the driver learns from time to time."""

    receipts: pa.Table | None
    """`commit.RECEIPT`: what became durable since the last tick; None if nothing did."""
    counts: Tally
    """What the workers have done so far."""


@dataclass(frozen=True)
class Needs:
    """What a graph cannot do without."""

    kind: str
    """Kind of device of the codecs, `cuda` or `cpu`."""
    codecs: Place = field(default_factory=Place)
    """What codecs ask for beside."""
    workers: Place = field(default_factory=Place)
    """What all others ask for, beside some of a core."""
    opens: bool = True
    """Whether images are opened before."""
    shards: frozenset[int] = frozenset()
    """Places in the plan of the shards that are to be committed."""


def watch(
    dataset: ray.data.Dataset,
    commits: Committer | Receipts,
    counter: ActorHandle[Any],
    stall_timeout_s: float,
    needs: "Needs | None",
    cores: float | None = None,
) -> Generator[Tick, None, None]:
    """Yields ticks until all is committed, and gives up when nothing has moved for too long.

    Args:
        dataset: The graph; its rows are finished.
        commits: What commits them.
        counter: What the workers report to.
        stall_timeout_s: Seconds without progress after which the run is given up.
        needs: What the graph cannot do without; None where no codec is in it.
        cores: That images are opened on; None for all of the cluster.

    Raises:
        NoProgressError: If nothing moves for that long, or devices fail again and again.
        VqpipeError: Whatever a stage raised, or the handler of a signal.
    """
    failed: BaseException | None = None
    try:
        with contextlib.closing(Outlet(dataset)) as outlet:
            sheet = Timesheet(cores)
            yield from _rounds(outlet, commits, (counter, sheet), stall_timeout_s, needs)
    except Exception as error:  # noqa: BLE001 (in a SystemError comes what a signal's handler raises)
        failed = explain(error)
    if failed:
        raise failed


def _rounds(
    outlet: Outlet,
    commits: Committer | Receipts,
    accounts: tuple[ActorHandle[Any], Timesheet],
    stall_timeout_s: float,
    needs: "Needs | None",
) -> Iterator[Tick]:
    counts, head, seen, has_ended, asked = Tally(), Head(), _Seen(), False, 0.0
    counter, sheet = accounts
    goal = _Goal(needs.shards if needs else frozenset())
    while not ((has_ended or goal.is_reached) and commits.is_idle):
        if not (has_ended or commits.is_full):
            has_ended = _take(outlet, commits)
        for receipts in _work(commits, at_once=has_ended):
            seen.receive(receipts)
            sheet.receive(receipts)
            goal.receive(receipts)
            yield Tick(receipts, sheet.add_to(counts))
        answers = head.is_there()
        sheet.note(counts, is_full=commits.is_full or has_ended, can_ask=answers)
        if answers and commits.is_full:
            commits.widen(capacity.count_cores())
        if has_ended or time.monotonic() - asked >= _ASK_S:
            counts, asked = _poll(counter, counts, goal.take_new()), time.monotonic()
            seen.count(counts)
        yield Tick(None, sheet.add_to(counts))
        _check_devices(counts)
        if seen.idle_s > stall_timeout_s:
            raise NoProgressError(_describe_end(stall_timeout_s, seen, commits, needs))


class _Seen:
    """What was seen to move, and when."""

    def __init__(self) -> None:
        self.moved = time.monotonic()
        self.counts = self.before = Tally()
        self.durable = 0
        """Rows staged or committed."""

    @property
    def idle_s(self) -> float:
        """Seconds since anything moved."""
        return time.monotonic() - self.moved

    def receive(self, receipts: pa.Table) -> None:
        """Notes that something became durable."""
        counts = (pc.sum(receipts[name]).as_py() for name in ("good", "rejected", "left_out"))
        self.durable += sum(count or 0 for count in counts)
        self._move()

    def count(self, counts: Tally) -> None:
        """Notes what workers have done; not what is read: what is tried again reads for ever."""
        old, self.counts = self.counts, counts
        if (counts.encoded, counts.opened) != (old.encoded, old.opened):
            self._move()

    def _move(self) -> None:
        self.moved, self.before = time.monotonic(), self.counts


class _Goal:
    """All that is to be committed; tasks that are at it still, for whatever reason, are left."""

    def __init__(self, shards: frozenset[int]) -> None:
        self._left = set(shards)
        self._new: list[int] = []
        self._since = math.inf

    @property
    def is_reached(self) -> bool:
        """Whether all of it was committed, some while ago: until then, the graph ends by itself."""
        return time.monotonic() - self._since > _LINGER_S

    def receive(self, receipts: pa.Table) -> None:
        """Notes what was committed."""
        committed = committed_in(receipts)
        self._new += committed
        if self._left:
            self._left -= set(committed)
            self._since = math.inf if self._left else time.monotonic()

    def take_new(self) -> list[int]:
        """Returns what was committed since the last call."""
        new, self._new = self._new, []
        return new


_LINGER_S = 5.0


def _take(outlet: Outlet, commits: Committer | Receipts) -> bool:
    """Hands over all finished blocks, after a while of waiting if there are none.

    What became durable is not to wait for the counter's answers, which take long on a busy machine:
    the error budget is judged by it.

    Returns:
        Whether the graph has ended.
    """
    blocks, has_ended = outlet.take(_POLL_S)
    for block in blocks:
        commits.add(block)
    return has_ended


def _work(commits: Committer | Receipts, *, at_once: bool) -> Iterator[pa.Table]:
    """Has commits started, and returns the receipts of those that have ended."""
    wait_s = _POLL_S if at_once or commits.is_full else 0.0
    return commits.work(at_once=at_once, wait_s=wait_s)


def _poll(counter: ActorHandle[Any], before: Tally, committed: list[int]) -> Tally:
    try:
        return cast(Tally, ray.get(counter.read.remote(committed), timeout=_POLL_S))
    except ray.exceptions.RayError:  # its node is gone or busy: the receipts still count
        return before


def _check_devices(counts: Tally) -> None:
    if counts.failures >= ATTEMPTS:
        raise DeviceError(
            f"the device of a codec failed in {counts.failures} processes in a row, with no image "
            f"encoded in between; the last time: {counts.failure}. Everything committed is safe: "
            "look at that machine (nvidia-smi, dmesg), and run the same command again"
        )


def _describe_end(
    timeout_s: float, seen: _Seen, commits: Committer | Receipts, needs: Needs | None
) -> str:
    if needs:
        return _describe_stall(timeout_s, seen, commits, needs)
    return (
        f"nothing was read or committed for {timeout_s:g} s. So far {seen.counts.read:,} images "
        f"were read and {seen.durable:,} committed. The cluster has {_describe_free()}: look at "
        "the stores of source and sink, at the disks that Ray spills to, and whether a worker has "
        "memory for thrice the rows of a file. Everything committed is safe: run the same command "
        "again when that is mended (--stall-timeout-s waits longer)"
    )


def _describe_stall(
    timeout_s: float, seen: _Seen, commits: Committer | Receipts, needs: Needs
) -> str:
    counts, before = seen.counts, seen.before
    moved = (
        f"{counts.read:,} images were read ({counts.read - before.read:,} of them since), "
        f"{counts.opened:,} opened, {counts.encoded:,} through a codec, {seen.durable:,} rows "
        "committed or staged"
    )
    return (
        f"no image was opened, encoded or committed for {timeout_s:g} s. So far {moved}. "
        f"{_describe_waiting(counts, commits, needs)} A codec needs {_describe_needed(needs)}, and "
        f"the cluster has {_describe_free(needs)}. Everything committed is safe: run the same "
        "command again when that is mended (--stall-timeout-s waits longer)"
    )


def _describe_needed(needs: Needs) -> str:
    """Returns what a codec needs, in words."""
    device = "1 GPU" if needs.kind == "cuda" else f"{CODEC_CORES} cores"
    asked = needs.codecs.describe()
    return asked if "GPU" in needs.codecs.resources else " and ".join(filter(None, [device, asked]))


def _describe_waiting(counts: Tally, commits: Committer | Receipts, needs: Needs) -> str:
    """Returns what waits for what, in a sentence, from the end of the graph to its start."""
    if not commits.is_idle:
        return "Finished rows wait to be committed: look at the store of the sink."
    if not counts.codecs:
        return "No codec is ready yet: look whether there is a device, and memory for the model."
    if (counts.opened if needs.opens else counts.read) > counts.encoded:
        return "The codecs have work, and do not answer: look at their machines."
    if counts.read > counts.encoded:
        return (
            "Images that were read wait to be opened, which takes a core and room in Ray's object "
            "store: large images need more of it."
        )
    return "Nothing more could be read: look at the store of the source."


def _describe_free(needs: Needs | None = None) -> str:
    """Returns how much of what is needed is free, and what no machine has."""
    total, free, asked = capacity.resources(), capacity.free_resources(), needs or Needs("cpu")
    named = [*asked.codecs.resources, *asked.workers.resources]
    said = ", ".join(
        f"{free.get(each, 0):g} of {total.get(each, 0):g} {_plural(each)} free"
        for each in dict.fromkeys(["CPU", "GPU", *named])
    )
    places = ("Codecs", asked.codecs), ("Other workers", asked.workers)
    machines = capacity.machines() if asked.codecs or asked.workers else []
    missing = [text for who, place in places if (text := describe_missing(place, machines, who))]
    return ". ".join([said, *missing])


def _plural(resource: str) -> str:
    return f"{resource}s" if resource in {"CPU", "GPU"} else resource
