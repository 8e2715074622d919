import ipaddress
import os
import re
import signal
import sys
import time

import psutil
import pytest
import ray

from pipeline import cluster
from pipeline.errors import ConfigError, IncompleteError


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
        assert cluster.resources()["CPU"] == cluster.cores() + cluster.SPARE_CORES
    for address in listening:
        ip = ipaddress.ip_address(address)
        assert (getattr(ip, "ipv4_mapped", None) or ip).is_loopback, address
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert not alive


def test_connect_to_an_address_where_nobody_answers_is_config_error():
    with pytest.raises(ConfigError, match=re.escape("127.0.0.1:1")), cluster.connect("127.0.0.1:1"):
        pass


def test_connect_stopped_while_ray_starts_is_incomplete(monkeypatch):
    def init(**_):
        os.kill(os.getpid(), signal.SIGTERM)  # to the handler that Ray has set by then
        time.sleep(5)

    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
    try:
        monkeypatch.setattr(ray, "init", init)
        with pytest.raises(IncompleteError, match="SIGTERM"), cluster.connect(None):
            pass
    finally:
        signal.signal(signal.SIGTERM, before)


def test_submit_to_an_address_where_nobody_answers_is_config_error():
    with pytest.raises(ConfigError, match=re.escape("http://127.0.0.1:1")):
        cluster.submit("http://127.0.0.1:1", "true", print)
