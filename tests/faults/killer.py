"""Kills processes of a run at random moments, under a seed that can be given again.

    with Killer(descendants(process.pid), every_s=1, most=20) as killer:
        process.communicate()
    killer.kills  # what was killed when

A seed fixes the draws, not the machine: the same one gives about the same moments.
"""

import contextlib
import os
import random
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass

import psutil

SEED = "VQPIPE_SEED"
"""Environment variable with the seed of what is random in a test."""

KINDS = {
    "read": r"ray::MapBatches\(read\)",
    "open": r"ray::MapBatches\((open|read)_views\)",
    "sandbox": r".* -m vqpipe\.images\.sandbox ",
    "codec": r"ray::MapWorker\(MapBatches\(CodecActor\)\)",
    "commit": r"ray::commit",
}
"""What can be killed, by pattern of its command line."""

_LOOK_EVERY_S = 0.03
_PATIENCE_S = 2.0
_FEW = 3


def seeded():
    """Returns a random generator, and prints its seed."""
    seed = os.environ.get(SEED) or str(random.randrange(2**32))
    print(f"{SEED}={seed}")
    return random.Random(seed)


def descendants(pid):
    """Returns a function that finds all processes below one, until that one is gone."""

    def find():
        try:
            return psutil.Process(pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    return find


@dataclass(frozen=True)
class Kill:
    after_s: float
    """Seconds since the killer started."""
    kind: str
    pid: int


class Killer:
    """A context manager with a thread that kills; the kinds killed least so far come first.

    Until each kind has had its turn, none gets more than a few: a codec that is killed before it
    is ready would hold up the commits for ever.

    Args:
        find: Returns the processes to choose from; see `descendants`.
        kinds: Which of `KINDS` to kill.
        every_s: Mean time between kills; the moments are a Poisson process.
        most: Kills after which it stops; None for no end.
        rng: What makes the draws; by default one with a seed of its own.
    """

    def __init__(self, find, kinds=tuple(KINDS), every_s=1.0, most=None, rng=None):
        self.kills = []
        self._find = find
        self._kinds = {kind: re.compile(KINDS[kind]) for kind in kinds}
        self._every_s = every_s
        self._most = most
        self._rng = rng or seeded()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._started = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
        print(*self.kills, sep="\n")

    def count(self):
        """Returns how often each kind was killed."""
        return Counter(kill.kind for kill in self.kills)

    def _run(self):
        while self._most is None or len(self.kills) < self._most:
            if self._stop.wait(self._rng.expovariate(1 / self._every_s)):
                return
            victim = self._choose()
            if victim is None:
                return
            kind, process = victim
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
                after_s = round(time.monotonic() - self._started, 2)
                self.kills.append(Kill(after_s, kind, process.pid))

    def _choose(self):
        """Waits for something to kill; the longer, the less it matters what."""
        deadline = time.monotonic() + _PATIENCE_S
        while not self._stop.wait(_LOOK_EVERY_S):
            killed = self.count()
            rare = min(killed[kind] for kind in self._kinds)
            found = [each for each in self._present() if rare or killed[each[0]] < _FEW]
            wanted = [each for each in found if killed[each[0]] == rare]
            if wanted or (found and time.monotonic() > deadline):
                return self._draw(wanted or found)
        return None

    def _draw(self, found):
        """Returns one at random: first a kind, then one of it."""
        kind = self._rng.choice(sorted({kind for kind, _ in found}))
        return self._rng.choice([each for each in found if each[0] == kind])

    def _present(self):
        found = []
        for process in self._find():
            with contextlib.suppress(psutil.NoSuchProcess):
                line = " ".join(process.cmdline())
                found += [
                    (kind, process) for kind, is_it in self._kinds.items() if is_it.match(line)
                ]
        return found
