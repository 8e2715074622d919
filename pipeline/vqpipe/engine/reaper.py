"""Ends what a Ray of this machine leaves behind when its driver is killed.

Ray 2.60 has the kernel kill head and raylet with the driver, and the rest is to notice by itself.
Its agents and every worker that is just starting wait a minute for the head first, and a worker now
and then stays for ever: with a GPU, so does the memory it holds. Hence a process that waits for the
end of a pipe which the driver holds, and which the kernel closes however the driver ends. Then it
kills whatever has this driver's mark in its environment.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

_MARK = "VQPIPE_LOCAL_RAY"
_PROC = Path("/proc")
_PAUSE_S = 0.1
_PATIENCE_S = 60.0
_QUIET_SCANS = 5  # a process may be between fork and exec, when it has no environment to read


@contextlib.contextmanager
def leave_nothing() -> Iterator[dict[str, str]]:
    """Sees to it that what is started with the yielded environment ends with this process.

    It ends with the `with` block, too. Without Linux's /proc the environment is empty: there Ray
    starts a reaper of its own.
    """
    if not (_PROC / "self" / "environ").exists():
        yield {}
        return
    value = uuid.uuid4().hex
    reaper = subprocess.Popen(  # noqa: S603 (this very file, no shell)
        [sys.executable, "-I", "-S", __file__, f"{_MARK}={value}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C and hang-ups are for the driver
    )
    try:
        # By default Ray's workers write their titles over their environment.
        yield {_MARK: value, "SPT_NOENV": "1"}
    finally:
        assert reaper.stdin
        reaper.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):  # a sick driver's process outlives all
            reaper.wait(_PATIENCE_S)


def _reap(mark: bytes) -> None:
    """Kills what has the mark until nothing has it any more."""
    quiet = 0
    while quiet < _QUIET_SCANS:
        found = [pid for pid in _pids() if mark in _environment(pid)]
        quiet = 0 if found else quiet + 1
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_PAUSE_S)


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit())


def _environment(pid: int) -> list[bytes]:
    try:
        return (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:  # it is gone, or another user's
        return []


if __name__ == "__main__":
    sys.stdin.buffer.read()
    _reap(os.fsencode(sys.argv[1]))
