"""The Ray cluster that a command joins or starts."""

import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from vqpipe.engine import reaper
from vqpipe.errors import ConfigError, IncompleteError, stopped_by

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# A command that stops early shuts Ray down under a thread that still waits for results, whose next
# call would have Ray start again, on every interface.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray warns unless it is set
# Ray's C++ side prints its errors to the driver's terminal, one of them for every actor pool
# (ray-project/ray#53727); what goes wrong reaches us as exceptions all the same.
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")

import ray
from ray._private import ray_constants
from ray._private import worker as ray_worker
from ray._private.node import Node
from ray.data import DataContext

from vqpipe.engine.capacity import cores
from vqpipe.engine.gpus import choose_gpus

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
                _muted_stderr(),
                _environment(mark),
                _loopback(only=not address),
                _without_idlers(),
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


def choose_folder() -> tuple[str, str]:
    """Returns the folder for Ray's sessions, and why it is not below TMPDIR if it is not.

    Sockets lie in it, whose paths Unix bounds: with Ray 2.60's names below it, a folder for
    temporary files may have 39 bytes.

    Raises:
        ConfigError: If that of this machine is too long, and there is no other.
    """
    name = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
    wanted = os.environ.get(name, _FOLDERS[0])
    if len(os.fsencode(wanted)) + _SOCKET_BYTES <= _MOST_BYTES:
        return f"{wanted}/ray", ""
    short = next((each for each in _FOLDERS if os.access(each, os.W_OK | os.X_OK)), None)
    if short is None:
        raise ConfigError(
            f"{name}={wanted} is too long: Ray's sockets lie below it, whose paths may have "
            f"{_MOST_BYTES} bytes. Set {name} to a folder whose name is shorter than "
            f"{_MOST_BYTES - _SOCKET_BYTES} bytes"
        )
    return f"{short}/ray", f", since {name}={wanted} is too long for the paths of its sockets"


_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 (Ray makes a folder of its own there)
_MOST_BYTES = 103 if sys.platform == "darwin" else 107
"""Most bytes of a socket's path."""
_SOCKET_BYTES = len("/ray/session_2026-01-31_23-59-59_123456_4194304/sockets/plasma_store")


def protect_token() -> None:
    """Makes the token of a local Ray, for this user's eyes only, if there is none yet.

    Ray 2.60 has every cluster that `ray.init` starts ask for a token, and writes one with the
    rights that the umask leaves. What a person has put there stays as it is.
    """
    given = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    path = Path("~/.ray/auth_token").expanduser()
    if given or os.environ.get("RAY_AUTH_MODE", "token").lower() != "token" or path.exists():
        return
    with contextlib.suppress(OSError):  # Ray says what it cannot write
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent) as file:  # 0600, by its own rule
            file.write(secrets.token_hex(32))
            file.flush()
            os.link(file.name, path)  # whole at once, and never over another one


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


@contextlib.contextmanager
def _environment(added: dict[str, str]) -> Iterator[None]:
    """Adds to the environment of what is started meanwhile."""
    before = {name: os.environ[name] for name in added if name in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
        os.environ.update(before)


@contextlib.contextmanager
def _loopback(*, only: bool) -> Iterator[None]:
    """Makes a Ray that is started meanwhile listen on 127.0.0.1 only, not on every interface.

    Told `_node_ip_address="127.0.0.1"`, Ray 2.60 takes the machine's own address all the same
    (`services.resolve_ip_for_localhost`), unless RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER is 0, on Linux
    too; that variable is read once, at import, into this constant.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = before and not only
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextlib.contextmanager
def _without_idlers() -> Iterator[None]:
    """Leaves out three processes of a Ray that is started meanwhile whose work nobody needs here.

    The log monitor carries what workers print to a driver that has it switched off; that of the
    autoscaler looks for machines to start; the server of the dashboard runs even without one (Ray
    2.60). Each takes a second or two of a core to start, and then one in a hundred of it, of which
    a laptop has few. There is no option for any.
    """
    names = ("start_log_monitor", "start_monitor", "start_api_server")
    before = {name: getattr(Node, name) for name in names}
    for name in names:
        setattr(Node, name, lambda *_, **__: None)
    try:
        yield
    finally:
        for name, method in before.items():
            setattr(Node, name, method)


@contextlib.contextmanager
def handlers_kept() -> Iterator[tuple[signal.Signals, ...]]:
    """Puts the handlers back of the signals that stop a command; `ray.init` sets others, for good.

    Yields:
        These signals; none outside the main thread, where nobody can handle any.
    """
    if threading.current_thread() is not threading.main_thread():
        yield ()
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield tuple(before)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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


def _quieten_ray_data() -> None:
    data = DataContext.get_current()
    for name, value in _QUIET.items():
        setattr(data, name, value)
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
