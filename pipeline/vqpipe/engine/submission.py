"""A command as a job of a Ray cluster: started once, however often it is submitted."""

import contextlib
import re
import time
from collections.abc import Iterable

from vqpipe.engine.dashboard import Dashboard, TakenError
from vqpipe.engine.job import Job, Request
from vqpipe.errors import IncompleteError

_AGAIN_S = 1.0

FIND_PYTHON = (
    "r=$(sed -n 's/^PPid:[[:space:]]*//p' /proc/$PPID/status 2>/dev/null); "
    "p=$(tr '\\0' '\\n' < /proc/$r/cmdline 2>/dev/null"
    " | sed -n 's/^--python_worker_command=\\([^ \"]*\\) .*/\\1/p'); "
    'p=${p:-python}; command -v "$p" > /dev/null || p=python3'
)
"""Shell text that puts the interpreter of the cluster's workers into `$p`.

A job is a shell command whose PATH need not have the environment that Ray runs in; Ray tells a job
nothing of it. But the job's shell is a child of a worker, and that of the raylet, whose command
line says how workers are started. Where there is no /proc, it is `python`.
"""


def submit(
    dashboard: Dashboard, entrypoint: str, request: Request, *, anew: bool, patience_s: float
) -> tuple[str, bool]:
    """Returns the name of the job that does a command, and whether it was at work already.

    A job that does the same and is not over is taken, unless another one is wanted. Its name is a
    function of the command and of how often that was submitted, and Ray starts no two jobs of one
    name: so neither two who submit at once nor an answer that is lost on its way makes two of it.

    Args:
        dashboard: Of the cluster.
        entrypoint: The command for the shell.
        request: What it does.
        anew: Whether to start another one all the same.
        patience_s: Seconds to go on trying where the answer is lost.

    Raises:
        ConfigError: If the cluster does not take it.
        IncompleteError: If no answer comes for that long.
    """
    while True:
        known = dashboard.find_jobs()
        running = None if anew else find_same(known, request)
        if running:
            return running.name, True
        name = choose_name(known, request)
        with contextlib.suppress(TakenError):  # by somebody else, a moment ago
            _start(dashboard, name, entrypoint, request, patience_s)
            return name, False


def _start(
    dashboard: Dashboard, name: str, entrypoint: str, request: Request, patience_s: float
) -> None:
    """Starts a job; where the answer is lost, asks for the same name again, which starts no two."""
    deadline, is_lost = time.monotonic() + patience_s, False
    while True:
        try:
            dashboard.start(name, entrypoint, request)
        except TakenError:
            if not is_lost:
                raise
        except ConnectionError as error:
            if time.monotonic() > deadline:
                raise IncompleteError(
                    f"{dashboard.url} was asked for job {name} and did not answer: {error}. It may "
                    "have been started: the same command again takes it up if it was"
                ) from error
            is_lost = True
            time.sleep(_AGAIN_S)
            continue
        return


def find_same(known: Iterable[Job], request: Request) -> Job | None:
    """Returns the last job that does the same and is not over."""
    same = [job for job in known if job.request and job.request.same == request.same]
    return next((job for job in reversed(same) if not job.is_over), None)


def choose_name(known: Iterable[Job], request: Request) -> str:
    """Returns the name of the next job that does a command: `vqpipe-encode-3f9a1c2b-2`."""
    stem = f"vqpipe-{request.command}-{request.same[:8]}"
    matches = (re.fullmatch(rf"{re.escape(stem)}-(\d+)", job.name) for job in known)
    return f"{stem}-{max((int(each[1]) for each in matches if each), default=0) + 1}"
