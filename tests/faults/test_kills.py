"""Workers, drivers, nodes and heads that are killed in the middle of a run: faults 1 to 6 and 8."""

import contextlib
import re
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from tests import shell
from tests.cluster.ray_cluster import LOOPBACK, RayCluster
from tests.endtoend.test_encode import photos, write_tars
from tests.faults.killer import KINDS, Killer, descendants, seeded
from vqpipe.commands import cli

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ONE_BY_ONE = ("--batch-size", 4)
ENDED_S = 40
"""For processes to be gone on a busy machine; alone it takes 2 s, and Ray by itself takes 60 s."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with a source of many shards, and the sink of a run that nothing has interrupted."""
    root = tmp_path_factory.mktemp("whole")
    write_tars(root / "source", photos(480), shards=12)
    shell.encode(root / "source", root / "sink")
    return root


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """The same, larger, for what takes minutes."""
    root = tmp_path_factory.mktemp("large")
    write_tars(root / "source", photos(1440), shards=24)
    shell.encode(root / "source", root / "sink", timeout_s=1200)
    return root


TEN_CROP = ("--views", "ten-crop:1.1", "--resize", "adm")


@pytest.fixture(scope="module")
def cropped(tmp_path_factory):
    """The same of ten views an image."""
    root = tmp_path_factory.mktemp("cropped")
    write_tars(root / "source", photos(120), shards=12)
    shell.encode(root / "source", root / "sink", *TEN_CROP)
    return root


@pytest.fixture
def ray_cluster(monkeypatch):
    for name, value in LOOPBACK.items():
        monkeypatch.setenv(name, value)
    with RayCluster() as cluster:
        yield cluster


def stored(sink):
    """Returns rows and footer of every data object, by name; fails if a page is not as written."""
    found = {}
    for path in sorted(Path(sink, "data").rglob("*.parquet")):
        rows = pq.read_table(path, page_checksum_verification=True).to_pylist()
        metadata = pq.read_metadata(path)
        assert metadata.num_rows == len(rows)
        found[path.name] = rows, metadata.metadata
    return found


def check_same(sink, whole):
    """Checks that a sink is complete and the same as that of the uninterrupted run."""
    assert codes_by_view(sink) == codes_by_view(whole / "sink")
    assert stored(sink) == stored(whole / "sink")
    assert shell.rows(sink, "rejected") == []
    assert (sink / "_SUCCESS").exists()
    assert not list((sink / "staging").rglob("*.parquet"))
    assert cli.main(["verify", str(sink)]) == 0


def codes_by_view(sink):
    found = shell.rows(sink, columns="key, row, view, codes")
    codes = {(row["key"], row["view"]): list(row["codes"]) for row in found}
    assert len(codes) == len(found)
    return codes


def check_ended(processes):
    _, alive = psutil.wait_procs(processes, timeout=ENDED_S)
    assert not alive, [(process.pid, process.cmdline()[:1], process.status()) for process in alive]


def suspend_codecs(node):
    is_codec = re.compile(KINDS["codec"])
    found = [each for each in node.processes() if is_codec.match(" ".join(each.cmdline()))]
    assert found
    for process in found:
        process.suspend()


def modified(paths):
    return {path: path.stat().st_mtime_ns for path in paths}


@pytest.mark.soak
@pytest.mark.fault(1)
def test_encode_whose_workers_are_killed_ends_as_if_nothing_had_been(whole, tmp_path):
    process = shell.start_encode(whole / "source", tmp_path / "sink")
    with Killer(descendants(process.pid), every_s=0.5, most=6) as killer:
        shell.finish(process)
    assert killer.count()["codec"]
    assert len(killer.count()) >= 3, killer.kills
    check_same(tmp_path / "sink", whole)


@pytest.mark.soak
@pytest.mark.fault(1, 2)
def test_encode_of_ten_views_whose_workers_and_driver_are_killed_ends_as_if_nothing_had_been(
    cropped, tmp_path
):
    """Its driver two times at a random moment, and all along its workers."""
    rng, sink, kills = seeded(), tmp_path / "sink", Counter()
    for _ in range(2):
        process = shell.start_encode(cropped / "source", sink, *TEN_CROP)
        with Killer(descendants(process.pid), every_s=0.5, most=3) as killer:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(rng.uniform(5, 15))
            children = descendants(process.pid)()
            process.kill()
            process.communicate()
        check_ended(children)
        kills += killer.count()
    process = shell.start_encode(cropped / "source", sink, *TEN_CROP)
    with Killer(descendants(process.pid), every_s=0.5, most=6) as killer:
        shell.finish(process)
    assert kills + killer.count(), "nothing was killed"
    assert len(codes_by_view(sink)) == 1200
    check_same(sink, cropped)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.fault(1)
def test_encode_whose_workers_are_killed_again_and_again_ends_as_if_nothing_had_been(
    large, tmp_path
):
    process = shell.start_encode(large / "source", tmp_path / "sink")
    # On one machine, with as many shards, whoever opens images reads them too: no `read` is there.
    kinds = [kind for kind in KINDS if kind != "read"]
    with Killer(descendants(process.pid), kinds, every_s=1.5, most=40) as killer:
        shell.finish(process, timeout_s=1500)
    # A commit is soon over, and may slip through; tests/sink/test_commit.py ends it at every call.
    assert set(killer.count()) >= set(kinds) - {"commit"}, killer.kills
    check_same(tmp_path / "sink", large)


@pytest.mark.soak
@pytest.mark.timeout(2400)
@pytest.mark.fault(2)
def test_encode_driver_killed_again_and_again_then_completes(large, tmp_path):
    rng, sink = seeded(), tmp_path / "sink"
    done = {}
    for _ in range(8):
        process = shell.start_encode(large / "source", sink)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(1, 40))
        children = descendants(process.pid)()
        process.kill()
        process.communicate()
        check_ended(children)
        assert modified(done) == done  # what is finished is not done again
        done = modified((sink / "data").glob("*.parquet"))
        assert {name: stored(large / "sink")[name] for name in stored(sink)} == stored(sink)
    shell.encode(large / "source", sink, timeout_s=1200)
    assert modified(done) == done
    check_same(sink, large)


@pytest.mark.soak
@pytest.mark.fault(8)
def test_encode_terminated_while_it_encodes_stops_with_2_and_what_is_there_is_whole(
    whole, tmp_path
):
    process = shell.start_encode(whole / "source", tmp_path / "sink", *ONE_BY_ONE)
    shell.await_commit(process, tmp_path / "sink")
    children = descendants(process.pid)()
    process.send_signal(signal.SIGTERM)
    assert "SIGTERM" in shell.finish(process, expect=2, timeout_s=60)
    check_ended(children)
    found = stored(tmp_path / "sink")
    assert {name: stored(whole / "sink")[name] for name in found} == found
    assert not (tmp_path / "sink" / "_SUCCESS").exists()


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.fault(6)
def test_encode_two_commands_at_once_of_which_one_is_killed_commit_once(whole, tmp_path):
    sink = tmp_path / "sink"
    both = [shell.start_encode(whole / "source", sink, *ONE_BY_ONE) for _ in range(2)]
    done = modified(shell.await_commit(both[0], sink))
    both[0].kill()
    both[0].communicate()
    shell.finish(both[1], timeout_s=600)
    assert modified(done) == done
    check_same(sink, whole)


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.fault(3)
def test_encode_node_that_is_lost_and_replaced_costs_nothing(large, tmp_path, ray_cluster):
    nodes = [ray_cluster.add(num_cpus=2) for _ in range(2)]
    options = ("--address", ray_cluster.address, "--actors", 2)
    process = shell.start_encode(large / "source", tmp_path / "sink", *options)
    done = modified(shell.await_commit(process, tmp_path / "sink"))
    for node in nodes:
        assert process.poll() is None, "the run is over before a node could be lost"
        node.kill()
        ray_cluster.add(num_cpus=2)
    shell.finish(process, timeout_s=900)
    assert modified(done) == done
    check_same(tmp_path / "sink", large)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.fault(4)
def test_encode_only_gpu_node_lost_and_not_replaced_gives_up_with_5(large, tmp_path, ray_cluster):
    ray_cluster.add(num_cpus=2)
    node = ray_cluster.add(num_cpus=1, num_gpus=1)  # one in name: torch encodes on its CPU
    options = ("--address", ray_cluster.address, "--stall-timeout-s", 60)
    process = shell.start_encode(large / "source", tmp_path / "sink", *options)
    shell.await_commit(process, tmp_path / "sink")
    node.kill()
    lost = time.monotonic()
    printed = shell.finish(process, expect=5, timeout_s=300)
    assert time.monotonic() - lost < 60 + 60
    assert "needs 1 GPU" in printed
    assert "0 of 0 GPUs" in printed


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.fault(5)
def test_encode_head_lost_ends_with_2_and_completes_on_a_new_cluster(large, tmp_path, ray_cluster):
    node = ray_cluster.add(num_cpus=2)
    options = (*ONE_BY_ONE, "--address", ray_cluster.address)
    process = shell.start_encode(large / "source", tmp_path / "sink", *options)
    shell.await_commit(process, tmp_path / "sink")
    suspend_codecs(node)  # a fast machine is done before the half minute that a head may be silent
    ray_cluster.head.kill_head()
    printed = shell.finish(process, expect=2, timeout_s=120)
    assert ray_cluster.address in printed
    done = modified((tmp_path / "sink" / "data").glob("*.parquet"))
    assert 0 < len(done) < 24
    with RayCluster() as another:
        another.add(num_cpus=2)
        options = (*ONE_BY_ONE, "--address", another.address)
        shell.encode(large / "source", tmp_path / "sink", *options, timeout_s=400)
    assert modified(done) == done
    check_same(tmp_path / "sink", large)
