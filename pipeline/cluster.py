"""The Ray cluster that a command joins, starts, or is submitted to."""

import asyncio
import contextlib
import logging
import math
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

from pipeline.errors import ConfigError, IncompleteError

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray warns unless it is set
# Ray's C++ side prints its errors to the driver's terminal, one of them for every actor pool
# (ray-project/ray#53727); what goes wrong reaches us as exceptions all the same.
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")

import aiohttp
import ray
from ray._private import ray_constants
from ray.data import DataContext
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

SPARE_CORES = 3
"""Logical cores of a local Ray beyond the real ones: some two for the operators that mostly wait,
one so that images are opened by one task more than there are cores, which else idle between two."""
RESERVATION_RATIO = 0.1
"""Share of the cores that Ray Data divides evenly among operators. Its default of a half leaves
opening images, which takes nearly all the work, with fewer cores than there are."""

_CONNECT_TIMEOUT_S = 10.0
_LOCAL_RAY = {
    # By default Ray ends workers that were idle for a second, and a moment later starts new ones,
    # at one or two seconds of a core each: operators take turns at being idle.
    "idle_worker_killing_time_threshold_ms": 600_000,
    # A local Ray has no dashboard, so nobody reads its metrics and its history of tasks.
    "enable_metrics_collection": False,
    "task_events_report_interval_ms": 0,
    # Every node tells the others what it has free ten times a second: here there are no others.
    "raylet_report_resources_period_milliseconds": 1000,
}


@contextlib.contextmanager
def connect(address: str | None) -> Iterator[str]:
    """Joins a Ray cluster or starts a local one for the length of a `with` block.

    Yields:
        Ray's log folder.

    Raises:
        ConfigError: If the cluster cannot be reached.
    """
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    local: dict[str, Any] = {
        "address": "local",
        "num_cpus": cores() + SPARE_CORES,
        "include_dashboard": False,
        "_node_ip_address": "127.0.0.1",
        "_system_config": _LOCAL_RAY,
    }
    if address:
        _check_reachable(address)
    try:
        with _muted_stderr(), contextlib.nullcontext() if address else _loopback():
            context = ray.init(**({"address": address} if address else local), **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(f"Ray {address or 'on this machine'} does not start: {error}") from error
    try:
        _quieten_ray_data()
        yield str(cast(Any, context).address_info["session_dir"]) + "/logs"
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Tries the cluster's port: Ray itself takes minutes to find that nobody is there."""
    host, _, port = address.rpartition(":")
    if not (host and port.isdigit()):
        return  # "auto", which Ray looks up on this machine
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise ConfigError(
            f"no Ray cluster answers at {address}: {error}; give the address of its head, such as "
            "head:6379, or leave --address and RAY_ADDRESS out to run on this machine"
        ) from error


@contextlib.contextmanager
def _loopback() -> Iterator[None]:
    """Makes a Ray that is started meanwhile listen on 127.0.0.1 only, not on every interface.

    Told `_node_ip_address="127.0.0.1"`, Ray 2.60 takes the machine's own address all the same
    (`services.resolve_ip_for_localhost`), unless RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER is 0, on Linux
    too; that variable is read once, at import, into this constant.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextlib.contextmanager
def _muted_stderr() -> Iterator[None]:
    """Keeps what C++ prints off the terminal: it announces the log level that is set above."""
    terminal = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)


def cores() -> int:
    """Returns the cores that this process may use, a container's limit included."""
    known = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(known or 1, _container_cores()))


def _container_cores() -> int:
    """Returns the limit of Linux control groups, version 2: microseconds of quota and period."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError):  # no control groups, or "max": no limit
        return sys.maxsize


def resources() -> dict[str, float]:
    """Returns what the cluster has in all: CPU, GPU, memory and so on."""
    return cast(dict[str, float], ray.cluster_resources())  # type: ignore[no-untyped-call]


def free_resources() -> dict[str, float]:
    """Returns what of it is free now."""
    return cast(dict[str, float], ray.available_resources())  # type: ignore[no-untyped-call]


def _quieten_ray_data() -> None:
    data = DataContext.get_current()
    data.enable_progress_bars = False
    data.print_on_execution_start = False
    data.op_resource_reservation_ratio = RESERVATION_RATIO
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


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
        raise ConfigError(
            f"{address} does not accept this machine's Ray token: set RAY_AUTH_MODE=token and "
            "RAY_AUTH_TOKEN_PATH to a file that holds the cluster's token"
        ) from error
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"no Ray dashboard answers at {address}: {error}; give its address, such as "
            "http://head:8265"
        ) from error
    on_log(f"job {job} on {address}; it goes on if you leave: ray job stop {job} ends it\n")
    try:
        asyncio.run(_follow(client, job, on_log))
        return _exit_code(client.get_job_info(job))
    except (OSError, RuntimeError, aiohttp.ClientError) as error:
        raise IncompleteError(
            f"{address} stopped answering: {error}. If the cluster still runs, the job does too: "
            f"ray job logs --follow {job} shows it. If not, run the same command on another "
            "cluster to finish"
        ) from error


async def _follow(client: JobSubmissionClient, job: str, on_log: Callable[[str], None]) -> None:
    while not client.get_job_status(job).is_terminal():
        async for lines in client.tail_job_logs(job):
            on_log(lines)
        await asyncio.sleep(_JOB_POLL_S)


_JOB_POLL_S = 0.5


def _exit_code(job: JobDetails) -> int:
    if job.driver_exit_code is not None:
        return int(job.driver_exit_code)
    return 0 if job.status == JobStatus.SUCCEEDED else 1
