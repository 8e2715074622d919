"""What this process has asked of stores so far: seconds of waiting, requests, bytes.

Whoever wants to know what some work asked for takes the difference. Of requests at the same time
the seconds of each count. Disks take calls, not requests: their seconds and bytes count.
"""

import contextlib
import operator
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple


class Usage(NamedTuple):
    """What was asked of stores."""

    wait_s: float = 0.0
    requests: int = 0
    """Answers that came over a network."""
    read_bytes: int = 0
    written_bytes: int = 0

    def since(self, before: "Usage") -> "Usage":
        """Returns what came after an earlier look."""
        return Usage(*map(operator.sub, self, before))

    def plus(self, more: "Usage") -> "Usage":
        """Returns both together."""
        return Usage(*map(operator.add, self, more))


_lock = threading.Lock()
_used = Usage()


def used() -> Usage:
    """Returns what was asked of stores up to now."""
    return _used


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """Counts the seconds of a block as waiting for a store."""
    begun = time.monotonic()
    try:
        yield
    finally:
        _add(Usage(wait_s=time.monotonic() - begun))


def note_request() -> None:
    """Counts an answer that came over a network."""
    _add(Usage(requests=1))


def note_read(size: int) -> None:
    """Counts bytes that came out of a store."""
    _add(Usage(read_bytes=size))


def note_written(size: int) -> None:
    """Counts bytes that went into one."""
    _add(Usage(written_bytes=size))


def _add(more: Usage) -> None:
    global _used  # noqa: PLW0603 (of the whole process, whichever thread asks)
    with _lock:
        _used = _used.plus(more)
