"""A command as a job of a Ray cluster: sent to its dashboard, followed, and its exit code."""

import asyncio
import os
import shlex
from collections.abc import Callable
from pathlib import Path

import aiohttp
import ray
from ray._private.authentication.authentication_constants import TOKEN_INVALID_ERROR_MESSAGE
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from vqpipe.errors import ConfigError, IncompleteError

_JOB_POLL_S = 0.5
_TOKEN_AT_HOME = "~/.ray/auth_token"  # noqa: S105 (a path)

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


def submit(address: str, entrypoint: str, on_log: Callable[[str], None]) -> int:
    """Runs a shell command on a cluster's head, passes its log on, and returns its exit code.

    Args:
        address: URL of the dashboard.
        entrypoint: The command; it must hold no secrets, since the cluster stores and shows it.
        on_log: Called with each piece of the log as it comes.

    Raises:
        ConfigError: If the dashboard cannot be reached or refuses the request.
        IncompleteError: If it goes away while the job runs.
    """
    try:
        client = JobSubmissionClient(address)
        job = client.submit_job(entrypoint=entrypoint)
    except ray.exceptions.AuthenticationError as error:
        raise ConfigError(describe_refusal(address, str(error))) from error
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"no Ray dashboard answers at {address}: {error}; give its address, such as "
            "http://head:8265"
        ) from error
    follow, stop = _commands(address, job)
    on_log(f"job {job} on {address}; it goes on if you leave\n")
    on_log(f"  follow it  {follow}\n  stop it    {stop}\n")
    try:
        asyncio.run(_follow(client, job, on_log))
        return _exit_code(client.get_job_info(job))
    except (OSError, RuntimeError, aiohttp.ClientError) as error:
        raise IncompleteError(
            f"{address} stopped answering: {error}. If the cluster still runs, the job does too: "
            f"{follow} shows it. If not, run the same command on another cluster to finish"
        ) from error


def _commands(address: str, job: str) -> tuple[str, str]:
    """Returns the commands that follow a job and stop it, to be pasted as they are."""
    where = f"--address {shlex.quote(address)}"
    return f"ray job logs {where} --follow {job}", f"ray job stop {where} {job}"


def describe_refusal(address: str, said: str) -> str:
    """Returns what is the matter with the cluster's token, and what helps.

    Args:
        address: URL of the dashboard.
        said: Ray's words. It answers 401 where a token is missing and 403 where it is wrong, or
            finds before it asks that this machine has none.
    """
    where = _find_token()
    if TOKEN_INVALID_ERROR_MESSAGE in said:
        return (
            f"{address} does not accept this machine's Ray token, which comes from {where}: it is "
            f"another cluster's, or an old one. {_GET_TOKEN}"
        )
    if not said.startswith("Authentication required"):
        return (
            "RAY_AUTH_MODE is token on this machine, and no token can be read: "
            f"{said.partition('. ')[0]}. {_GET_TOKEN}; if the cluster asks for none, unset "
            "RAY_AUTH_MODE"
        )
    if where:
        return (
            f"{address} asks for a Ray token. This machine has one, from {where}, which is sent "
            "only if you say so: set RAY_AUTH_MODE=token"
        )
    return (
        f"{address} asks for a Ray token, and this machine has none: set RAY_AUTH_MODE=token. "
        f"{_GET_TOKEN}"
    )


_GET_TOKEN = (
    "Set RAY_AUTH_TOKEN_PATH to a file that holds the cluster's token: it is in "
    f"{_TOKEN_AT_HOME} on the head, or in the secret that KubeRay names after the RayCluster"
)


def _find_token() -> str:
    """Returns where Ray takes this machine's token from, in its order; empty if there is none."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        if os.environ.get(name):
            return name
    return _TOKEN_AT_HOME if Path(_TOKEN_AT_HOME).expanduser().exists() else ""


async def _follow(client: JobSubmissionClient, job: str, on_log: Callable[[str], None]) -> None:
    while not client.get_job_status(job).is_terminal():
        async for lines in client.tail_job_logs(job):
            on_log(lines)
        await asyncio.sleep(_JOB_POLL_S)


def _exit_code(job: JobDetails) -> int:
    if job.driver_exit_code is not None:
        return int(job.driver_exit_code)
    return 0 if job.status == JobStatus.SUCCEEDED else 1
