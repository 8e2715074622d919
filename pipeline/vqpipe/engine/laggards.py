"""Shards that take far longer than their peers: which they are, and who does them a second time.

    overdue  begun and not read to its end, for several times as long as others took to be committed
    held up  not begun, behind one that is overdue in the same task

What takes long may be the shard, or the machine that has it: a connection that trickles, a core
that others use, a disk that hangs. So it is done again where another machine has nothing else left
to do; whoever is first commits it, and the other changes nothing. Of one that is read to its end
the rows may wait for others, to fill a batch of a codec: it is late no more.
"""

import statistics
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

FACTOR, LEAST_S = 4.0, 60.0
"""A shard is overdue when it has taken so many times what its peers took, and no less seconds."""

_ENOUGH = 5
"""Committed shards before anything is known of how long one takes."""
_REMEMBERED = 200
"""Of the last ones, by which it is known."""
_TIMES = 3
"""How often one shard is done at most."""
_MOST = 200
"""Of those that are told of."""


class Laggard(NamedTuple):
    """A shard that is done a second time, or would be if another machine were free."""

    shard: int
    """Place in the plan."""
    seconds: float
    """Since it was begun."""
    usual_s: float
    """What a shard of its size takes."""
    node: str
    """Address of the machine that has it."""
    again_on: str | None
    """Address of the machine that does it again; None if it is not done again so far."""


@dataclass(eq=False)
class _Task:
    """A task of some shards, one after the other; as it was given out, it is like no other."""

    node: str
    shards: Sequence[int]
    is_stuck: bool = False


@dataclass
class _Begun:
    """A shard that was begun and is not committed yet."""

    at: float
    task: _Task
    times: int
    is_read: bool = False


@dataclass
class Laggards:
    """What is known of the shards of one command; seconds are those of any one clock."""

    factor: float = FACTOR
    least_s: float = LEAST_S
    found: list[Laggard] = field(default_factory=list)
    """Those that were found, and again when a machine took them; `_MOST` at most."""
    _noted: set[int] = field(default_factory=set)
    _sizes: dict[int, int] = field(default_factory=dict)
    _waiting: dict[int, _Task] = field(default_factory=dict)
    _begun: dict[int, _Begun] = field(default_factory=dict)
    _committed: set[int] = field(default_factory=set)
    _took: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    _usual: tuple[float, float] | None = None

    @property
    def is_over(self) -> bool:
        """Whether all that was handed out is read to its end, or committed."""
        return not self._waiting and all(each.is_read for each in self._begun.values())

    def hand_out(self, shards: Sequence[int], sizes: Sequence[int], node: str) -> None:
        """Notes that a task on a machine has shards, of so many bytes, to do in this order."""
        task = _Task(node, tuple(shards))
        self._sizes.update(zip(shards, sizes, strict=True))
        self._waiting.update(dict.fromkeys(set(shards) - self._committed, task))

    def begin(self, shard: int, now: float) -> None:
        """Notes that the task which has a shard has begun it."""
        task = self._waiting.pop(shard, None)
        if task is not None and shard not in self._committed:
            self._begun[shard] = _Begun(now, task, self._times(shard) or 1)

    def end(self, shard: int) -> None:
        """Notes that somebody has read a shard to its end."""
        if begun := self._begun.get(shard):
            begun.is_read = True

    def is_read(self, shard: int) -> bool:
        """Tells whether somebody has."""
        begun = self._begun.get(shard)
        return shard in self._committed or (begun is not None and begun.is_read)

    def commit(self, shards: Iterable[int], now: float) -> None:
        """Notes that shards are committed."""
        for shard in set(shards) - self._committed:
            self._committed.add(shard)
            self._waiting.pop(shard, None)
            if begun := self._begun.pop(shard, None):
                self._took.append((now - begun.at, self._sizes[shard]))
                self._usual = None

    def look(self, now: float) -> None:
        """Finds those that are overdue by now (`found`)."""
        for shard in self._overdue(now):
            if shard not in self._noted:
                self._note(shard, now, None)

    def again(self, node: str, now: float) -> int | None:
        """Returns a shard for a machine to do a second time, none that it has itself; or None."""
        for shard in self._overdue(now):
            begun = self._begun[shard]
            if begun.task.node != node and begun.times < _TIMES:
                begun.task.is_stuck = True
                self._note(shard, now, node)
                return self._give(shard, node, now)
        for shard, task in self._waiting.items():
            if task.is_stuck and task.node != node:
                return self._give(shard, node, now)
        return None

    def usual_s(self, size: int) -> float | None:
        """Returns how long shards of some bytes take; None while too few are committed."""
        if len(self._took) < _ENOUGH:
            return None
        if self._usual is None:
            seconds, sizes = zip(*self._took, strict=True)
            self._usual = statistics.median(seconds), max(1.0, statistics.median(sizes))
        usual_s, usual_size = self._usual
        return float(usual_s * max(1.0, size / usual_size))

    def _overdue(self, now: float) -> list[int]:
        """Returns the shards that are overdue, those begun first before others."""
        found = []
        for shard, begun in self._begun.items():
            usual_s = self.usual_s(self._sizes[shard])
            if usual_s is None:
                return []
            is_late = now - begun.at > max(self.least_s, self.factor * usual_s)
            if is_late and not begun.is_read:
                found.append(shard)
        return sorted(found, key=lambda shard: self._begun[shard].at)

    def _note(self, shard: int, now: float, again_on: str | None) -> None:
        self._noted.add(shard)
        begun, usual_s = self._begun[shard], self.usual_s(self._sizes[shard]) or 0.0
        if len(self.found) < _MOST:
            self.found.append(Laggard(shard, now - begun.at, usual_s, begun.task.node, again_on))

    def _give(self, shard: int, node: str, now: float) -> int:
        """Gives one shard to a machine."""
        self._waiting.pop(shard, None)
        self._begun[shard] = _Begun(now, _Task(node, (shard,)), self._times(shard) + 1)
        return shard

    def _times(self, shard: int) -> int:
        """Returns how often a shard has been begun, its task's own repetitions left out."""
        begun = self._begun.get(shard)
        return begun.times if begun else 0
