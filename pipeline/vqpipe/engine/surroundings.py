"""What Ray finds around it on this machine while it starts, and what it must not change there."""

import contextlib
import os
import secrets
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from ray._private import ray_constants
from ray._private.node import Node

from vqpipe.errors import ConfigError


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


@contextlib.contextmanager
def environment(added: dict[str, str]) -> Iterator[None]:
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
def loopback(*, only: bool) -> Iterator[None]:
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
def without_idlers() -> Iterator[None]:
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
def muted_stderr() -> Iterator[None]:
    """Keeps what C++ prints off the terminal: it announces its log level (`vqpipe.engine`)."""
    terminal = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
