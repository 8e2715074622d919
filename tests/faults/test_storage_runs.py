"""Whole runs on stores and disks on their bad days."""

import functools
import json
import time
from collections import Counter

import pyarrow.parquet as pq
import pytest

from tests import shell
from tests.makers import jpeg, tar_of
from tests.storage.fault_proxy import Faults

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

encode = functools.partial(shell.encode, timeout_s=400)  # of seconds, on an idle machine

SHARDS, IMAGES = 4, 10
STORM = Faults(refuse=0.25, drop=0.05, lose=0.05, cut=0.05, shorten=0.05)


def tars():
    """Returns a few small tars, the same every time."""
    return {
        f"{shard}.tar": tar_of(
            {f"{shard}-{i}.jpg": jpeg(70, 64, seed=10 * shard + i) for i in range(IMAGES)}
        )
        for shard in range(SHARDS)
    }


class Store:
    """A bucket with a source in it, written and read without the proxy and without our code."""

    def __init__(self, endpoint, bucket):
        import boto3

        self._client = boto3.client("s3", endpoint_url=endpoint)
        self._bucket = bucket.removeprefix("s3://")
        self.source, self.sink = f"{bucket}/source", f"{bucket}/sink"
        for name, data in tars().items():
            self.write(f"source/{name}", data)

    def write(self, key, data):
        self._client.put_object(Bucket=self._bucket, Key=key, Body=data)

    def names(self, prefix="sink/"):
        found = self._client.list_objects_v2(Bucket=self._bucket, Prefix=prefix)
        return {each["Key"].removeprefix(prefix) for each in found.get("Contents", [])}

    def fetch(self, folder):
        for name in self.names():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            found = self._client.get_object(Bucket=self._bucket, Key=f"sink/{name}")
            path.write_bytes(found["Body"].read())
        return folder


@pytest.fixture
def store(s3_server, bucket):
    return Store(s3_server, bucket)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """Codes by key of a run on this machine's disk, with nothing in its way."""
    root = tmp_path_factory.mktemp("expected")
    (root / "source").mkdir()
    for name, data in tars().items():
        (root / "source" / name).write_bytes(data)
    encode(root / "source", root / "sink")
    found = shell.codes_by_key(root / "sink")
    assert len(found) == SHARDS * IMAGES
    return found


def check_complete(sink, expected):
    """Checks a sink on a disk with DuckDB and pyarrow: all there, once, right, and nothing else."""
    assert shell.codes_by_key(sink) == expected
    assert shell.rows(sink, "rejected") == []
    assert json.loads((sink / "_SUCCESS").read_bytes())["encoded"] == len(expected)
    found = {str(p.relative_to(sink)) for p in sink.rglob("*") if p.is_file()}
    found = {name for name in found if not name.startswith("plans/")}
    of_run = {"run.json", "plan.parquet", "summary.json", "README.md", "_SUCCESS"}
    assert found == of_run | {f"data/{shard}.parquet" for shard in range(SHARDS)}


def check_partial(sink, expected):
    """Checks a sink on a disk that ended early: what is there is whole and right."""
    for path in sink.glob("data/*"):
        table = pq.read_table(path).to_pylist()
        assert {row["key"]: row["codes"] for row in table} == {
            key: codes for key, codes in expected.items() if key.startswith(f"{path.stem}-")
        }
    assert shell.rows(sink, "rejected") == []
    assert not (sink / "_SUCCESS").exists()


@pytest.mark.s3
@pytest.mark.soak
@pytest.mark.fault(10)
@pytest.mark.parametrize("faults", [STORM, Faults(refuse=0.66)], ids=["storm", "66 % refused"])
def test_encode_through_faults_equals_a_run_without(store, proxy, expected, tmp_path, faults):
    proxy.faults = faults
    encode(store.source, store.sink)
    assert proxy.account.total() > proxy.account["passed"] > 0
    check_complete(store.fetch(tmp_path / "sink"), expected)


@pytest.mark.s3
@pytest.mark.soak
@pytest.mark.fault(11)
def test_store_that_answers_only_503_ends_every_command_soon(store, proxy):
    proxy.faults = Faults(always="SlowDown")
    places = ("--source", store.source, "--sink", store.sink, "--model", shell.CHECKPOINT)
    start = time.monotonic()
    both = [shell.start("encode", *places), shell.start("inspect", store.sink)]
    endings = [process.communicate(timeout=240) for process in both]
    assert time.monotonic() - start < 120
    assert [process.returncode for process in both] == [4, 4], endings
    for _, errors in endings:
        assert "s3 store gave no good answer" in errors
        assert store.source.removesuffix("/source") in errors
        assert "503" in errors or "SlowDown" in errors


@pytest.mark.s3
@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.fault(11)
def test_encode_store_that_answers_only_503_from_some_moment_on_ends_with_4(
    store, proxy, expected, tmp_path
):
    dead = functools.partial(setattr, proxy, "faults", Faults(always="SlowDown"))
    proxy.after("PUT .*/sink/data/", dead)
    start = time.monotonic()
    printed = encode(store.source, store.sink, expect=4, timeout_s=900)
    assert time.monotonic() - start < 600
    assert "SlowDown" in printed
    check_partial(store.fetch(tmp_path / "partial"), expected)
    proxy.faults = Faults()
    encode(store.source, store.sink)
    check_complete(store.fetch(tmp_path / "sink"), expected)


@pytest.mark.s3
@pytest.mark.soak
@pytest.mark.fault(10, 12)
@pytest.mark.parametrize(
    ("done", "moment"),
    [
        ("ExpiredToken", "PUT .*/sink/data/"),
        ("AccessDenied", "GET .*/source/"),
    ],
)
def test_encode_access_that_ends_in_the_middle_exits_4_and_rerun_in_a_storm_completes(
    store, proxy, expected, tmp_path, done, moment
):
    proxy.after(moment, functools.partial(setattr, proxy, "faults", Faults(always=done)))
    printed = encode(store.source, store.sink, expect=4)
    assert "credentials" in printed
    assert f"{store.source.removesuffix('source')}" in printed
    check_partial(store.fetch(tmp_path / "partial"), expected)
    proxy.faults, proxy.account = STORM, Counter()
    encode(store.source, store.sink)
    assert proxy.account.total() > proxy.account["passed"] > 0
    check_complete(store.fetch(tmp_path / "sink"), expected)


@pytest.mark.soak
@pytest.mark.s3
@pytest.mark.fault(16)
def test_encode_source_replaced_after_planning_exits_3_and_names_it(
    store, proxy, expected, tmp_path
):
    proxy.after("PUT .*/sink/run.json", lambda: store.write("source/2.tar", tars()["1.tar"]))
    printed = encode(store.source, store.sink, expect=3)
    assert "2.tar" in printed
    check_partial(store.fetch(tmp_path / "partial"), expected)
    assert "data/2.parquet" not in store.names()


@pytest.mark.s3
@pytest.mark.soak
@pytest.mark.fault(16)
def test_encode_source_replaced_and_restored_completes(store, proxy, expected, tmp_path):
    proxy.after("PUT .*/sink/run.json", lambda: store.write("source/2.tar", tars()["1.tar"]))
    encode(store.source, store.sink, expect=3)
    store.write("source/2.tar", tars()["2.tar"])
    encode(store.source, store.sink)
    check_complete(store.fetch(tmp_path / "sink"), expected)


@pytest.mark.soak
@pytest.mark.fault(14)
def test_encode_full_disk_exits_4_and_rerun_with_room_completes(small_disk, expected, tmp_path):
    (tmp_path / "source").mkdir()
    for name, data in tars().items():
        (tmp_path / "source" / name).write_bytes(data)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(2**20 - 4 * 4096))
    sink = small_disk / "sink"
    printed = encode(tmp_path / "source", sink, expect=4)
    assert "disk is full" in printed
    assert str(small_disk) in printed
    check_partial(sink, expected)
    assert list(sink.rglob(".*")) == []
    ballast.unlink()
    encode(tmp_path / "source", sink)
    check_complete(sink, expected)
