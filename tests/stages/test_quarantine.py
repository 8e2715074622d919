import gzip
import os
import signal
import sys

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.endtoend import failing
from tests.makers import jpeg, tar_of
from vqpipe import storage
from vqpipe.errors import ConfigError, SourceChangedError
from vqpipe.rejections import Loss
from vqpipe.schema import Selection, read_schema
from vqpipe.sink.ranges import Staged
from vqpipe.sources import kept_schema, list_shards, read_shard, with_about
from vqpipe.stages.quarantine import read_quarantined
from vqpipe.stages.read import read_rows


def tar(folder, *names):
    storage.publish(f"{folder}/a.tar", tar_of({name: jpeg(seed=i) for i, name in enumerate(names)}))
    return shard_of(folder)


def shard_of(folder, **selected):
    selection = Selection(**selected)
    listing = with_about(list_shards(str(folder)), selection)
    return listing.shards[0], selection, kept_schema(listing, selection)


def write_parquet(folder):
    table = pa.table(
        {
            "image": pa.array([jpeg(), None, jpeg(seed=2), b""], pa.binary()),
            "id": ["a", "é", "a", "d"],
            "when": pa.array([1, 2, None, 2**60 + 1], pa.timestamp("ns")),
            "tags": [["x"], [], None, ["y", "z"]],
        }
    )
    pq.write_table(table, folder / "a.parquet")
    return {"image": "image", "key": "id", "keep": ("when", "tags")}


def write_tar(folder):
    members = [("a.jpg", jpeg()), ("a.txt", b"caption"), ("b.txt", b"no image"), ("c.jpg", b"")]
    (folder / "a.tar.gz").write_bytes(gzip.compress(tar_of(members)))
    return {"keep": ("txt",)}


def write_folder(folder):
    for i in range(3):
        (folder / f"{i}.jpg").write_bytes(jpeg(seed=i))
    return {}


def write_lists(folder):
    image, kind = [jpeg(), None, b""], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pages = [[{"bytes": jpeg(seed=1), "path": "a"}, None], [], None]
    columns = {"left": image, "pages": pa.array(pages, pa.list_(kind)), "id": ["a", "a", "b"]}
    pq.write_table(pa.table(columns), folder / "a.parquet")
    return {"image": ("left", "pages"), "key": "id", "keep": ("id",)}


def write_fields(folder):
    members = [(f"{i}.{kind}", jpeg(seed=i)) for i in range(3) for kind in ("l.jpg", "r.jpg")]
    members.insert(2, ("0.json", b'{"n": 9007199254740993, "tags": ["a"], "x": {"y": null}}'))
    members += [("2.json", b'{"n": "x"}'), ("3.json", b"{}"), ("3.cls", b"4")]
    (folder / "a.tar").write_bytes(tar_of(members))
    return {"image": ("l.jpg", "r.jpg"), "keep": ("json:n", "cls", "json:tags", "json:x.y")}


def write_classes(folder):
    for name in ("b/0", "a/0", "c"):
        storage.publish(f"{folder}/{name}.jpg", jpeg())
    (folder / "metadata.csv").write_text("file_name,n\nb/0.jpg,1\nc.jpg,2\nc.jpg,3\n")
    return {"label": "folder", "keep": ("n",)}


@pytest.mark.parametrize(
    "write", [write_parquet, write_tar, write_folder, write_lists, write_classes]
)
def test_read_quarantined_gives_the_same_samples(tmp_path, write):
    given = shard_of(tmp_path, **write(tmp_path))
    (found,), (expected,) = (
        read_rows(read(*given), 0, Staged(), given[2], 100)
        for read in (read_quarantined, read_shard)
    )
    assert len(found) > 2
    assert found.equals(expected)
    assert found.schema == read_schema(given[2])


def test_read_quarantined_gives_the_same_fields_of_frozen_types(tmp_path):
    selection = Selection(**write_fields(tmp_path))
    (shard,) = list_shards(str(tmp_path)).shards
    kinds = [pa.int64(), pa.int64(), pa.list_(pa.string()), pa.string()]
    names = ["n", "cls", "tags", "y"]
    kept = pa.schema([("image", pa.string()), *zip(names, kinds, strict=True)])
    (found,), (expected,) = (
        read_rows(read(shard, selection, kept), 0, Staged(), kept, 100)
        for read in (read_quarantined, read_shard)
    )
    assert found.equals(expected)
    reasons = found["reason"].to_pylist()
    assert reasons == [*[None] * 4, *["bad_metadata"] * 2, *["no_image"] * 2]


def test_read_quarantined_row_that_kills_ends_the_shard(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(failing.write_site(tmp_path / "site"))
    given = tar(tmp_path / "source", "a.jpg", "b.jpg", "kills.jpg", "d.jpg")
    *kept, last = read_quarantined(*given)
    assert [(sample.row, sample.key) for sample in kept] == [(0, "a"), (1, "b")]
    assert [sample.data for sample in kept] == [jpeg(seed=0), jpeg(seed=1)]
    assert (last.row, last.rejection.reason) == (2, "shard_damaged")
    assert "row 2 " in last.rejection.message
    assert "SIGSEGV" in last.rejection.message
    assert last.rejection.loss == Loss(None, "unknown")


_KILLS_IN_PARQUET = """
import ctypes
from vqpipe.sources import parquet

_unique = parquet.unique


def unique(sample, seen):
    return ctypes.string_at(0) if sample.row == 2 else _unique(sample, seen)


parquet.unique = unique
"""


def test_read_quarantined_parquet_row_that_kills_loses_a_known_number(tmp_path, monkeypatch):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(_KILLS_IN_PARQUET)
    monkeypatch.syspath_prepend(tmp_path / "site")
    selected = write_parquet(tmp_path)
    *kept, last = read_quarantined(*shard_of(tmp_path, **selected))
    assert [sample.key for sample in kept] == ["a", "é"]
    assert last.rejection.loss == Loss(2, "known")


def test_read_quarantined_unforeseen_error_ends_the_shard_as_elsewhere(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(failing.write_site(tmp_path / "site"))
    *kept, last = read_quarantined(*tar(tmp_path / "source", "a.jpg", "raises.jpg"))
    assert [sample.key for sample in kept] == ["a"]
    assert (last.row, last.rejection.reason) == (1, "shard_damaged")
    assert "LookupError" in last.rejection.message


def children():
    return psutil.Process(os.getpid()).children()


def test_read_quarantined_child_killed_by_chance_costs_nothing(tmp_path):
    given = tar(tmp_path, *(f"{i}.jpg" for i in range(5)))
    others, found = children(), []
    for sample in read_quarantined(*given):
        found.append(sample)
        for child in set(children()) - set(others):
            child.send_signal(signal.SIGKILL)
    assert found == list(read_shard(*given))


def test_read_quarantined_our_own_errors_fly(tmp_path):
    given = tar(tmp_path, "a.jpg")
    storage.replace(f"{tmp_path}/a.tar", b"another")
    with pytest.raises(SourceChangedError, match=r"a\.tar changed"):
        list(read_quarantined(*given))


def test_read_quarantined_left_early_leaves_no_child(tmp_path):
    others = children()
    samples = read_quarantined(*tar(tmp_path, "a.jpg", "b.jpg"))
    next(samples)
    assert len(children()) == len(others) + 1
    samples.close()
    assert children() == others


def test_read_quarantined_without_a_python_is_a_config_error(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ConfigError, match="exit code 1"):
        list(read_quarantined(*tar(tmp_path, "a.jpg")))


@pytest.mark.s3
def test_read_quarantined_finds_the_credentials_of_the_environment(bucket):
    given = tar(f"{bucket}/source", "a.jpg", "b.jpg")
    assert list(read_quarantined(*given)) == list(read_shard(*given))
