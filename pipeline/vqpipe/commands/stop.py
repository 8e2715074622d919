"""Stop a job on a Ray cluster, and wait until it is over."""

import shlex
import signal

from vqpipe.commands.cluster_jobs import Stop
from vqpipe.commands.console import Fields, print_fields, stderr, stdout
from vqpipe.commands.named_job import find_job, listener
from vqpipe.engine.dashboard import STOP_WAIT_S, Dashboard
from vqpipe.engine.following import follow
from vqpipe.engine.job import Job
from vqpipe.errors import stopped_by


def run(job: Stop) -> None:
    """Stops the job, shows what it still says, and says how it has ended.

    Raises:
        ConfigError: If there is no such job.
        IncompleteError: If the dashboard stopped answering, or this command was stopped; the job
            was told to stop.
    """
    dashboard = Dashboard(job.address)
    found = find_job(dashboard, job.job)
    if found.is_over:
        print_fields(stdout(), f"job {found.name} was over", _describe(dashboard, found))
        return
    shown = len(dashboard.read_log(found.name))
    dashboard.stop(found.name)
    waiting = (
        f"  job {found.name} is told to stop; its last words, for which it has {STOP_WAIT_S} s:"
    )
    stderr().print(waiting, style="dim", markup=False, soft_wrap=True)
    told = listener(job.reconnect_s, "is about to stop")
    ended = follow(dashboard, found.name, told, shown)
    print_fields(stdout(), f"job {ended.name} is over", _describe(dashboard, ended))


def _describe(dashboard: Dashboard, job: Job) -> Fields:
    """Returns how a job has ended, and what brings it to its end."""
    fields: Fields = [("state", job.state)]
    if job.exit_code is not None:
        fields.append(("exit code", job.exit_code))
    elif job.is_ours and job.state == "stopped":
        fields.append(("how", _describe_stop(dashboard.read_log(job.name))))
    if job.request and job.code != 0:
        words = ["vqpipe", "submit", job.request.command, "--address", dashboard.url, "--"]
        fields += [
            ("kept", "all that is committed; the same command does what is left"),
            ("to resume", f"{shlex.join(words)} {job.request.arguments}"),
        ]
    return fields


def _describe_stop(log: str) -> str:
    """Returns whether a job ended by itself when it was told to; Ray does not say."""
    if stopped_by(signal.SIGTERM).message in log:
        return "by itself, with exit code 2 (incomplete)"
    if _BEGUN not in log:
        return "before it had begun"
    return f"killed: it had not come to its end {STOP_WAIT_S} s after SIGTERM"


_BEGUN = "Running entrypoint for job"
"""What Ray writes into a log when it starts the command."""
