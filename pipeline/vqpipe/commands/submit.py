"""Run a command as a job of a Ray cluster, follow its log, and end with its exit code."""

import shlex
import sys
from importlib import metadata

from vqpipe.commands.cluster_jobs import Submit
from vqpipe.commands.console import harmless
from vqpipe.engine import submission
from vqpipe.errors import VqpipeError


class JobFailedError(VqpipeError):
    """The submitted job ended with an exit code of its own, which is passed on."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def run(job: Submit) -> None:
    """Runs the job to its end.

    Raises:
        JobFailedError: If it ended with anything but exit code 0; carries that code.
    """
    entrypoint = describe_entry(job.command, job.arguments, metadata.version("vqpipe"))
    code = submission.submit(job.address, entrypoint, _pass_on)
    if code:
        raise JobFailedError(f"the job ended with exit code {code}; its log is above", code)


def describe_entry(command: str, arguments: tuple[str, ...], version: str) -> str:
    """Returns the shell text of a job: the command, in the Python that the cluster's workers run.

    Its first acts are to leave the folder that it is started in out of the places where modules are
    looked for, which may hold others of our names, and to see that vqpipe is there in the version
    of this machine. (`python -P` does the first too, but not before 3.11, where the second is to
    say what is the matter.)
    """
    words = ("-c", _FIRST_LINES, version, command, *arguments)
    return f'{submission.FIND_PYTHON}; exec "$p" {shlex.join(words)}'


_FIRST_LINES = """
import sys
sys.path[:] = [place for place in sys.path if place]
from importlib import metadata
_, wanted, command, *arguments = sys.argv
try:
    found = metadata.version("vqpipe")
except metadata.PackageNotFoundError:
    found = None
if found != wanted:
    there = f"has vqpipe {found}" if found else "has no vqpipe"
    print(
        f"error: the cluster {there} in {sys.executable}, with which Ray runs its workers, and "
        f"this command comes from vqpipe {wanted}: install that on every node, such as by "
        "infra/Dockerfile, or submit from a machine that has the cluster's version",
        file=sys.stderr,
    )
    sys.exit(4)
from vqpipe.commands.cli import run_to_end
run_to_end([command, *arguments])
"""


def _pass_on(text: str) -> None:
    sys.stdout.write(harmless(text))  # a worker's traceback may hold names from data
    sys.stdout.flush()
