"""Finished rows on their way to the sink: gathered for a few seconds, then committed by a worker.

The driver gathers, since it alone sees all of them: by the clock, so that what a stop can cost is
bounded however slow the codecs are, and by rows and bytes, so that fast ones do not stage thousands
of small objects. It holds references; rows go from worker to worker.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import pyarrow as pa
import ray

GATHER_S = 5.0
"""Most seconds that finished rows wait for others to be committed with."""
GATHER_ROWS = 4096
"""Rows that are committed at once, a block more at most."""
GATHER_BYTES = 64 * 2**20
"""Bytes that are, a block more at most; what `decode` makes is large."""
_LEAST_AT_WORK = 4
"""Commits at once on the smallest cluster; they mostly wait for the store."""


class Block(NamedTuple):
    """A block of finished rows."""

    ref: Any
    rows: int
    size: int
    """Bytes."""


@dataclass
class Gathered:
    """Blocks that wait to be committed together."""

    _waiting: list[tuple[float, Block]] = field(default_factory=list)
    """With the seconds at which each came."""

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, block: Block) -> None:
        """Takes a block in."""
        self._waiting.append((time.monotonic(), block))

    def take(self, *, at_once: bool = False) -> list[Any]:
        """Returns the first blocks, as many as make a commit, and forgets them.

        None are returned if they are too few for one and have not waited for long.

        Args:
            at_once: Whether nothing more is to come.
        """
        count, is_enough = self._measure()
        if not (is_enough or at_once or self._waited_s() >= GATHER_S):
            return []
        found, self._waiting = self._waiting[:count], self._waiting[count:]
        return [block.ref for _, block in found]

    def _measure(self) -> tuple[int, bool]:
        """Returns how many of the blocks a commit takes, and whether that is a full one."""
        rows = size = 0
        for count, (_, block) in enumerate(self._waiting, start=1):
            rows, size = rows + block.rows, size + block.size
            if rows >= GATHER_ROWS or size >= GATHER_BYTES:
                return count, True
        return len(self._waiting), False

    def _waited_s(self) -> float:
        return time.monotonic() - self._waiting[0][0] if self._waiting else 0.0


def take_ended(references: list[Any], wait_s: float) -> tuple[list[Any], list[Any]]:
    """Returns the references whose tasks have ended, all of them, and the others.

    Args:
        references: One or more.
        wait_s: Most seconds to wait for one to end, if none has.
    """
    ended, left = ray.wait(references, num_returns=len(references), timeout=0)
    if not ended and wait_s:
        return ray.wait(references, num_returns=1, timeout=wait_s)
    return ended, left


class Committer:
    """Commits what is gathered, several commits at a time."""

    def __init__(self, launch: Callable[..., Any]) -> None:
        """Begins with nothing.

        Args:
            launch: Starts a commit of blocks on a worker, and returns a reference to its receipts.
        """
        self._launch = launch
        self._most: float = _LEAST_AT_WORK
        self._gathered = Gathered()
        self._at_work: list[Any] = []

    @property
    def is_idle(self) -> bool:
        """Whether everything that was added has been committed."""
        return not (self._at_work or self._gathered)

    @property
    def is_full(self) -> bool:
        """Whether the store is slower than the codecs, so that these have to wait."""
        return len(self._at_work) >= self._most

    def widen(self, cores: float) -> None:
        """Has as many commits at a time as the cluster has cores."""
        self._most = max(_LEAST_AT_WORK, cores)

    def add(self, block: Block) -> None:
        """Takes a block of finished rows in."""
        self._gathered.add(block)

    def work(self, *, at_once: bool, wait_s: float) -> Iterator[pa.Table]:
        """Starts the commits that are due, and yields the receipts of those that have ended.

        Args:
            at_once: Whether nothing more is to come.
            wait_s: Most seconds to wait for one to end.
        """
        while not self.is_full and (blocks := self._gathered.take(at_once=at_once)):
            self._at_work.append(self._launch(*blocks))
        if not self._at_work:
            return
        ended, self._at_work = take_ended(self._at_work, wait_s)
        for receipts in ray.get(ended):
            yield cast(pa.Table, receipts)


class Receipts:
    """Takes a `Committer`'s place where blocks are receipts: rows were committed on their way."""

    def __init__(self) -> None:
        self._waiting: list[Any] = []

    @property
    def is_idle(self) -> bool:
        """Whether all that was added has been handed on."""
        return not self._waiting

    @property
    def is_full(self) -> bool:
        """Whether what comes is more than can be taken; never."""
        return False

    def widen(self, cores: float) -> None:
        """Does nothing: the graph is as wide as it is."""

    def add(self, block: Block) -> None:
        """Takes a block of receipts in."""
        self._waiting.append(block.ref)

    def work(self, *, at_once: bool, wait_s: float) -> Iterator[pa.Table]:  # noqa: ARG002 (a committer's)
        """Yields what has come."""
        waiting, self._waiting = self._waiting, []
        for receipts in ray.get(waiting):
            yield cast(pa.Table, receipts)
