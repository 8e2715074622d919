"""List the jobs of vqpipe that a Ray cluster has had, with what became of them."""

import json
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.text import Text

from vqpipe.commands.cluster_jobs import Jobs
from vqpipe.commands.console import printable, stdout
from vqpipe.commands.progress import describe_seconds
from vqpipe.engine.dashboard import Dashboard
from vqpipe.engine.job import Job


def run(job: Jobs) -> None:
    """Prints the jobs, oldest first."""
    dashboard = Dashboard(job.address)
    found = [each for each in dashboard.find_jobs() if each.request]
    console = stdout()
    if job.json:
        said = {"address": dashboard.url, "jobs": [describe(each) for each in found]}
        console.print(json.dumps(said, indent=2), markup=False, soft_wrap=True)
    elif found:
        _print_table(console, found)
    else:
        console.print(f"{dashboard.url} has had no job of vqpipe submit", soft_wrap=True)


def describe(job: Job) -> dict[str, Any]:
    """Returns what is known of a job of ours, in JSON's types; times are in UTC."""
    assert job.request
    return {
        "job": job.name,
        "command": job.request.command,
        "arguments": job.request.arguments,
        "sink": job.request.sink or None,
        "state": job.state,
        "started": _iso(job.started),
        "ended": _iso(job.ended),
        "seconds": None if job.seconds is None else round(job.seconds, 1),
        "exit_code": job.exit_code,
        "message": job.message,
    }


def _iso(time: datetime | None) -> str | None:
    return time.isoformat(timespec="milliseconds") if time else None


def _print_table(console: Console, jobs: list[Job]) -> None:
    """Prints a line a job, never cut: what is pasted from it has to be whole."""
    rows = [_TITLES, *(tuple(printable(each, 4096) for each in _row(job)) for job in jobs)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (each.ljust(width) for each, width in zip(row, widths, strict=True))
        style = "dim" if row is _TITLES else None
        console.print(Text("  ".join(cells).rstrip()), style=style, soft_wrap=True)


_TITLES = ("job", "command", "state", "exit", "started (UTC)", "took", "sink")


def _row(job: Job) -> tuple[str, ...]:
    assert job.request
    return (
        job.name,
        job.request.command,
        job.state,
        "-" if job.exit_code is None else str(job.exit_code),
        f"{job.started:%Y-%m-%d %H:%M:%S}" if job.started else "-",
        "-" if job.seconds is None else describe_seconds(job.seconds),
        job.request.sink or "-",
    )
