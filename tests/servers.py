"""S3 servers on this machine, for the length of a `with` block."""

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.ports import free_port

AWS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}
"""Environment of their clients, the endpoint left out."""


@contextlib.contextmanager
def serve_moto(log):
    """Yields the endpoint of a server that honours create-if-absent; it logs to a file."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with Path(log).open("wb") as output, _running(command, port, output):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def serve_rclone(folder):
    """Yields the endpoint of a server of a folder that ignores create-if-absent."""
    port = free_port()
    keys = f"{AWS['AWS_ACCESS_KEY_ID']},{AWS['AWS_SECRET_ACCESS_KEY']}"
    options = ["--addr", f"127.0.0.1:{port}", "--auth-key", keys, "--vfs-cache-mode", "off"]
    command = [Path(sys.executable).with_name("rclone"), "serve", "s3", *options, folder]
    with _running(command, port, subprocess.DEVNULL):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def _running(command, port, output):
    process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        _wait_for(port, process)
        yield
    finally:
        process.terminate()
        process.wait()


def _wait_for(port, process):
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except OSError:
            with contextlib.suppress(subprocess.TimeoutExpired):
                raise RuntimeError(f"the S3 server ended with {process.wait(0.05)}") from None
        else:
            return
