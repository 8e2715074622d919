"""What one worker spends its seconds on, to be told with whatever else it tells."""

import time
from collections import defaultdict

from vqpipe import storage
from vqpipe.occupancy import Spent


class Stopwatch:
    """Seconds by what a task that reads does, one thing at a time, from the start on."""

    def __init__(self) -> None:
        self._doing, self._since = "asked_s", time.monotonic()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._used = storage.used()

    def turn_to(self, doing: str) -> None:
        """Begins with something else: `read_s`, `asked_s` or `held_s` (`Spent`)."""
        now = time.monotonic()
        self._seconds[self._doing] += now - self._since
        self._doing, self._since = doing, now

    def take(self) -> Spent:
        """Returns what was spent since the last time, with what the source's store was asked."""
        self.turn_to(self._doing)
        seconds, self._seconds = self._seconds, defaultdict(float)
        before, self._used = self._used, storage.used()
        used = self._used.since(before)
        return Spent(
            **seconds,
            read_wait_s=used.wait_s,
            fetched_bytes=used.read_bytes,
            fetches=used.requests,
        )
