"""The job of a cluster that a command is about: the one that is named, or the only one at work."""

import sys

from vqpipe.commands.console import harmless, print_warning, printable, stderr
from vqpipe.engine.dashboard import Dashboard
from vqpipe.engine.following import Listener
from vqpipe.engine.job import Job
from vqpipe.errors import ConfigError, VqpipeError

_MOST_NAMED = 10


class JobFailedError(VqpipeError):
    """A job that was followed ended with an exit code of its own, which is passed on."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def find_job(dashboard: Dashboard, name: str | None) -> Job:
    """Returns the job that is named, whoever has submitted it, or else the only one at work.

    Raises:
        ConfigError: If there is none, or no name and several; names those that there are.
    """
    known = dashboard.find_jobs()
    ours = [job for job in known if job.is_ours]
    if name is not None:
        found = next((job for job in known if job.name == name), None)
        if found:
            return found
        raise ConfigError(f"{dashboard.url} knows no job {printable(name)}. {_name(ours)}")
    running = [job for job in ours if not job.is_over]
    if len(running) == 1:
        return running[0]
    if running:
        raise ConfigError(f"{len(running)} jobs are at work: say which one. {_name(running)}")
    raise ConfigError(f"no job of vqpipe is at work on {dashboard.url}. {_name(ours)}")


def _name(jobs: list[Job]) -> str:
    """Returns a sentence that names jobs, the latest first."""
    if not jobs:
        return "It has had none of vqpipe submit"
    latest = [f"{job.name} ({job.state})" for job in reversed(jobs[-_MOST_NAMED:])]
    more = f", and {len(jobs) - _MOST_NAMED} before" if len(jobs) > _MOST_NAMED else ""
    return f"There are {', '.join(latest)}{more}"


def listener(patience_s: float, meanwhile: str = "goes on") -> Listener:
    """Returns what passes a log on to standard output, and what is said besides to the other."""
    console = stderr()

    def say(word: str) -> None:
        print_warning(console, word)

    return Listener(pass_on, say, patience_s, meanwhile)


def pass_on(text: str) -> None:
    """Prints a piece of a log."""
    sys.stdout.write(harmless(text))  # a worker's traceback may hold names from data
    sys.stdout.flush()


def check_ended(job: Job) -> None:
    """Passes the exit code of a job on that has been followed to its end.

    Raises:
        JobFailedError: If it is not 0; carries it.
    """
    if job.code == 0:
        return
    if job.exit_code is None:  # its log does not say how it ended
        raise JobFailedError(f"job {job.name} is over: {job.state}. {job.message}", job.code)
    said = f"the job ended with exit code {job.code}; its log is above"
    raise JobFailedError(said, job.code)
