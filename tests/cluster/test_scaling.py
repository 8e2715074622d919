"""Clusters that begin with no node, grow while a run asks for nodes, and lose some.

GPUs are such in name: Ray deals them out, and torch, one for CPUs, encodes on their node's CPU.
"""

import json
import re
import time

import duckdb
import psutil
import pytest
from infra.demo.autoscaled import LOOPBACK, AutoscaledCluster, NodeType

from tests import plain, shell
from tests.cluster.ray_cluster import RayCluster
from tests.faults.killer import KINDS
from tests.makers import jpeg, tar_of

SHARDS, PHOTOS = 36, 60
KINDS_OF_NODES = {
    "cpu": NodeType({"CPU": 2}, most=1),
    "gpu": NodeType({"CPU": 0, "GPU": 1}, most=2, labels={"pool": "codes"}),
}
SIDE = 32
ON_GPUS = ("--batch-size", 8, "--codec-resources", "GPU=1")
IS_CODEC_AT_WORK = re.compile(KINDS["codec"] + r"\.submit\s*$")
PATIENCE_S = 240
TURN_S = 10


@pytest.fixture(scope="module", autouse=True)
def on_loopback():
    with pytest.MonkeyPatch.context() as patch:
        for name, value in LOOPBACK.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def cluster():
    with AutoscaledCluster(KINDS_OF_NODES) as found:
        yield found


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Shards that all hold the same photos, so that a small run knows the codes of all."""
    folder = tmp_path_factory.mktemp("source")
    photos = {f"{number}.jpg": jpeg(60, 50, seed=number) for number in range(PHOTOS)}
    for shard in range(SHARDS):
        (folder / f"{shard:05d}.tar").write_bytes(tar_of(photos))
    return folder


@pytest.fixture(scope="module")
def truth(source, tmp_path_factory):
    """The sink of one shard, encoded without Ray."""
    sink = tmp_path_factory.mktemp("truth") / "codes"
    plain.encode(source / "00000.tar", sink, resolution=SIDE)
    return sink


def codecs_at_work(processes):
    """Returns codecs that have a table: Ray asks for no other node before one is there."""
    found = []
    for process in processes:
        try:
            if IS_CODEC_AT_WORK.match(" ".join(process.cmdline())):
                found.append(process)
        except psutil.NoSuchProcess:
            pass
    return found


def wait_for(what, process):
    """Returns what a function finds, as soon as it is something; a command goes on meanwhile."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := what()):
        assert process.poll() is None, shell.finish(process)
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def hold_two_codecs(nodes_of, process):
    """Returns, by node, the codecs of two nodes, which are suspended from their first tables on.

    Else the first could have all tables before the other node has come. It runs for a moment now
    and then: Ray asks for nodes by how fast a codec is, and knows that from its first rows on.
    """
    held, turns = {}, []

    def look():
        for node, processes in nodes_of():
            if node not in held and (codecs := codecs_at_work(processes)):
                held[node] = codecs[0]
                held[node].suspend()
        if len(held) == 1 and (not turns or time.monotonic() > turns[-1] + TURN_S):
            turns.append(time.monotonic())
            let_run(held.values(), TURN_S / 10)
        return len(held) == 2

    wait_for(look, process)
    return held


def let_run(codecs, seconds):
    for codec in codecs:
        codec.resume()
    time.sleep(seconds)
    for codec in codecs:
        codec.suspend()


@pytest.fixture(scope="module")
def grown(cluster, source, tmp_path_factory):
    """The sink of a run on a cluster that had no node at first, and lost one in the middle."""
    sink = tmp_path_factory.mktemp("grown") / "codes"
    options = (*ON_GPUS, "--codec-labels", "pool=codes", "--address", cluster.address)
    assert len(cluster.nodes()) == 1
    process = shell.start_encode(source, sink, *options, resolution=SIDE)

    def gpu_nodes():
        with_gpu = [each for each in cluster.nodes() if each["Resources"].get("GPU")]
        return [(each["NodeID"], cluster.processes(each["NodeID"])) for each in with_gpu]

    held = hold_two_codecs(gpu_nodes, process)
    for codec in held.values():
        codec.resume()
    cluster.kill_node(next(iter(held)))
    shell.finish(process, timeout_s=PATIENCE_S)
    return sink


def shares(sink):
    """Returns what each machine did in the last command, as its summary says."""
    return json.loads((sink / "summary.json").read_text())["machines"].values()


def assert_once_and_as_alone(sink, truth):
    codes = f"SELECT key, codes, count(*) AS times FROM '{sink}/data/**/*.parquet' GROUP BY ALL"
    wanted = f"SELECT key, codes, {SHARDS} AS times FROM '{truth}/data/**/*.parquet'"
    assert duckdb.sql(f"({codes}) EXCEPT ({wanted})").fetchall() == []
    ((found,),) = duckdb.sql(f"SELECT count(*) FROM '{sink}/data/**/*.parquet'").fetchall()
    assert found == SHARDS * PHOTOS
    assert (sink / "_SUCCESS").exists()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.fault(3)
def test_encode_node_lost_on_a_cluster_that_began_empty_has_every_image_once(grown, truth):
    assert_once_and_as_alone(grown, truth)


@pytest.mark.ray
@pytest.mark.slow
def test_encode_cluster_without_nodes_at_first_uses_the_gpus_that_come(grown):
    assert sum(share["encoded"] > 0 for share in shares(grown)) >= 2


@pytest.mark.ray
@pytest.mark.slow
def test_encode_nodes_without_gpus_feed_those_with_one(grown):
    encoders = [share for share in shares(grown) if share["encoded"]]
    openers = [share for share in shares(grown) if share["opened"]]
    assert not any(share["opened"] for share in encoders)
    assert sum(share["opened"] for share in openers) >= SHARDS * PHOTOS


@pytest.mark.ray
@pytest.mark.soak
@pytest.mark.usefixtures("grown")
def test_encode_label_that_no_node_has_is_said_at_once_and_at_the_end(cluster, source, tmp_path):
    asked = ("--codec-labels", "pool=nowhere", "--codec-resources", "GPU=1")
    options = (*asked, "--address", cluster.address, "--stall-timeout-s", 5)
    printed = shell.encode(source, tmp_path / "codes", *options, resolution=SIDE, expect=5)
    said = re.findall(
        r"1 GPU and label pool=nowhere, which none of the cluster's \d+ nodes has", printed
    )
    assert len(said) == 2


@pytest.mark.ray
@pytest.mark.soak
@pytest.mark.timeout(900)
def test_encode_cluster_without_cores_at_first_opens_and_encodes_on_those_that_come(
    source, truth, tmp_path
):
    with AutoscaledCluster({"cpu": NodeType({"CPU": 2, "codec": 1}, most=2)}) as cluster:
        options = ("--codec-resources", "codec=1", "--actors", 2, "--address", cluster.address)
        shell.encode(source, tmp_path / "codes", *options, resolution=SIDE, timeout_s=600)
    assert_once_and_as_alone(tmp_path / "codes", truth)
    assert sum(share["opened"] > 0 for share in shares(tmp_path / "codes")) == 2


@pytest.fixture
def by_hand():
    with RayCluster() as cluster:
        yield cluster


def start_on(cluster, source, sink, *options):
    options = (*ON_GPUS, "--address", cluster.address, *options)
    return shell.start_encode(source, sink, *options, resolution=SIDE)


@pytest.mark.ray
@pytest.mark.soak
@pytest.mark.timeout(900)
def test_encode_gpu_node_added_by_hand_is_used_by_the_run_under_way(
    by_hand, source, truth, tmp_path
):
    by_hand.add(num_cpus=2)
    gpus = [by_hand.add(num_cpus=0, num_gpus=1)]
    process = start_on(by_hand, source, tmp_path / "codes")
    wait_for(lambda: codecs_at_work(gpus[0].processes()), process)
    gpus.append(by_hand.add(num_cpus=0, num_gpus=1))
    held = hold_two_codecs(lambda: [(each, each.processes()) for each in gpus], process)
    for codec in held.values():
        codec.resume()
    shell.finish(process, timeout_s=600)
    assert_once_and_as_alone(tmp_path / "codes", truth)
    assert sum(share["encoded"] > 0 for share in shares(tmp_path / "codes")) == 2


@pytest.mark.ray
@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.fault(4)
def test_encode_gpu_node_lost_and_not_replaced_is_survived_by_the_other(
    by_hand, source, truth, tmp_path
):
    by_hand.add(num_cpus=2)
    gpus = [by_hand.add(num_cpus=0, num_gpus=1) for _ in range(2)]
    process = start_on(by_hand, source, tmp_path / "codes", "--stall-timeout-s", 120)
    held = hold_two_codecs(lambda: [(each, each.processes()) for each in gpus], process)
    gpus[0].kill()
    held[gpus[1]].resume()
    shell.finish(process, timeout_s=600)
    assert_once_and_as_alone(tmp_path / "codes", truth)
