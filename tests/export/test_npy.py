"""Arrays as numpy opens them, against the rows of the sink."""

import json
from pathlib import Path

import duckdb
import numpy as np
import pytest

from tests.export import exports
from tests.export.exports import check_kills, check_totals, export, make_sink, rows_of


@pytest.mark.parametrize("views", [1, 3])
def test_npy_arrays_hold_codes_and_labels_of_every_view_in_order(base, tmp_path, views):
    sink = make_sink(f"{base}/codes", views=views)
    assert export(sink, f"{base}/out", "npy") == 0
    rows = rows_of(sink)
    for name, data in exports.files_of(f"{base}/out").items():
        place = tmp_path / "copy" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    codes = np.load(tmp_path / "copy" / "codes.npy", mmap_mode="r")
    assert codes.shape == (len(rows) // views, views, 6)
    assert codes.dtype == np.uint8
    assert codes.reshape(-1, 6).tolist() == [row["codes"] for row in rows]
    labels = np.load(tmp_path / "copy" / "labels.npy")
    assert labels.dtype == np.int64
    assert labels.tolist() == [row["label"] for row in rows[::views]]
    check_totals(sink, f"{base}/out", views)
    found = duckdb.sql(f"FROM '{tmp_path}/copy/keys/*.parquet' ORDER BY sample, view")
    assert found.columns[:4] == ["sample", "key", "row", "view"]
    assert found.select("sample", "key", "view", "txt").fetchall() == [
        (i // views, row["key"], row["view"], row["txt"]) for i, row in enumerate(rows)
    ]


def test_npy_meta_says_how_to_read_it_and_the_lines_do(tmp_path, monkeypatch):
    sink = make_sink(tmp_path / "codes", views=2)
    assert export(sink, tmp_path / "out", "npy") == 0
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    monkeypatch.chdir(tmp_path / "out")
    found = {}
    exec("import numpy, pyarrow.dataset\n" + "\n".join(meta["read"]), found)
    assert list(found["codes"].shape) == meta["codes"]["shape"]
    assert len(found["keys"]) == found["codes"].shape[0] * 2
    assert meta["layout"]["shapes"] == [[2, 3]]
    assert meta["codebook_size"] == 16


@pytest.mark.parametrize(("size", "dtype"), [(256, "uint8"), (257, "uint16"), (65_537, "uint32")])
def test_npy_codes_are_of_the_type_that_the_sink_has(tmp_path, size, dtype):
    sink = make_sink(tmp_path / "codes", codebook_size=size)
    assert export(sink, tmp_path / "out", "npy") == 0
    codes = np.load(tmp_path / "out" / "codes.npy")
    assert codes.dtype == np.dtype(dtype)
    assert codes[:, 0].tolist() == [row["codes"] for row in rows_of(sink)]


def test_npy_killed_at_any_storage_call_ends_with_the_same_bytes(tmp_path):
    check_kills(make_sink(tmp_path / "codes"), tmp_path, "npy")


def test_npy_of_processes_has_the_same_bytes_as_of_one(tmp_path):
    sink = make_sink(tmp_path / "codes")
    assert export(sink, tmp_path / "one", "npy") == 0
    assert export(sink, tmp_path / "two", "npy", workers=2) == 0
    assert exports.files_of(tmp_path / "one") == exports.files_of(tmp_path / "two")


def test_npy_of_pieces_that_are_read_in_blocks_is_the_same(tmp_path, monkeypatch):
    sink = make_sink(tmp_path / "codes", {"a": 50, "b": 30})
    assert export(sink, tmp_path / "one", "npy") == 0
    monkeypatch.setattr("vqpipe.export.pieces.BLOCK_BYTES", 64)
    assert export(sink, tmp_path / "two", "npy") == 0
    assert exports.files_of(tmp_path / "one") == exports.files_of(tmp_path / "two")


def test_npy_without_labels_writes_none_and_takes_the_column_that_is_named(tmp_path):
    sink = make_sink(tmp_path / "codes", kept=exports.KEPT.remove(0), change=_only_text)
    assert export(sink, tmp_path / "out", "npy") == 0
    assert not Path(tmp_path / "out" / "labels.npy").exists()
    assert export(sink, tmp_path / "other", "npy", "--label", "txt") == 4
    assert export(sink, tmp_path / "other", "npy", "--label", "none") == 4
    assert not Path(tmp_path / "other").exists()


def _only_text(rows):
    exports.describe(rows)
    for row in rows:
        row.pop("kept.label", None)


def test_npy_label_that_is_null_is_minus_one(tmp_path):
    sink = make_sink(tmp_path / "codes", change=_without_one)
    assert export(sink, tmp_path / "out", "npy") == 0
    expected = [-1 if row["key"] == "a/2" else row["label"] for row in rows_of(sink)]
    assert np.load(tmp_path / "out" / "labels.npy").tolist() == expected
    assert -1 in expected


def _without_one(rows):
    exports.describe(rows)
    for row in rows:
        if row["key"] == "a/2":
            row["kept.label"] = None
