"""Requests that are given up when they take too long, whatever keeps them.

A client gives up where a store says nothing for a while; not where an answer trickles in, nor where
the disk of another machine hangs, which the kernel waits for as long as it takes.
"""

from collections.abc import Callable
from typing import TypeVar

from vqpipe.errands import Errands
from vqpipe.storage.retries import StalledError

SILENT_S = 60.0
"""Seconds that any request may take."""
SLOWEST_BYTES_PER_S = 2**16
"""Below this (64 KiB/s) it is no read but a standstill."""

Result = TypeVar("Result")


class Courier:
    """A thread that makes one request after the other; with one that never ends it is left alone.

    What such a request uses must not be used again: nobody knows when it comes to life.
    """

    def __init__(self) -> None:
        self._errands: Errands | None = None

    def fetch(
        self, request: Callable[[], Result], size: int, let_go: Callable[[], object] = int
    ) -> Result:
        """Returns what a request returns, or raises what it raises.

        Args:
            request: What is done; by one thread, whoever asks.
            size: Bytes that it may transfer, by which the time is that it is given.
            let_go: Called when a request has come to its end after all that was given up.

        Raises:
            StalledError: If it takes longer.
        """
        if self._errands is None:
            self._errands = Errands("vqpipe courier")
        answer = self._errands.do(request)
        most_s = SILENT_S + size / SLOWEST_BYTES_PER_S
        try:
            return answer.result(most_s)
        except TimeoutError:
            if answer.done():  # the request's own error
                raise
        self.close()
        answer.add_done_callback(lambda _: let_go())
        raise StalledError(f"{size:,} bytes did not come within {most_s:.0f} s")

    def close(self) -> None:
        """Lets the thread end, as soon as it can."""
        if self._errands is not None:
            self._errands.end()
            self._errands = None
