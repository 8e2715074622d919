"""What workers tell the counter, added up in their processes so that few messages do.

Each message costs the counter's process a third of a millisecond or more, and there is one counter
however many workers a cluster has.
"""

import contextlib
import functools
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import ray
from ray.actor import ActorHandle

from vqpipe.engine import capacity
from vqpipe.occupancy import Spent

_SHARE = 0.02
"""Of the age of a process that passes between two messages at most: a short run is shown as it
goes, and of a long one a fiftieth is lost with a process, or at the end, at most."""
_SHORT_S, _LONG_S = 1.0, 15.0
"""Between two messages at most, on one machine and on the largest clusters ..."""
_CORES = 300
"""... and a second more for each so many cores: in all, so many messages a second."""
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


class Ended(NamedTuple):
    """A shard of which a task has read all, or will read no more; one argument is sent sooner."""

    shard: int
    """Place in the plan."""
    what: str
    """What it was begun as."""
    is_read: bool
    """Whether it was read to its end."""
    report: Report
    """What the task has done and not told yet."""
    where: str
    """On which machine."""


class Teller:
    """Who in a process tells the counter what is done there; for all of its threads.

    What is noted is told at once, or else, by a thread of its own, as soon as enough time has
    passed since the last message.
    """

    def __init__(self, tell: Callable[[Report], Any], longest_s: float = _SHORT_S) -> None:
        """Begins with nothing.

        Args:
            tell: Sends a report, without waiting for an answer.
            longest_s: Seconds between two messages at most, however old the process is.
        """
        self._tell, self._longest_s = tell, longest_s
        self._untold = Report()
        self._born = time.monotonic()
        self._due = self._born
        self._lock = threading.Lock()
        self._waker: threading.Event | None = None

    def note(self, report: Report) -> None:
        """Adds what was done to what is to be told, by and by."""
        with self._lock:
            self._untold = self._untold.plus(report)
            if time.monotonic() >= self._due:
                self._send()
            else:
                self._wake()

    def take(self) -> Report:
        """Returns what is not told yet, for somebody who tells it along with something else."""
        with self._lock:
            report, self._untold = self._untold, Report()
            self._put_off()
        return report

    def flush(self) -> None:
        """Tells what is not told yet."""
        with self._lock:
            self._send()

    def _send(self) -> None:
        if self._untold != Report():
            self._tell(self._untold)
            self._untold = Report()
        self._put_off()

    def _put_off(self) -> None:
        now = time.monotonic()
        self._due = now + min(self._longest_s, _SHARE * (now - self._born))

    def _wake(self) -> None:
        """Has the thread look when the next message is due; there is one from the first time on."""
        if self._waker is None:
            with contextlib.suppress(RuntimeError):  # no more threads: whoever notes next tells it
                waker = threading.Event()
                thread = threading.Thread(target=self._look, args=(waker,), name="vqpipe teller")
                thread.daemon = True
                thread.start()
                self._waker = waker
        if self._waker:
            self._waker.set()

    def _look(self, waker: threading.Event) -> None:
        while waker.wait():
            waker.clear()
            while (left_s := self._due - time.monotonic()) > 0:
                time.sleep(left_s)
            self.flush()


@functools.lru_cache(maxsize=2)
def teller(counter: ActorHandle[Any], *, is_named: bool = True) -> Teller:
    """Returns this process' teller of a counter.

    Args:
        counter: Who is told.
        is_named: Whether the counter is to know which machine did it.
    """
    where = here() if is_named else ""
    cores = capacity.count_cores() if ray.is_initialized() else 0
    longest_s = min(_LONG_S, max(_SHORT_S, cores / _CORES))
    return Teller(lambda report: counter.tell.remote(report, where), longest_s)


def here() -> str:
    """Returns what the machine of this worker is called: its address, and the end of Ray's id."""
    return _name_machine() if ray.is_initialized() else "this machine"


@functools.cache
def _name_machine() -> str:
    node_id = ray.get_runtime_context().get_node_id()
    address = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return f"{address}/{node_id[-_ID_DIGITS:]}"
