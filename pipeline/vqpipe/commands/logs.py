"""Show the log of a job on a Ray cluster, follow it to its end, and end with its exit code."""

from vqpipe.commands.cluster_jobs import Logs
from vqpipe.commands.named_job import check_ended, find_job, listener, pass_on
from vqpipe.engine.dashboard import Dashboard
from vqpipe.engine.following import follow


def run(job: Logs) -> None:
    """Shows the log.

    Raises:
        JobFailedError: If the job was followed and ended with anything but 0; carries its code.
        ConfigError: If there is no such job.
        IncompleteError: If the dashboard stopped answering, or this command was stopped.
    """
    dashboard = Dashboard(job.address)
    found = find_job(dashboard, job.job)
    if job.no_follow:
        pass_on(dashboard.read_log(found.name))
        return
    check_ended(follow(dashboard, found.name, listener(job.reconnect_s)))
