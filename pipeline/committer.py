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

    _blocks: list[Block] = field(default_factory=list)
    _since: float = 0.0

    def add(self, block: Block) -> None:
        """Takes a block in."""
        if not self._blocks:
            self._since = time.monotonic()
        self._blocks.append(block)

    def take(self, *, at_once: bool = False) -> list[Any]:
        """Returns the blocks and forgets them if they are enough, or have waited; else none.

        Args:
            at_once: Whether nothing more is to come.
        """
        if not (self._blocks and (at_once or self._is_due())):
            return []
        found, self._blocks = [block.ref for block in self._blocks], []
        return found

    def _is_due(self) -> bool:
        rows = sum(block.rows for block in self._blocks)
        size = sum(block.size for block in self._blocks)
        waited = time.monotonic() - self._since
        return rows >= GATHER_ROWS or size >= GATHER_BYTES or waited >= GATHER_S


class Committer:
    """Commits what is gathered, several commits at a time."""

    def __init__(self, launch: Callable[..., Any], cores: Callable[[], float]) -> None:
        """Begins with nothing.

        Args:
            launch: Starts a commit of blocks on a worker, and returns a reference to its receipts.
            cores: Tells how many cores the cluster has now.
        """
        self._launch = launch
        self._cores = cores
        self._gathered = Gathered()
        self._at_work: list[Any] = []

    @property
    def is_idle(self) -> bool:
        """Whether everything that was added has been committed."""
        return not self._at_work

    @property
    def is_full(self) -> bool:
        """Whether the store is slower than the codecs, so that these have to wait."""
        count = len(self._at_work)
        return count >= _LEAST_AT_WORK and count >= self._cores()

    def add(self, block: Block) -> None:
        """Takes a block of finished rows in."""
        self._gathered.add(block)

    def work(self, *, at_once: bool, wait_s: float) -> Iterator[pa.Table]:
        """Starts a commit if one is due, and yields the receipts of those that have ended.

        Args:
            at_once: Whether nothing more is to come.
            wait_s: Most seconds to wait for one to end.
        """
        if blocks := self._gathered.take(at_once=at_once):
            self._at_work.append(self._launch(*blocks))
        if not self._at_work:
            return
        ended, self._at_work = ray.wait(self._at_work, num_returns=len(self._at_work), timeout=0)
        if not ended and wait_s:
            ended, self._at_work = ray.wait(self._at_work, num_returns=1, timeout=wait_s)
        for receipts in ray.get(ended):
            yield cast(pa.Table, receipts)
