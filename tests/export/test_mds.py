"""Files of MDS as mosaicml-streaming reads and writes them, against the rows of the sink."""

import json

import numpy as np
import pytest

from tests.export import exports, kinds
from tests.export.exports import check_kills, check_totals, export, make_sink, rows_of, some_kills
from tests.export.mds_library import streaming
from vqpipe.code_layout import CodeLayout


def read(folder):
    """Returns all samples in order."""
    index = json.loads((folder / "index.json").read_text())
    assert index["version"] == 2
    with streaming() as (reader, _):
        shards = [reader.from_json(str(folder), "", each) for each in index["shards"]]
        for shard in shards:
            shard.validate(allow_unsafe_types=False)
        found = [shard[number] for shard in shards for number in range(len(shard))]
        files = [folder / each["raw_data"]["basename"] for each in index["shards"]]
        assert [file.stat().st_size for file in files] == [each.raw_data.bytes for each in shards]
    return found


NAMED = ["--label", "label", "--caption", "txt"]


@pytest.mark.parametrize("views", [1, 3])
def test_mds_reads_codes_labels_captions_and_facts(base, tmp_path, views):
    sink = make_sink(f"{base}/codes", views=views)
    assert export(sink, f"{base}/out", "mds", *NAMED) == 0
    check_totals(sink, f"{base}/out", views)
    rows = rows_of(sink)
    for found, row in zip(read(kinds.local(f"{base}/out", tmp_path)), rows, strict=True):
        assert (found["key"], found["view"]) == (row["key"], row["view"])
        assert (found["label"], found["caption"]) == (row["label"], row["txt"])
        assert found["codes"].dtype == np.uint8
        assert found["codes"].tolist() == np.reshape(row["codes"], (2, 3)).tolist()
        rest = {name: row[name] for name in row if name not in {"codes", "label", "txt"}}
        assert found["json"] == rest


@pytest.mark.parametrize("limit", [1 << 26, 1500])
@pytest.mark.parametrize("layout", [CodeLayout.grid(4, 30, 70_000), kinds.GRIDS, kinds.STACKED])
def test_mds_files_are_those_of_the_librarys_own_writer(tmp_path, monkeypatch, layout, limit):
    monkeypatch.setattr("vqpipe.export.mds_file.SIZE_LIMIT", limit)
    sink = kinds.make_sink(tmp_path / "codes", layout, (("a", 9),))
    assert export(sink, tmp_path / "out", "mds", *NAMED) == 0
    shape = "" if layout.differs else ":" + ",".join(map(str, layout.shape))
    kind = np.dtype(f"u{1 if layout.codebook_size < 257 else 2 if layout is kinds.STACKED else 4}")
    columns = {"key": "str", "view": "int", "codes": f"ndarray:{kind.name}{shape}"}
    columns |= {"json": "json", "label": "int", "caption": "str"}
    with streaming() as (_, library):
        truth = tmp_path / "truth"
        with library(out=str(truth), columns=columns, size_limit=limit) as writer:
            for row in rows_of(sink):
                codes = np.array(row["codes"], kind).reshape(kinds.shape_of(layout, row))
                rest = {name: row[name] for name in row if name not in {"codes", "label", "txt"}}
                named = {"label": row["label"], "caption": row["txt"]}
                sample = {"key": row["key"], "view": row["view"], "codes": codes, "json": rest}
                writer.write(sample | named)
    files = sorted(truth.glob("*.mds"))
    assert len(files) > (1 if limit == 1500 else 0)
    for file in files:
        assert (tmp_path / "out" / "00000000" / file.name).read_bytes() == file.read_bytes()
    said = (truth / "index.json").read_text().replace('"shard.', '"00000000/shard.')
    assert (tmp_path / "out" / "index.json").read_text() == said


@pytest.mark.parametrize("name", kinds.LAYOUTS)
def test_mds_arrays_have_the_shape_of_the_layout(tmp_path, name):
    layout = kinds.LAYOUTS[name]
    sink = kinds.make_sink(tmp_path / "codes", layout)
    assert export(sink, tmp_path / "out", "mds") == 0
    for found, row in zip(read(tmp_path / "out"), rows_of(sink), strict=True):
        assert found["codes"].shape == kinds.shape_of(layout, row)
        assert found["codes"].flatten().tolist() == row["codes"]


def test_mds_arrays_of_grids_with_long_sides_have_their_shape(tmp_path):
    layout = CodeLayout("grids", ((1, 300), (300, 1), (255, 1), (256, 2)), (4,))
    sink = kinds.make_sink(tmp_path / "codes", layout)
    assert export(sink, tmp_path / "out", "mds") == 0
    found = [each["codes"] for each in read(tmp_path / "out")]
    for codes, row in zip(found, rows_of(sink), strict=True):
        assert codes.shape == kinds.shape_of(layout, row)
        assert codes.flatten().tolist() == row["codes"]


@pytest.mark.parametrize("size", kinds.CODEBOOKS)
def test_mds_codes_are_of_the_type_that_the_sink_has(tmp_path, size):
    sink = kinds.make_sink(tmp_path / "codes", CodeLayout.grid(2, 3, size))
    assert export(sink, tmp_path / "out", "mds") == 0
    found = read(tmp_path / "out")
    assert found[0]["codes"].dtype == np.dtype(kinds.CODEBOOKS[size])
    assert found[0]["codes"][0, 0] == size - 1
    assert [each["codes"].flatten().tolist() for each in found] == [
        row["codes"] for row in rows_of(sink)
    ]


def test_mds_keeps_odd_keys_and_columns_of_any_type(tmp_path):
    sink = make_sink(tmp_path / "odd", {"a": len(kinds.ODD_KEYS)}, 2, kinds.with_odd_keys)
    assert export(sink, tmp_path / "keys", "mds") == 0
    assert [each["key"] for each in read(tmp_path / "keys")] == [
        row["key"] for row in rows_of(sink)
    ]
    sink = kinds.make_sink_of_many_kinds(tmp_path / "codes")
    assert export(sink, tmp_path / "out", "mds") == 0
    kinds.check_many_kinds([each["json"] for each in read(tmp_path / "out")])


def test_mds_named_column_with_a_null_is_refused_and_the_image_named(tmp_path, capsys):
    sink = make_sink(tmp_path / "codes", {"a": 3}, change=_without_one)
    assert export(sink, tmp_path / "out", "mds", "--label", "label") == 4
    assert "'a/2' has no label" in capsys.readouterr().err
    assert export(sink, tmp_path / "other", "mds") == 0
    assert read(tmp_path / "other")[1]["json"]["label"] is None


def _without_one(rows):
    exports.describe(rows)
    rows[2]["kept.label"] = None


@some_kills
def test_mds_killed_at_any_storage_call_ends_with_the_same_bytes(tmp_path, step):
    check_kills(make_sink(tmp_path / "codes"), tmp_path, "mds", *NAMED, step=step)


def test_mds_of_processes_has_the_same_bytes_as_of_one(tmp_path):
    sink = make_sink(tmp_path / "codes", views=2)
    assert export(sink, tmp_path / "one", "mds") == 0
    assert export(sink, tmp_path / "two", "mds", workers=2) == 0
    assert exports.files_of(tmp_path / "one") == exports.files_of(tmp_path / "two")
