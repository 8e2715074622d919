"""The Ray cluster that a command joins or starts."""

import contextlib
import logging
import os
import signal
import socket
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import ray
from ray._private import worker as ray_worker
from ray.data import DataContext

from vqpipe.engine import reaper
from vqpipe.engine.capacity import cores
from vqpipe.engine.gpus import choose_gpus
from vqpipe.engine.surroundings import (
    choose_folder,
    environment,
    handlers_kept,
    loopback,
    muted_stderr,
    protect_token,
    without_idlers,
)
from vqpipe.errors import ConfigError, IncompleteError, stopped_by

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


def find_address(asked: str | None) -> str | None:
    """Returns the cluster to join: the one asked for, or RAY_ADDRESS; None for no other.

    A program that has Ray already is where it wants to be, whatever the environment says.
    """
    is_there = ray.is_initialized()
    return asked or (None if is_there else os.environ.get("RAY_ADDRESS"))


def check_starts_ray(address: str | None, why: str) -> None:
    """Checks that a command will start a Ray of its own, and join no other.

    Raises:
        ConfigError: If not; ends with why it has to.
    """
    if ray.is_initialized():
        raise ConfigError(f"this program has Ray already, and {why}")
    if find_address(address):
        raise ConfigError(f"RAY_ADDRESS joins a cluster, and {why}")


def check_address(asked: str | None) -> bool:
    """Checks that the cluster to join answers, if there is one; tells whether work is to be here.

    Raises:
        ConfigError: If it does not.
    """
    address = find_address(asked)
    if address:
        _check_reachable(address)
    return not (address or ray.is_initialized())


@contextlib.contextmanager
def connect(address: str | None, gpus: Sequence[str] = ()) -> Iterator[str]:
    """Joins a Ray cluster or starts a local one for the length of a `with` block.

    A program that has Ray already keeps it: the block runs there, and leaves it as it was.

    Args:
        address: The cluster to join; None to start one.
        gpus: Those of this machine that one that is started has (`gpus.choose_gpus`).

    Yields:
        Where Ray's logs are, in a sentence.

    Raises:
        ConfigError: If the cluster cannot be reached, or the program has Ray elsewhere.
        IncompleteError: If SIGTERM comes while Ray starts.
    """
    with _settings_kept(), _listening():
        if not ray.is_initialized():
            with _start(address, gpus) as said:
                yield said
            return
        if address:
            raise ConfigError(
                f"this program has Ray already, and is asked for {address}: leave the address out, "
                "or call ray.shutdown() before"
            )
        _quieten_ray_data()
        yield f"Ray's logs are in {_describe_logs()}"


@contextlib.contextmanager
def _start(address: str | None, gpus: Sequence[str]) -> Iterator[str]:
    """Joins a cluster or starts one, and leaves it; yields where its logs are."""
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
    with contextlib.ExitStack() as stack:
        mark, note = {}, ""
        if not address:
            mark = stack.enter_context(reaper.leave_nothing()) | choose_gpus(gpus)
            local["_temp_dir"], note = choose_folder()
            protect_token()
        stack.callback(ray.shutdown)
        try:
            with (
                handlers_kept(),
                muted_stderr(),
                environment(mark),
                loopback(only=not address),
                without_idlers(),
            ):
                ray.init(**({"address": address} if address else local), **quiet)
        except SystemExit:  # Ray's own handler of SIGTERM, there while it starts
            raise stopped_by(signal.SIGTERM) from None
        except IncompleteError:  # our own handlers' word of a signal
            raise
        except Exception as error:  # Ray raises a bare one if a node is not there in time
            where = address or "on this machine"
            cure = "" if address else " (it needs some free memory, and room on the disk of /tmp)"
            raise ConfigError(f"Ray {where} does not start: {error}{cure}") from error
        _quieten_ray_data()
        yield f"Ray's logs are in {_describe_logs()}{note}"


def _describe_logs() -> str:
    return str(cast(Any, ray_worker).global_worker.node.address_info["session_dir"]) + "/logs"


@contextlib.contextmanager
def _settings_kept() -> Iterator[None]:
    """Puts back those of Ray's settings in this process that are changed meanwhile."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    data = DataContext.get_current()
    before = {name: getattr(data, name) for name in _QUIET}
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for name, value in before.items():
            setattr(data, name, value)


_LOGGERS = ("ray", "ray.data")
_QUIET: dict[str, Any] = {
    "enable_progress_bars": False,
    "print_on_execution_start": False,
    "op_resource_reservation_ratio": RESERVATION_RATIO,
}
"""What Ray Data has of other values by default."""


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
def _listening() -> Iterator[None]:
    """Has what Ray's machines report kept for `take_reports`; Ray would print it as it is."""
    before = ray_worker.print_to_stdstream
    ray_worker.print_to_stdstream = _keep_report
    try:
        yield
    finally:
        ray_worker.print_to_stdstream = before


def _keep_report(data: Mapping[str, Any], ignore_prefix: bool) -> None:  # noqa: ARG001, FBT001
    for line in data["lines"]:
        if not any(known in line for known in _KNOWN) and line not in _reports:
            _reports.append(line)


_reports: deque[str] = deque(maxlen=100)
_KNOWN = (
    "worker processes have been started on node",  # many ask for a fraction of a core: those wait
    "tasks with infeasible resource requests",  # said in our words (`resources.look_for_machines`)
)
"""Of what machines report, what is no trouble, or is told otherwise."""


def take_reports() -> list[str]:
    """Returns what Ray's machines have reported since the last call, each report once in a row.

    Lost machines and want of memory are among it; what they do to a run comes as an error besides.
    """
    found = []
    with contextlib.suppress(IndexError):
        while True:
            found.append(_reports.popleft())
    return found


def _quieten_ray_data() -> None:
    data = DataContext.get_current()
    for name, value in _QUIET.items():
        setattr(data, name, value)
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
