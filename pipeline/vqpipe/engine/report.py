"""What workers tell the counter, added up in their processes so that few messages do.

Each message costs the counter's process a third of a millisecond, and there is one counter however
many workers a cluster has.
"""

import functools
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import ray
from ray.actor import ActorHandle

from vqpipe.occupancy import Spent

_SHARE = 0.02
"""Of the age of a process that may pass between two messages: a short run is shown as it goes, and
of a long one no more than that is ever untold."""
_LONGEST_S = 15.0
"""Between two messages, whatever the age."""
_QUIET_S = 0.5
"""After which a process that has no more to do tells the rest."""
_ID_DIGITS = 6
"""Of a node's id: one address may have been that of several nodes."""


class Report(NamedTuple):
    """What workers have done; two of them add up."""

    read: int = 0
    """Samples read."""
    read_bytes: int = 0
    """Bytes of the source that they took, of finished shards all."""
    opened: int = 0
    """Images opened; those of a task that is tried again count again."""
    encoded: int = 0
    """Images through the codecs."""
    spent: Spent = Spent()
    """What they spent their time on, and how much of it there was."""
    gpu_memory: tuple[int, int] | None = None
    """Most bytes of a GPU's memory that were in use, and bytes that it has; None if not known."""

    def plus(self, other: "Report") -> "Report":
        """Returns both together."""
        memory = [each for each in (self.gpu_memory, other.gpu_memory) if each]
        return Report(
            self.read + other.read,
            self.read_bytes + other.read_bytes,
            self.opened + other.opened,
            self.encoded + other.encoded,
            self.spent.plus(other.spent),
            max(memory, default=None),
        )


class Teller:
    """Who in a process tells the counter what is done there, ever more rarely; for all threads."""

    def __init__(self, tell: Callable[[Report], Any]) -> None:
        """Begins with nothing.

        Args:
            tell: Sends a report, without waiting for an answer.
        """
        self._tell = tell
        self._lock = threading.Lock()
        self._untold = Report()
        self._born = self._told = self._noted = time.monotonic()
        self._is_watched = False

    def note(self, report: Report) -> None:
        """Adds what was done to what is to be told, by and by."""
        with self._lock:
            self._untold = self._untold.plus(report)
            self._noted = time.monotonic()
            is_due = self._is_due(self._noted)
            begins, self._is_watched = not (is_due or self._is_watched), not is_due
        if is_due:
            self.flush()
        elif begins:
            self._watch()

    def take(self) -> Report:
        """Returns what is not told yet, for somebody who tells it along with something else."""
        with self._lock:
            report, self._untold = self._untold, Report()
            self._told = time.monotonic()
        return report

    def flush(self) -> None:
        """Tells what is not told yet."""
        report = self.take()
        if report != Report():
            self._tell(report)

    def _is_due(self, now: float) -> bool:
        return now - self._told >= min(_LONGEST_S, _SHARE * (now - self._born))

    def _watch(self) -> None:
        timer = threading.Timer(_QUIET_S, self._look)
        timer.daemon = True
        timer.start()

    def _look(self) -> None:
        """Tells the rest if nothing was added for a while."""
        with self._lock:
            now = time.monotonic()
            is_over = now - self._noted >= _QUIET_S or self._is_due(now)
            self._is_watched = not is_over
        if is_over:
            self.flush()
        else:
            self._watch()


@functools.lru_cache(maxsize=4)
def teller(counter: ActorHandle[Any], *, is_named: bool = True) -> Teller:
    """Returns this process' teller of a counter.

    Args:
        counter: Who is told.
        is_named: Whether the counter is to know which machine did it.
    """
    where = here() if is_named else ""
    return Teller(lambda report: counter.tell.remote(report, where))


def here() -> str:
    """Returns what the machine of this worker is called: its address, and the end of Ray's id."""
    return _name_machine() if ray.is_initialized() else "this machine"


@functools.cache
def _name_machine() -> str:
    node_id = ray.get_runtime_context().get_node_id()
    address = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return f"{address}/{node_id[-_ID_DIGITS:]}"
