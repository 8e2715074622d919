"""A step as a process with a time limit, and what became of it."""

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

from tests.benchmarks import records
from tests.benchmarks.gpu.steps import ROOT

_LAST_LINES = 40
_GRACE_S = 5.0
_NO_TESTS = 5
"""What pytest ends with if it has collected none."""


@dataclass(frozen=True)
class How:
    """How steps are run."""

    device: str
    tiny: bool
    has_gpu: bool
    folder: object
    """Where figures and logs go."""
    site: object | None
    """Where carried packages lie, if there are any."""

    @property
    def figures(self):
        """The file of figures."""
        return self.folder / "figures.jsonl"


@dataclass(frozen=True)
class Ended:
    """What became of a step."""

    step: str
    status: str
    """`ok`, or why it is not: `failed`, `out of time`, `needs a GPU`, `needs Ray`, `skipped`."""
    seconds: float = 0.0
    last: tuple[str, ...] = ()
    """The last lines it printed."""


def run_step(step, how, limit_s):
    """Runs a step to its end or its limit, and returns what became of it; its log stays."""
    if lack := _find_lack(step, how):
        return Ended(step.name, lack)
    log = how.folder / f"{step.name.replace(' ', '-')}.log"
    started = time.monotonic()
    with log.open("w") as file:
        process = subprocess.Popen(
            _command(step, how),
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=_environment(step, how),
            start_new_session=True,  # so that its children end with it
        )
        status = _await(process, limit_s, is_tests=step.is_tests)
    seconds = round(time.monotonic() - started, 1)
    last = tuple(log.read_text(errors="replace").splitlines()[-_LAST_LINES:])
    return Ended(step.name, status, seconds, (*last, f"exit code {process.returncode}"))


def _find_lack(step, how):
    """Returns what this machine lacks for a step, if anything."""
    if how.device == "cuda" and step.needs_gpu and not how.has_gpu:
        return "needs a GPU"
    there = importlib.util.find_spec("ray") or (how.site and (how.site / "ray").exists())
    return "needs Ray" if step.needs_ray and not there else ""


def _command(step, how):
    command = [sys.executable, "-m", "tests.benchmarks.gpu.launch", step.module, *step.arguments]
    if step.is_tests:
        return command if how.has_gpu else [*command, "--collect-only"]
    return [*command, "--device", how.device, *(["--tiny"] if how.tiny else [])]


def _environment(step, how):
    """Returns an environment in which ours and what was carried are found."""
    paths = [ROOT / "pipeline", ROOT, *([how.site] if how.site else [])]
    before = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([*map(str, paths), *([before] if before else [])])
    told = {records.FILE: str(how.figures.absolute()), records.STEP: step.name}
    return os.environ | told | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def _await(process, limit_s, *, is_tests):
    try:
        code = process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return "out of time"
    finally:
        _end_group(process)
    return "ok" if code == 0 or (is_tests and code == _NO_TESTS) else "failed"


def _end_group(process):
    """Ends a process and all of its session, asked first."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
