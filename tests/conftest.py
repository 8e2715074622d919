import contextlib
import os
import socket
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

AWS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory):
    """Endpoint of an S3 server on this machine; the environment points to it."""
    port = _free_port()
    endpoint = f"http://127.0.0.1:{port}"
    log = tmp_path_factory.mktemp("s3") / "server.log"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with log.open("wb") as output, pytest.MonkeyPatch.context() as patch:
        for name, value in AWS.items() | {("AWS_ENDPOINT_URL", endpoint)}:
            patch.setenv(name, value)
        patch.delenv("AWS_PROFILE", raising=False)
        patch.delenv("AWS_SESSION_TOKEN", raising=False)
        process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            _wait_for(port, process)
            yield endpoint
        finally:
            process.terminate()
            process.wait()


@pytest.fixture
def bucket(s3_server):
    """URI of a new, empty bucket."""
    import boto3

    name = f"test-{uuid.uuid4().hex}"
    boto3.client("s3", endpoint_url=s3_server).create_bucket(Bucket=name)
    return f"s3://{name}"


@pytest.fixture
def careless_store(tmp_path, monkeypatch):
    """Folder that a second kind of S3 server serves; one that ignores create-if-absent.

    Only for commands in processes of their own: clients in this one know the other server.
    """
    port = _free_port()
    for name, value in AWS.items() | {("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")}:
        monkeypatch.setenv(name, value)
    keys = f"{AWS['AWS_ACCESS_KEY_ID']},{AWS['AWS_SECRET_ACCESS_KEY']}"
    rclone = Path(sys.executable).with_name("rclone")
    options = ["--addr", f"127.0.0.1:{port}", "--auth-key", keys, "--vfs-cache-mode", "off"]
    served = tmp_path / "served"
    served.mkdir()
    process = subprocess.Popen([rclone, "serve", "s3", *options, served], stderr=subprocess.DEVNULL)
    try:
        _wait_for(port, process)
        yield served
    finally:
        process.terminate()
        process.wait()


def _free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _wait_for(port, process):
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except OSError:
            with contextlib.suppress(subprocess.TimeoutExpired):
                raise RuntimeError(f"the S3 server ended with {process.wait(0.05)}") from None
        else:
            return
