"""Runs one side of a comparison, and says what it did: images/s, seconds, memory if it is asked."""

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import psutil

from tests.benchmarks import curve

_LOOK_S = 1.0
_TIMEOUT_S = 1800


class Done(NamedTuple):
    """What a side did."""

    rate: float
    """Images/s of the steady part."""
    work_s: float
    """Seconds from the first images to the end of the process."""
    total_s: float
    """Seconds from start to end of the process."""
    images: int
    peak: int = 0
    """Most bytes of the process and all below it, pages that several share counted once; 0 if
    nobody looked."""


def run(side, source, sink, environment=(), *, looks_at_memory=False):
    """Runs `tests.benchmarks.peers.<side>` in a process of its own.

    Args:
        side: Its name.
        source: Folder or URI of the images.
        sink: Folder that it writes; it is removed before and after.
        environment: More of it, by name.
        looks_at_memory: Whether that is measured too, which takes time from whoever has much of it
            in many processes: with Ray, a twelfth of a core, and a tenth of the rate.
    """
    lines = Path(f"{sink}.curve")
    lines.unlink(missing_ok=True)
    shutil.rmtree(sink, ignore_errors=True)
    command = [sys.executable, "-m", f"tests.benchmarks.peers.{side}", str(source), str(sink)]
    own = {curve.FILE: str(lines), "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    begun = time.time()
    process = subprocess.Popen(
        command,
        env={**os.environ, **own, **dict(environment)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    peak = _Peak(process.pid)
    with peak if looks_at_memory else contextlib.nullcontext():
        _, said = process.communicate(timeout=_TIMEOUT_S)
    ended = time.time()
    shutil.rmtree(sink, ignore_errors=True)
    if process.returncode:
        raise RuntimeError(f"{side} ended with {process.returncode}: {said[-2000:]}")
    points = curve.read(lines)
    seconds = ended - points[0][0], ended - begun
    return Done(curve.rate(points), *seconds, int(points[-1][1]), peak.bytes)


class _Peak:
    """Looks at the memory of a process and all below it, for the length of a block."""

    def __init__(self, pid):
        self.bytes = 0
        self._process = psutil.Process(pid)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        self._thread.join()

    def _look(self):
        while not self._done.wait(_LOOK_S):
            self.bytes = max(self.bytes, self._sum())

    def _sum(self):
        try:
            tree = [self._process, *self._process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return 0
        return sum(map(_pss, tree))


def _pss(process):
    try:
        rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    except OSError:  # it has ended
        return 0
    line = next(line for line in rollup.splitlines() if line.startswith("Pss:"))
    return int(line.split()[1]) * 1024
