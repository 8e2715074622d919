"""Run a command as a job of a Ray cluster, follow its log, and end with its exit code."""

import shlex
from importlib import metadata

from vqpipe.commands.cluster_jobs import Submit
from vqpipe.commands.console import Fields, print_fields, stderr
from vqpipe.commands.named_job import check_ended, listener
from vqpipe.engine import submission
from vqpipe.engine.dashboard import Dashboard
from vqpipe.engine.following import follow
from vqpipe.engine.job import Request


def run(job: Submit) -> None:
    """Runs the job to its end; takes the one up that is at work on the same.

    Raises:
        JobFailedError: If it ended with anything but exit code 0; carries that code.
        ConfigError: If there is no such cluster, or it does not take the job.
        IncompleteError: If the dashboard stopped answering, or this command was stopped.
    """
    dashboard = Dashboard(job.address)
    others = _describe_others(dashboard, job)
    entrypoint = describe_entry(job.command, job.arguments, metadata.version("vqpipe"))
    request = Request(job.command, shlex.join(job.arguments), job.sink, job.same)
    name, was_there = submission.submit(
        dashboard, entrypoint, request, anew=job.new, patience_s=job.reconnect_s
    )
    _introduce(dashboard, name, others, was_there=was_there)
    check_ended(follow(dashboard, name, listener(job.reconnect_s)))


def _introduce(dashboard: Dashboard, name: str, others: Fields, *, was_there: bool) -> None:
    """Says which job it is, and what can be done about it from elsewhere."""
    follow_it, stop_it = dashboard.describe_ways(name)
    title = f"job {name} on {dashboard.url}; it goes on if you leave"
    fields: Fields = [("follow it", follow_it), ("stop it", stop_it)]
    if was_there:
        said = "it was at work on the same command; --new starts another one beside it"
        fields.insert(0, ("taken up", said))
    else:
        fields += others
    print_fields(stderr(), title, fields)


def _describe_others(dashboard: Dashboard, job: Submit) -> Fields:
    """Returns which other jobs are at work on the sink, which they may be, if any are."""
    others = [
        each.name
        for each in dashboard.find_jobs()
        if each.request and job.sink and each.request.sink == job.sink and not each.is_over
    ]
    said = f"{', '.join(others)} works on the same sink as well"
    return [("take care", said)] if others else []


def describe_entry(command: str, arguments: tuple[str, ...], version: str) -> str:
    """Returns the shell text of a job: the command, in the Python that the cluster's workers run.

    Its first acts are to leave the folder that it is started in out of the places where modules are
    looked for, which may hold others of our names, to see that vqpipe is there in the version of
    this machine, and to have a stop said also while the command is still imported. (`python -P`
    does the first too, but not before 3.11, where the second is to say what is the matter.)
    """
    words = ("-c", _FIRST_LINES, version, command, *arguments)
    return f'{submission.FIND_PYTHON}; exec "$p" {shlex.join(words)}'


_FIRST_LINES = """
import signal, sys
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
from vqpipe.errors import stopped_by
def stop(number, _):
    print(f"error: {stopped_by(number).message}", file=sys.stderr)
    sys.exit(2)
signal.signal(signal.SIGTERM, stop)
from vqpipe.commands.cli import run_to_end
run_to_end([command, *arguments])
"""
