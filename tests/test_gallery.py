"""Sinks of decoded images, damaged on purpose; made by the commit alone."""

import contextlib
import datetime
import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs import cli
from jobs.kept import facts_of_kept
from pipeline import products, publication, todo, totals
from pipeline.commit import commit_rows
from pipeline.images import ImageFormat, compress
from pipeline.layout import data_uri
from pipeline.plan import Growth, Plan
from pipeline.products import ImagesProduct
from pipeline.run import Run, start_run
from pipeline.verify import verify
from pipeline.writer import Writer
from tests import damage, sinks
from tests.intercept import Crash, Crashing
from tests.runs import no_rows, tar_shard

SIZE = (6, 8)
SHARDS = ("a", "deep/b")
KEPT = pa.schema([pa.field("txt", pa.string())])


def image(shard, row, size=SIZE, kind="png"):
    rng = np.random.default_rng((shard, row))
    return compress(rng.integers(0, 256, (*size, 3), np.uint8), ImageFormat(kind))


def decoded(sink, layout, count=4):
    """Returns the writer of a complete sink of two shards, whose last row is rejected."""
    plan = Plan.of(tar_shard(name) for name in SHARDS)
    identity = {"stage": "decode", **sinks.DECODED, "layout": layout}
    facts = sinks.FACTS | facts_of_kept(KEPT) | {"size": list(SIZE)}
    run, plan = start_run(str(sink), Run(identity, facts, plan.sha256()), plan, Growth())
    product = ImagesProduct(KEPT, ImageFormat("png"), layout, SIZE)
    writer = Writer(str(sink), run, plan, KEPT, product)
    for shard in range(len(SHARDS)):
        commit_rows(rows_of(shard, count, product.rows), writer)
    totals.mark_success(str(sink), plan, totals.read_totals(str(sink), run, plan))
    return writer


def rows_of(shard, count, schema):
    rows = [
        {
            "shard": shard,
            "row": row,
            "key": f"k/{row}",
            "image": image(shard, row),
            "kept.txt": f"text {row}",
        }
        for row in range(count)
    ]
    bad = {"reason": "bad_codes", "message": "none", "total": count + 1, "image": None}
    return pa.Table.from_pylist([*rows, {"shard": shard, "row": count, **bad}], schema=schema)


def found(writer):
    breaches = verify(writer.sink, writer.run, writer.plan, is_complete=True)
    return {(breach.check, Path(breach.where).stem) for breach in breaches}


LAYOUTS = ("webdataset", "folder", "parquet")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_verify_whole_sink_of_images_has_no_breach(tmp_path, layout, capsys):
    writer = decoded(tmp_path, layout)
    assert found(writer) == set()
    assert cli.main(["verify", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "images " in printed
    assert "codebook" not in printed


def test_verify_deep_of_images_says_what_it_is_for(tmp_path, capsys):
    decoded(tmp_path, "folder")
    assert cli.main(["verify", str(tmp_path), "--deep"]) == 4
    assert "--deep encodes again" in capsys.readouterr().err


def remove(path):
    path.unlink()


def cut(path):
    path.write_bytes(path.read_bytes()[:-700])


def flip(path):
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)


def grow(path):
    path.write_bytes(path.read_bytes() + b"x")


@pytest.mark.parametrize("damage", [remove, cut, flip, grow])
def test_verify_finds_a_tar_that_is_not_as_it_was_written(tmp_path, damage):
    writer = decoded(tmp_path, "webdataset")
    damage(tmp_path / "images" / "deep" / "b.tar")
    assert found(writer) == {("images", "b")}


@pytest.mark.parametrize("damage", [remove, grow])
def test_verify_finds_a_file_that_is_missing_or_another_one(tmp_path, damage):
    writer = decoded(tmp_path, "folder")
    damage(tmp_path / "images" / "deep%2Fb" / "k" / "2.png")
    assert found(writer) == {("images", "b")}


def test_verify_finds_a_file_that_nothing_lists(tmp_path):
    writer = decoded(tmp_path, "folder")
    (tmp_path / "images" / "a" / "more.png").write_bytes(image(0, 0))
    assert found(writer) == {("images", "a")}


def test_verify_finds_a_tar_of_no_shard(tmp_path):
    writer = decoded(tmp_path, "webdataset")
    (tmp_path / "images" / "deep" / "c.tar").write_bytes(b"x")
    assert found(writer) == {("foreign", "c")}


@pytest.mark.parametrize("layout", ["webdataset", "folder"])
def test_verify_finds_a_footer_that_miscounts_bytes(tmp_path, layout):
    writer = decoded(tmp_path, layout)
    rewrite(writer, lambda table: table, image_bytes=7)
    assert found(writer) == {("images", "a"), ("totals", "_SUCCESS")}


def rewrite(writer, change, **said):
    """Writes the object of shard a again, changed, its footer the same but for what is said."""
    path = data_uri(writer.sink, "a")
    before = json.loads(pq.read_metadata(path).metadata[b"vqpipe"])
    damage.rewrite(path, change, {"vqpipe": json.dumps(before | said)})


def put(table, name, row, value):
    values = table[name].to_pylist()
    values[row] = value
    at, field = table.schema.get_field_index(name), table.schema.field(name)
    return table.set_column(at, field, pa.array(values, field.type))


@pytest.mark.parametrize(
    ("layout", "change", "check"),
    [
        ("webdataset", lambda table: put(table, "bytes", 1, 5), "images"),
        ("webdataset", lambda table: put(table, "file", 1, "k/9.png"), "images"),
        ("folder", lambda table: put(table, "bytes", 1, 5), "images"),
        ("parquet", lambda table: put(table, "image", 1, image(0, 1, (8, 8))), "images"),
        ("parquet", lambda table: put(table, "image", 1, image(0, 1, kind="jpeg")), "images"),
        ("parquet", lambda table: put(table, "image", 1, b"<html>"), "images"),
        ("parquet", lambda table: put(table, "image", 1, None), "images"),
        ("parquet", lambda table: put(table, "key", 1, "k/0"), "keys"),
        ("folder", lambda table: table.slice(1), "rows"),
    ],
)
def test_verify_finds_a_list_that_is_not_true(tmp_path, layout, change, check):
    writer = decoded(tmp_path, layout)
    rewrite(writer, change)
    assert (check, "a") in found(writer)


@pytest.mark.parametrize("layout", ["webdataset", "folder"])
def test_commit_again_after_a_crash_leaves_only_the_images_it_lists(tmp_path, layout):
    """An attempt that rejected other samples died before it published the shard's object."""
    writer = decoded(tmp_path, layout)
    Path(data_uri(writer.sink, "a")).unlink()
    product = writer.product
    fewer = rows_of(0, 4, product.rows).to_pylist()
    fewer[1] |= {"image": None, "reason": "non_finite", "message": "NaN"}
    commit_rows(pa.Table.from_pylist(fewer, schema=product.rows), writer)
    (tmp_path / "_SUCCESS").unlink()
    read = totals.read_totals(writer.sink, writer.run, writer.plan)
    totals.mark_success(writer.sink, writer.plan, read)
    assert found(writer) == set()
    kept = pq.read_table(data_uri(writer.sink, "a"))["key"].to_pylist()
    assert kept == ["k/0", "k/2", "k/3"]
    if layout == "folder":
        files = sorted(path.name for path in (tmp_path / "images" / "a" / "k").iterdir())
        assert files == ["0.png", "2.png", "3.png"]


def live(sink, layout):
    """One command that decodes a shard of six rows, the last one rejected, in three pieces."""
    plan = Plan.of([tar_shard("a")])
    identity = {"stage": "decode", **sinks.DECODED, "layout": layout}
    facts = sinks.FACTS | facts_of_kept(KEPT) | {"size": list(SIZE)}
    run, plan = start_run(str(sink), Run(identity, facts, plan.sha256()), plan, Growth())
    product = ImagesProduct(KEPT, ImageFormat("png"), layout, SIZE)
    writer = Writer(str(sink), run, plan, KEPT, product)
    rows = rows_of(0, 5, product.rows)
    for staged in todo.unfinished(writer.sink, run, plan).values():
        for first, last in ((0, 2), (2, 3), (3, 6)):
            numbers = [row for row in range(first, last) if not staged.holds(row)]
            commit_rows(rows.take(numbers) if numbers else no_rows(writer, 0, None), writer)
        if staged.complete:
            commit_rows(no_rows(writer, 0, staged.total), writer)
    totals.mark_success(str(sink), plan, totals.read_totals(str(sink), run, plan))
    return writer


@pytest.mark.fault(7)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_commit_of_images_that_dies_at_any_call_is_completed_by_a_rerun(tmp_path, layout, after):
    with Crashing(None, after=after) as counted:
        expected = live(tmp_path / "whole", layout)
    assert counted.count > 15
    for number in range(counted.count):
        sink = tmp_path / str(number)
        with contextlib.suppress(Crash), Crashing(number, after=after):
            live(sink, layout)
        if (sink / "data" / "a.parquet").exists():  # then its images are there too
            assert not list(verify(str(sink), expected.run, expected.plan, is_complete=False))
        writer = live(sink, layout)
        assert found(writer) == set()
        assert not (sink / "staging").exists() or not any((sink / "staging").rglob("*.parquet"))
        assert images_of(sink) == images_of(tmp_path / "whole")


def images_of(sink):
    return {str(p.relative_to(sink)): p.read_bytes() for p in sink.glob("images/**/*.*")}


@pytest.mark.parametrize("layout", ["webdataset", "folder"])
def test_commit_beside_another_writer_of_other_images_leaves_one_of_both_whole(
    tmp_path, layout, monkeypatch
):
    """Both looked before either had published; on other devices pixels may differ."""
    writer = decoded(tmp_path, layout)
    Path(data_uri(writer.sink, "a")).unlink()
    schema, looks = writer.product.rows, iter([False])
    is_there = publication._is_there

    def look(*arguments):
        if next(looks, True):
            return is_there(*arguments)
        commit_rows(rows_of(0, 4, schema), writer)
        return False

    monkeypatch.setattr(publication, "_is_there", look)
    others = rows_of(0, 4, schema).to_pylist()
    for row in others[:4]:
        row["image"] = image(9, row["row"])
    commit_rows(pa.Table.from_pylist(others, schema=schema), writer)
    (tmp_path / "_SUCCESS").unlink()
    read = totals.read_totals(writer.sink, writer.run, writer.plan)
    totals.mark_success(writer.sink, writer.plan, read)
    assert found(writer) == set()


@pytest.mark.parametrize(
    ("row", "members"),
    [
        ({"txt": "a", "n": 1, "none": None}, {"txt": "a", "json": '{"n": 1}'}),
        ({"txt": None, "json": None}, {}),
        ({"json": "{}", "n": 1}, {"json": "{}", "json.json": '{"n": 1}'}),
        ({"png": "not one"}, {"png.txt": "not one"}),
        ({"JSON": "a", "x": float("nan")}, {"JSON": "a", "json.json": '{"x": null}'}),
        ({"b": b"\0\xff", "l": [b"a", None]}, {"json": '{"b": "AP8=", "l": ["YQ==", null]}'}),
        ({"d": datetime.date(2026, 1, 2)}, {"json": '{"d": "2026-01-02"}'}),
        ({"a/b.c": "x"}, {"a%2Fb.c": "x"}),
    ],
)
def test_texts_of_a_tar_have_names_of_their_own(row, members):
    (found,) = products._texts(pa.table({name: [value] for name, value in row.items()}), "png")
    assert dict(found) == members
    assert len(found) == len(members)


def test_tar_of_a_shard_is_the_same_for_the_same_rows(tmp_path):
    digests = set()
    for name in ("one", "two"):
        decoded(tmp_path / name, "webdataset")
        data = (tmp_path / name / "images" / "a.tar").read_bytes()
        digests.add(hashlib.sha256(data).hexdigest())
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            names = tar.getnames()
        assert names[:2] == ["k/0.png", "k/0.txt"]
    assert len(digests) == 1
    said = pq.read_metadata(tmp_path / "one" / "data" / "a.parquet").metadata
    assert json.loads(said[b"vqpipe"])["tar"]["sha256"] in digests
    assert Image.open(io.BytesIO(image(0, 0))).size == (8, 6)
