"""Chunks as litdata streams them, against the rows of the sink."""

import json

import numpy as np
import pytest

from tests.export import exports, kinds
from tests.export.exports import check_kills, check_totals, export, make_sink, rows_of, some_kills
from vqpipe.code_layout import CodeLayout

litdata = pytest.importorskip("litdata", reason="litdata is installed by `make test` alone")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """litdata keeps what it knows of data sets in the home folder."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def read(folder):
    """Returns all samples in order."""
    found = litdata.StreamingDataset(str(folder), shuffle=False)
    return [found[number] for number in range(len(found))]


@pytest.mark.parametrize("views", [1, 3])
def test_litdata_reads_codes_labels_captions_and_facts(base, tmp_path, views):
    sink = make_sink(f"{base}/codes", views=views)
    options = ["--label", "label", "--caption", "txt"]
    assert export(sink, f"{base}/out", "litdata", *options) == 0
    check_totals(sink, f"{base}/out", views)
    rows = rows_of(sink)
    for found, row in zip(read(kinds.local(f"{base}/out", tmp_path)), rows, strict=True):
        assert list(found) == ["key", "view", "codes", "label", "caption", "json"]
        assert (found["key"], found["view"]) == (row["key"], row["view"])
        assert (found["label"], found["caption"]) == (row["label"], row["txt"])
        assert found["codes"].dtype == np.uint8
        assert found["codes"].tolist() == np.reshape(row["codes"], (2, 3)).tolist()
        rest = {name: row[name] for name in row if name not in {"codes", "label", "txt"}}
        assert json.loads(found["json"]) == rest


def test_litdata_loader_makes_batches_that_torch_takes(tmp_path):
    sink = make_sink(tmp_path / "codes", codebook_size=1024)
    assert export(sink, tmp_path / "out", "litdata", "--label", "label") == 0
    data = litdata.StreamingDataset(str(tmp_path / "out"), shuffle=False)
    batches = list(litdata.StreamingDataLoader(data, batch_size=4, num_workers=0))
    rows = rows_of(sink)
    assert [batch["codes"].tolist() for batch in batches] == [
        [np.reshape(row["codes"], (2, 3)).tolist() for row in some] for some in (rows[:4], rows[4:])
    ]


def test_litdata_shards_of_many_chunks_are_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr("vqpipe.export.litdata._CHUNK_BYTES", 600)
    sink = make_sink(tmp_path / "codes", {"a": 9, "b": 0, "c": 12})
    assert export(sink, tmp_path / "out", "litdata") == 0
    assert len(list((tmp_path / "out").glob("chunk-*.bin"))) > 4
    assert [each["key"] for each in read(tmp_path / "out")] == [row["key"] for row in rows_of(sink)]


def test_litdata_key_that_is_the_path_of_a_file_here_stays_a_key(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0").write_bytes(b"\xff secret")
    monkeypatch.chdir(tmp_path)
    sink = make_sink(tmp_path / "codes")
    assert export(sink, tmp_path / "out", "litdata") == 0
    assert read(tmp_path / "out")[0]["key"] == "a/0"


@pytest.mark.parametrize("name", kinds.LAYOUTS)
def test_litdata_arrays_have_the_shape_of_the_layout(tmp_path, name):
    layout = kinds.LAYOUTS[name]
    sink = kinds.make_sink(tmp_path / "codes", layout)
    assert export(sink, tmp_path / "out", "litdata") == 0
    for found, row in zip(read(tmp_path / "out"), rows_of(sink), strict=True):
        assert found["codes"].shape == kinds.shape_of(layout, row)
        assert found["codes"].flatten().tolist() == row["codes"]


@pytest.mark.parametrize("size", kinds.CODEBOOKS)
def test_litdata_codes_are_of_the_type_that_the_sink_has(tmp_path, size):
    sink = kinds.make_sink(tmp_path / "codes", CodeLayout.grid(2, 3, size))
    assert export(sink, tmp_path / "out", "litdata") == 0
    found = read(tmp_path / "out")
    assert found[0]["codes"].dtype == np.dtype(kinds.CODEBOOKS[size])
    assert found[0]["codes"][0, 0] == size - 1
    assert [each["codes"].flatten().tolist() for each in found] == [
        row["codes"] for row in rows_of(sink)
    ]


def test_litdata_keeps_odd_keys_and_columns_of_any_type(tmp_path):
    sink = make_sink(tmp_path / "odd", {"a": len(kinds.ODD_KEYS)}, 2, kinds.with_odd_keys)
    assert export(sink, tmp_path / "keys", "litdata") == 0
    assert [each["key"] for each in read(tmp_path / "keys")] == [
        row["key"] for row in rows_of(sink)
    ]
    sink = kinds.make_sink_of_many_kinds(tmp_path / "codes")
    assert export(sink, tmp_path / "out", "litdata") == 0
    kinds.check_many_kinds([json.loads(each["json"]) for each in read(tmp_path / "out")])


def test_litdata_named_column_with_a_null_is_refused_and_the_image_named(tmp_path, capsys):
    sink = make_sink(tmp_path / "codes", {"a": 3}, change=_without_one)
    assert export(sink, tmp_path / "out", "litdata", "--caption", "txt") == 4
    assert "'a/2' has no txt" in capsys.readouterr().err
    assert export(sink, tmp_path / "other", "litdata") == 0
    assert json.loads(read(tmp_path / "other")[1]["json"])["txt"] is None


def _without_one(rows):
    exports.describe(rows)
    rows[2]["kept.txt"] = None


@some_kills
def test_litdata_killed_at_any_storage_call_ends_with_the_same_bytes(tmp_path, step):
    check_kills(make_sink(tmp_path / "codes"), tmp_path, "litdata", step=step)


def test_litdata_of_processes_has_the_same_bytes_as_of_one(tmp_path):
    sink = make_sink(tmp_path / "codes", views=2)
    assert export(sink, tmp_path / "one", "litdata") == 0
    assert export(sink, tmp_path / "two", "litdata", workers=2) == 0
    assert exports.files_of(tmp_path / "one") == exports.files_of(tmp_path / "two")
