import ipaddress
import os
import re
import signal
import sys
import time

import psutil
import pytest
import ray

from vqpipe.engine import capacity, cluster, surroundings
from vqpipe.engine.dashboard import Dashboard
from vqpipe.errors import ConfigError, IncompleteError, stopped_by


@pytest.mark.fault(32)
@pytest.mark.ray
def test_connect_local_listens_on_loopback_only_and_leaves_nothing_behind():
    servers = psutil.Process().children(recursive=True)  # of the tests before this one
    with cluster.connect(None):
        processes = [p for p in psutil.Process().children(recursive=True) if p not in servers]
        names = {process.name() for process in processes}
        assert {"gcs_server", "raylet"} <= names
        listening = [
            connection.laddr.ip
            for process in [psutil.Process(), *processes]
            for connection in process.net_connections(kind="inet")
            if connection.status == psutil.CONN_LISTEN
        ]
        assert len(listening) > 2
        assert capacity.resources()["CPU"] == capacity.cores() + cluster.SPARE_CORES
    for address in listening:
        ip = ipaddress.ip_address(address)
        assert (getattr(ip, "ipv4_mapped", None) or ip).is_loopback, address
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert not alive


def test_connect_to_an_address_where_nobody_answers_is_config_error():
    with pytest.raises(ConfigError, match=re.escape("127.0.0.1:1")), cluster.connect("127.0.0.1:1"):
        pass


def exit_with(number, _):
    """As Ray handles SIGTERM by then."""
    sys.exit(number)


def stop_by(number, _):
    """As commands handle Ctrl-C."""
    raise stopped_by(number)


@pytest.mark.parametrize(
    ("number", "handler"), [(signal.SIGTERM, exit_with), (signal.SIGINT, stop_by)]
)
def test_connect_stopped_while_ray_starts_is_incomplete(monkeypatch, number, handler):
    def init(**_):
        os.kill(os.getpid(), number)
        time.sleep(5)

    before = signal.signal(number, handler)
    try:
        monkeypatch.setattr(ray, "init", init)
        with pytest.raises(IncompleteError, match=number.name), cluster.connect(None):
            pass
    finally:
        signal.signal(number, before)


def test_dashboard_at_an_address_where_nobody_answers_is_config_error():
    with pytest.raises(ConfigError, match=re.escape("http://127.0.0.1:1")):
        Dashboard("http://127.0.0.1:1")


SOCKET = "/ray/session_2026-01-31_23-59-59_123456_4194304/sockets/plasma_store"


@pytest.mark.parametrize("name", ["TMPDIR", "RAY_TMPDIR"])
@pytest.mark.parametrize("length", [10, 39, 40, 89, 200])
def test_choose_folder_too_long_for_sockets_is_named_and_another_is_taken(
    monkeypatch, name, length
):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    wanted = "/" + "x" * (length - 1)
    monkeypatch.setenv(name, wanted)
    folder, note = surroundings.choose_folder()
    fits = len(wanted + SOCKET) <= 107
    assert (folder == f"{wanted}/ray") == fits == (note == "")
    assert len(folder.removesuffix("/ray") + SOCKET) <= 107
    if not fits:
        assert f"{name}={wanted}" in note


def test_choose_folder_letters_of_many_bytes_count_as_bytes(monkeypatch):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/" + "ü" * 25)
    assert surroundings.choose_folder()[1]


def test_choose_folder_nowhere_else_to_go_is_config_error(monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", "/" + "x" * 88)
    monkeypatch.setattr(surroundings, "_FOLDERS", ("/no/such/folder",))
    with pytest.raises(ConfigError, match="RAY_TMPDIR=/xxx"):
        surroundings.choose_folder()


@pytest.fixture
def home(monkeypatch, tmp_path):
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    before = os.umask(0)
    yield tmp_path
    os.umask(before)


def test_protect_token_is_for_its_owners_eyes_whatever_the_umask(home):
    surroundings.protect_token()
    token = home / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o777 == 0o600
    assert token.parent.stat().st_mode & 0o777 == 0o700
    assert re.fullmatch("[0-9a-f]{64}", token.read_text())
    assert os.listdir(token.parent) == ["auth_token"]
    before = token.read_text()
    surroundings.protect_token()
    assert token.read_text() == before


@pytest.mark.parametrize(
    ("name", "value"),
    [("RAY_AUTH_TOKEN", "t"), ("RAY_AUTH_TOKEN_PATH", "/t"), ("RAY_AUTH_MODE", "disabled")],
)
def test_protect_token_that_is_given_or_not_asked_for_is_not_made(home, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    surroundings.protect_token()
    assert list(home.iterdir()) == []


def test_take_reports_machines_are_heard_once_and_their_many_workers_not_at_all():
    from ray._private import worker

    many = "WARNING: 8 PYTHON worker processes have been started on node: 15d1 with address: ::1"
    with cluster._listening():
        for lines in (["node 7 died"], [many], ["node 7 died", "out of memory"]):
            worker.print_to_stdstream({"lines": lines, "pid": "raylet", "is_err": False}, True)
    assert cluster.take_reports() == ["node 7 died", "out of memory"]
    assert cluster.take_reports() == []
