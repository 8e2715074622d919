"""Stores on this machine, for the length of a `with` block."""

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.storage.ports import free_port

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


AZURITE = Path(sys.prefix, "azurite", "node_modules", ".bin", "azurite-blob")
"""Where `make test` has npm put the emulator of Azure's Blob Storage."""


@contextlib.contextmanager
def serve_azurite(folder):
    """Yields the endpoint of an emulator of Azure's Blob Storage; it keeps all in memory."""
    port = free_port()
    options = ["--inMemoryPersistence", "--silent", "--skipApiVersionCheck", "--disableTelemetry"]
    command = [AZURITE, "--blobHost", "127.0.0.1", "--blobPort", str(port), *options]
    with _running(command, port, subprocess.DEVNULL, cwd=folder):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def serve_gcs(program):
    """Yields the endpoint of fake-gcs-server; it keeps all in memory."""
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    options = ["-scheme", "http", "-backend", "memory", "-log-level", "error"]
    places = ["-host", "127.0.0.1", "-port", str(port), "-external-url", endpoint]
    with _running([program, *options, *places], port, subprocess.DEVNULL):
        yield endpoint


@contextlib.contextmanager
def _running(command, port, output, cwd=None):
    process = subprocess.Popen(command, stdout=output, stderr=output, cwd=cwd)
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
                raise RuntimeError(f"{process.args[0]} ended with {process.wait(0.05)}") from None
        else:
            return
