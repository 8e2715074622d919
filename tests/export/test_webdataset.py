"""Tars as webdataset reads them, against the rows of the sink."""

import contextlib
import gc
import glob
import json
import warnings
from urllib.parse import unquote

import numpy as np
import pytest
import webdataset

from tests.export import exports, kinds
from tests.export.exports import check_kills, check_totals, export, make_sink, rows_of, some_kills
from vqpipe.code_layout import CodeLayout


def read(folder):
    """Returns what webdataset finds in all tars, in order."""
    return read_tars(sorted(folder.rglob("*.tar")))


def read_tars(tars):
    with left_to_the_collector():
        return list(webdataset.WebDataset(list(map(str, tars)), shardshuffle=False).decode())


@contextlib.contextmanager
def left_to_the_collector():
    """Has tars closed that webdataset leaves open; all that was there before is not looked at."""
    gc.freeze()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            yield
            gc.collect()
    finally:
        gc.unfreeze()


@pytest.mark.parametrize("views", [1, 3])
def test_webdataset_reads_codes_labels_captions_and_facts(base, tmp_path, views):
    sink = make_sink(f"{base}/codes", views=views)
    assert export(sink, f"{base}/out", "webdataset") == 0
    check_totals(sink, f"{base}/out", views)
    folder = kinds.local(f"{base}/out", tmp_path)
    rows = rows_of(sink)
    for found, row in zip(read(folder), rows, strict=True):
        key, *view = found["__key__"].split("~")
        assert unquote(key) == row["key"]
        assert view == ([f"v{row['view']}"] if views > 1 else [])
        assert found["codes.npy"].dtype == np.uint8
        assert found["codes.npy"].tolist() == np.reshape(row["codes"], (2, 3)).tolist()
        assert (found["cls"], found["txt"]) == (row["label"], row["txt"])
        rest = {name: row[name] for name in row if name not in {"codes", "label", "txt"}}
        assert found["json"] == rest
    assert not (folder / "b" / "c.tar").exists()  # which has no row
    sizes = json.loads((folder / "sizes.json").read_text())
    assert sum(sizes.values()) == len(rows)
    for name, count in sizes.items():
        assert len(read_tars([folder / name])) == count


def test_webdataset_keeps_samples_of_any_key_apart_and_says_the_key(tmp_path):
    count = len(kinds.ODD_KEYS)
    sink = make_sink(tmp_path / "codes", {"a": count}, 2, kinds.with_odd_keys, rejected=())
    assert export(sink, tmp_path / "out", "webdataset") == 0
    rows, found = rows_of(sink), read(tmp_path / "out")
    assert len(found) == len(rows) > count
    assert [each["json"]["key"] for each in found] == [row["key"] for row in rows]
    names = [each["__key__"] for each in found]
    assert len(set(names)) == len(names)
    for name, row in zip(names, rows, strict=True):
        assert not set("./\\\n\t") & set(name)
        first = unquote(name.split("~")[0])
        assert first == row["key"] or (row["key"], first) == ("", "%")


def test_webdataset_of_several_images_a_sample_names_each(tmp_path):
    kept = exports.KEPT.append(exports.pa.field("image", exports.pa.string()))
    sink = make_sink(tmp_path / "codes", {"a": 4}, change=_pairs, kept=kept)
    assert export(sink, tmp_path / "out", "webdataset") == 0
    found = read(tmp_path / "out")
    assert [each["__key__"] for each in found] == ["k0~left%2Epng", "k1~left%2Epng", "k1~right"]
    assert [each["json"]["image"] for each in found] == ["left.png", "left.png", "right"]


def _pairs(rows):
    exports.describe(rows)
    for row in rows:
        row["key"] = f"k{row['row'] // 2}"
        row["kept.image"] = "right" if row["row"] % 2 else "left.png"


@pytest.mark.parametrize("name", kinds.LAYOUTS)
def test_webdataset_arrays_have_the_shape_of_the_layout(tmp_path, name):
    layout = kinds.LAYOUTS[name]
    sink = kinds.make_sink(tmp_path / "codes", layout)
    assert export(sink, tmp_path / "out", "webdataset") == 0
    for found, row in zip(read(tmp_path / "out"), rows_of(sink), strict=True):
        assert found["codes.npy"].shape == kinds.shape_of(layout, row)
        assert found["codes.npy"].flatten().tolist() == row["codes"]


@pytest.mark.parametrize("size", kinds.CODEBOOKS)
def test_webdataset_codes_are_of_the_type_that_the_sink_has(tmp_path, size):
    sink = kinds.make_sink(tmp_path / "codes", CodeLayout.grid(2, 3, size))
    assert export(sink, tmp_path / "out", "webdataset") == 0
    found = read(tmp_path / "out")
    assert found[0]["codes.npy"].dtype == np.dtype(kinds.CODEBOOKS[size])
    assert found[0]["codes.npy"][0, 0] == size - 1
    assert [each["codes.npy"].flatten().tolist() for each in found] == [
        row["codes"] for row in rows_of(sink)
    ]


def test_webdataset_json_holds_columns_of_any_type(tmp_path):
    sink = kinds.make_sink_of_many_kinds(tmp_path / "codes")
    assert export(sink, tmp_path / "out", "webdataset") == 0
    kinds.check_many_kinds([each["json"] for each in read(tmp_path / "out")])


def test_webdataset_null_label_and_caption_have_no_member(tmp_path):
    sink = make_sink(tmp_path / "codes", {"a": 4}, change=_without_one)
    assert export(sink, tmp_path / "out", "webdataset") == 0
    found = read(tmp_path / "out")
    assert [("cls" in each, "txt" in each) for each in found] == [
        (True, True),
        (False, False),
        (True, True),
    ]


def _without_one(rows):
    exports.describe(rows)
    rows[2] |= {"kept.label": None, "kept.txt": None}


@some_kills
def test_webdataset_killed_at_any_storage_call_ends_with_the_same_bytes(tmp_path, step):
    check_kills(make_sink(tmp_path / "codes"), tmp_path, "webdataset", step=step)


def test_webdataset_of_processes_has_the_same_bytes_as_of_one(tmp_path):
    sink = make_sink(tmp_path / "codes", views=2)
    assert export(sink, tmp_path / "one", "webdataset") == 0
    assert export(sink, tmp_path / "two", "webdataset", workers=2) == 0
    assert exports.files_of(tmp_path / "one") == exports.files_of(tmp_path / "two")


def test_webdataset_line_that_says_how_to_read_it_reads_it(tmp_path, capsys):
    sink = make_sink(tmp_path / "codes")
    capsys.readouterr()
    assert export(sink, tmp_path / "out", "webdataset", "--json") == 0
    line = json.loads(capsys.readouterr().out)["read_with"]
    with left_to_the_collector():
        warnings.simplefilter("ignore")  # of the order of shards
        found = eval(line, {"webdataset": webdataset, "glob": glob})
        keys = sorted(each["json"]["key"] for each in found)
        del found
    assert keys == sorted(row["key"] for row in rows_of(sink))
