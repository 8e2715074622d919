import os
import subprocess
import tempfile
import uuid
from pathlib import Path

import pytest

from tests.storage import fault_proxy
from tests.storage.clouds import container_name, serve_cloud
from tests.storage.servers import AWS, serve_moto, serve_rclone


def pytest_configure(config):
    """Has Hugging Face's libraries keep their caches in a folder of these tests, not a person's."""
    if not hasattr(config, "workerinput"):  # workers of xdist inherit it
        folder = tempfile.TemporaryDirectory(prefix="vqpipe-tests-")
        os.environ["HF_HOME"] = folder.name
        config.add_cleanup(folder.cleanup)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory):
    """Endpoint of an S3 server on this machine; the environment points to it."""
    log = tmp_path_factory.mktemp("s3") / "server.log"
    with serve_moto(log) as endpoint, pytest.MonkeyPatch.context() as patch:
        for name, value in AWS.items() | {("AWS_ENDPOINT_URL", endpoint)}:
            patch.setenv(name, value)
        patch.delenv("AWS_PROFILE", raising=False)
        patch.delenv("AWS_SESSION_TOKEN", raising=False)
        yield endpoint


@pytest.fixture
def bucket(s3_server):
    """URI of a new, empty bucket."""
    import boto3

    name = f"test-{uuid.uuid4().hex}"
    boto3.client("s3", endpoint_url=s3_server).create_bucket(Bucket=name)
    return f"s3://{name}"


@pytest.fixture(params=["local", pytest.param("bucket", marks=pytest.mark.s3)])
def base(request, tmp_path):
    """URI of an empty place, in a folder and in a bucket."""
    return str(tmp_path) if request.param == "local" else request.getfixturevalue("bucket")


@pytest.fixture
def proxy(s3_server, monkeypatch):
    """A proxy before the S3 server that breaks what it is told to; the environment points to it.

    Both `vqpipe.storage.verbs` in this process and commands in others go through it; `bucket` makes
    its bucket directly, and so does `s3_server`'s endpoint.
    """
    from vqpipe import storage

    with fault_proxy.serve(s3_server) as served:
        monkeypatch.setenv("AWS_ENDPOINT_URL", served.endpoint)
        storage.forget()
        yield served
    storage.forget()


@pytest.fixture(scope="session", params=["azure", "gcs"])
def cloud(request, tmp_path_factory):
    """An emulator of another cloud's store."""
    with serve_cloud(request.param, tmp_path_factory.mktemp(request.param)) as served:
        yield served


@pytest.fixture
def container(cloud, request, monkeypatch):
    """A new, empty container in an emulator; the environment points to it."""
    from vqpipe import storage

    for name, value in cloud.environment(cloud.endpoint).items():
        monkeypatch.setenv(name, value)
    storage.forget()
    yield cloud.make(container_name(request))
    storage.forget()


@pytest.fixture
def cloud_proxy(cloud, container, monkeypatch):  # noqa: ARG001 (made past the proxy)
    """A proxy before the emulator that breaks what it is told to; the environment points to it."""
    from vqpipe import storage

    with fault_proxy.serve(cloud.endpoint) as served:
        for name, value in cloud.environment(served.endpoint).items():
            monkeypatch.setenv(name, value)
        storage.forget()
        yield served


@pytest.fixture
def careless_store(tmp_path, monkeypatch):
    """Folder that a second kind of S3 server serves; one that ignores create-if-absent.

    Only for commands in processes of their own: clients in this one know the other server.
    """
    served = tmp_path / "served"
    served.mkdir()
    with serve_rclone(served) as endpoint:
        for name, value in AWS.items() | {("AWS_ENDPOINT_URL", endpoint)}:
            monkeypatch.setenv(name, value)
        yield served


@pytest.fixture
def small_disk(tmp_path):
    """Folder on a disk of one megabyte, which the kernel says is full when it is."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = 'mount -t tmpfs -o size=1m none "$0" && echo mounted && exec cat'
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    try:
        holder = subprocess.Popen(command, text=True, **pipes)  # the mount lives as long as it
    except FileNotFoundError:
        pytest.skip("unshare, which mounts a small disk without root, is not installed")
    with holder:
        said = holder.stdout.readline()
        try:
            if said != "mounted\n":
                pytest.skip(f"a user may not mount a small disk here: {said}")
            yield Path(f"/proc/{holder.pid}/root{folder}")
        finally:
            holder.kill()
