"""A shard that a store holds back from one machine, and another machine that does it again."""

import json
import os
import subprocess
import sys
import threading

import boto3
import duckdb
import pytest

from tests import plain, shell
from tests.cluster.ray_cluster import LOOPBACK, RayCluster
from tests.makers import jpeg, tar_of

SHARDS, PHOTOS = 8, 3
STUCK = "00003"
"""Not one of the tars that a command looks at before it begins, every other one."""
HURRIED = """
import sys
from vqpipe.commands import cli
from vqpipe.engine import counter
counter.FACTOR, counter.LEAST_S = 1.2, 2.0
cli.run_to_end(sys.argv[1:])
"""
"""A command to which a shard is late after seconds, not after a minute."""


@pytest.fixture
def two_nodes(proxy, monkeypatch):
    """A cluster whose workers, as all that starts from here, see the store through the proxy."""
    assert os.environ["AWS_ENDPOINT_URL"] == proxy.endpoint
    for name, value in LOOPBACK.items():
        monkeypatch.setenv(name, value)
    with RayCluster() as cluster:
        for _ in range(2):
            cluster.add(num_cpus=3)
        yield cluster


@pytest.fixture
def source(s3_server, bucket, tmp_path):
    """Shards in the bucket, and on disk for those who are to know their codes."""
    s3 = boto3.client("s3", endpoint_url=s3_server)
    (tmp_path / "source").mkdir()
    for shard in range(SHARDS):
        photos = {f"{shard}-{i}.jpg": jpeg(60, 50, seed=10 * shard + i) for i in range(PHOTOS)}
        path = tmp_path / "source" / f"{shard:05d}.tar"
        path.write_bytes(tar_of(photos))
        s3.upload_file(str(path), bucket.removeprefix("s3://"), f"source/{path.name}")
    return f"{bucket}/source"


@pytest.mark.soak
@pytest.mark.ray
@pytest.mark.s3
@pytest.mark.slow
def test_shard_that_the_store_holds_back_from_one_machine_is_done_by_another(
    two_nodes, proxy, source, tmp_path
):
    released, sink = threading.Event(), tmp_path / "codes"
    proxy.after(rf"GET .*{STUCK}\.tar", lambda: released.wait(240))
    places = ("--source", source, "--sink", sink, "--model", shell.CHECKPOINT)
    options = ("--resolution", 64, "--address", two_nodes.address, "--device", "cpu")
    command = [sys.executable, "-c", HURRIED, "encode", *places, *options]
    process = subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    try:
        printed = shell.finish(process)
    finally:
        released.set()
    (late,) = [
        each
        for each in json.loads((sink / "summary.json").read_text())["slow_shards"]
        if each["again_on"]
    ]
    assert late["shard"] == STUCK
    assert late["again_on"] != late["machine"]
    assert f"shard {STUCK} has taken" in printed
    assert "of which 1 were done a second time" in " ".join(printed.split())
    plain.encode(tmp_path / "source", tmp_path / "truth")
    assert shell.codes_by_key(sink) == shell.codes_by_key(tmp_path / "truth")
    count = duckdb.sql(f"SELECT count(*), count(DISTINCT key) FROM '{sink}/data/*.parquet'")
    assert count.fetchall() == [(SHARDS * PHOTOS, SHARDS * PHOTOS)]
