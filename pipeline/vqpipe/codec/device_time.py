"""For how long the devices of this process were at work on forwards, by their own clocks.

A GPU works behind the host's back: the time that a call takes says nothing. Two events in the
stream, one before the kernels of a batch and one behind its results, have the device's time.
"""

import threading
import time

import torch

_lock = threading.Lock()
_total_s = 0.0


def total_s() -> float:
    """Returns the seconds so far, of all codecs of this process."""
    return _total_s


class Lap:
    """One forward, from when it is made."""

    def __init__(self, device: torch.device) -> None:
        self._begun = self._mark() if device.type == "cuda" else None
        self._started = time.perf_counter()

    @staticmethod
    def _mark() -> "torch.cuda.Event":
        event = torch.cuda.Event(enable_timing=True, blocking=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def end(self) -> "torch.cuda.Event | None":
        """Marks where the results are there, and returns what to wait for; on a CPU they are."""
        if self._begun is not None:
            return self._mark()
        _add(time.perf_counter() - self._started)
        return None

    def count(self, ended: "torch.cuda.Event") -> None:
        """Counts a forward of a GPU, which has ended."""
        if self._begun is not None:
            _add(self._begun.elapsed_time(ended) / 1000)


def _add(seconds: float) -> None:
    global _total_s  # noqa: PLW0603 (of the whole process, whichever codec worked)
    with _lock:
        _total_s += seconds
