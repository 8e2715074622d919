"""Sinks of decoded images, damaged on purpose; made by the commit alone."""

import contextlib
import datetime
import hashlib
import io
import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.sink import damage
from tests.sink.runs import facts_of_kept, make_run, no_rows, tar_shard
from tests.storage.intercept import Crash, Crashing, intercept
from vqpipe.commands import cli
from vqpipe.images import ImageFormat, compress
from vqpipe.inspection.verify import verify
from vqpipe.sink import success, todo, totals
from vqpipe.sink.commit import commit_rows
from vqpipe.sink.growth import Growth
from vqpipe.sink.layout import data_uri
from vqpipe.sink.plan import Plan
from vqpipe.sink.start import start_run
from vqpipe.sink.writer import Writer
from vqpipe.stages.decode import ImagesProduct
from vqpipe.stages.tars import texts_of

SIZE = (6, 8)
SHARDS = ("a", "deep/b")
KEPT = pa.schema([pa.field("txt", pa.string())])


def image(shard, row, size=SIZE, kind="png"):
    rng = np.random.default_rng((shard, row))
    return compress(rng.integers(0, 256, (*size, 3), np.uint8), ImageFormat(kind))


def asked(plan, layout):
    facts = facts_of_kept(KEPT) | {"size": SIZE}
    return make_run("decode", plan.sha256(), facts=facts, layout=layout)


def decoded(sink, layout, count=4):
    """Returns the writer of a complete sink of two shards, whose last row is rejected."""
    plan = Plan.of(tar_shard(name) for name in SHARDS)
    opened = start_run(str(sink), asked(plan, layout), plan, Growth())
    product = ImagesProduct(KEPT, ImageFormat("png"), layout, SIZE)
    writer = Writer(opened, product)
    for shard in range(len(SHARDS)):
        commit_rows(rows_of(shard, count, product.rows), writer)
    success.mark_success(opened, totals.read_totals(opened))
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
    breaches = verify(writer.sink, is_complete=True)
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


def said(sink, shard):
    """Returns what the footer of a shard's object says."""
    path = Path(sink, "data", f"{shard}.parquet")
    return json.loads(pq.read_metadata(path).metadata[b"vqpipe"])


def place(sink, shard):
    """Returns where the images of a shard lie."""
    return Path(sink, said(sink, shard)["place"])


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


def zero(path):
    path.write_bytes(bytes(path.stat().st_size))


def exchange(path):
    """Has another image of the same size in a file's place."""
    other = path.parent / "1.png"
    data = path.read_bytes()
    other_data = other.read_bytes()
    assert len(data) == len(other_data)
    path.write_bytes(other_data)
    other.write_bytes(data)


@pytest.mark.parametrize("damage", [remove, cut, flip, grow, zero])
def test_verify_finds_a_tar_that_is_not_as_it_was_written(tmp_path, damage):
    writer = decoded(tmp_path, "webdataset")
    damage(place(tmp_path, "deep/b"))
    assert found(writer) == {("images", "b")}


@pytest.mark.parametrize("damage", [remove, grow, zero, exchange])
def test_verify_finds_a_file_that_is_missing_or_another_one(tmp_path, damage):
    writer = decoded(tmp_path, "folder")
    damage(place(tmp_path, "deep/b") / "k" / "2.png")
    assert found(writer) == {("images", "b")}


def test_verify_finds_a_file_that_nothing_lists(tmp_path):
    writer = decoded(tmp_path, "folder")
    (place(tmp_path, "a") / "more.png").write_bytes(image(0, 0))
    assert found(writer) == {("images", "a")}


@pytest.mark.parametrize("layout", ["webdataset", "folder"])
@pytest.mark.parametrize("name", ["c.0123456789abcdef", "x", "a", "a.0123456789ABCDEF"])
def test_verify_finds_images_of_no_shard(tmp_path, layout, name):
    writer = decoded(tmp_path, layout)
    lie(tmp_path, layout, name)
    assert {check for check, _ in found(writer)} == {"foreign"}


def lie(sink, layout, name):
    """Puts something beside the images."""
    path = Path(sink, "images", f"{name}.tar" if layout == "webdataset" else f"{name}/x.png")
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(b"x")


def finish(writer):
    read = totals.read_totals(writer.sink)
    success.mark_success(writer.sink, read)


@pytest.mark.parametrize("layout", ["webdataset", "folder"])
def test_finish_sweeps_what_a_writer_left_that_died_and_nothing_else(tmp_path, layout):
    writer = decoded(tmp_path, layout)
    deep = "deep/b" if layout == "webdataset" else "deep%2Fb"
    for left in ("a.0123456789abcdef", f"{deep}.0123456789abcdef"):
        lie(tmp_path, layout, left)
    assert {check for check, _ in found(writer)} == {"foreign"}
    finish(writer)
    assert found(writer) == set()
    decoded(tmp_path / "other", layout)
    assert images_of(tmp_path) == images_of(tmp_path / "other")


@pytest.mark.parametrize("layout", ["webdataset", "folder"])
def test_finish_leaves_images_of_a_later_generation_to_whoever_makes_them(tmp_path, layout):
    writer = decoded(tmp_path, layout)
    lie(tmp_path, layout, "a.1-0123456789abcdef")
    finish(writer)
    assert {check for check, _ in found(writer)} == {"foreign"}


@pytest.mark.parametrize("layout", ["webdataset", "folder"])
def test_verify_finds_a_footer_that_miscounts_bytes(tmp_path, layout):
    writer = decoded(tmp_path, layout)
    rewrite(writer, lambda table: table, image_bytes=7)
    assert found(writer) == {("images", "a"), ("totals", "_SUCCESS")}


def rewrite(writer, change, **said):
    """Writes the object of shard a again, changed, its footer the same but for what is said."""
    path = data_uri(writer.sink.uri, "a")
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
    Path(data_uri(writer.sink.uri, "a")).unlink()
    product = writer.product
    fewer = rows_of(0, 4, product.rows).to_pylist()
    fewer[1] |= {"image": None, "reason": "non_finite", "message": "NaN"}
    commit_rows(pa.Table.from_pylist(fewer, schema=product.rows), writer)
    (tmp_path / "_SUCCESS").unlink()
    read = totals.read_totals(writer.sink)
    success.mark_success(writer.sink, read)
    assert found(writer) == set()
    kept = pq.read_table(data_uri(writer.sink.uri, "a"))["key"].to_pylist()
    assert kept == ["k/0", "k/2", "k/3"]
    if layout == "folder":
        files = sorted(path.name for path in (place(tmp_path, "a") / "k").iterdir())
        assert files == ["0.png", "2.png", "3.png"]


def live(sink, layout):
    """One command that decodes a shard of six rows, the last one rejected, in three pieces."""
    plan = Plan.of([tar_shard("a")])
    opened = start_run(str(sink), asked(plan, layout), plan, Growth())
    product = ImagesProduct(KEPT, ImageFormat("png"), layout, SIZE)
    writer = Writer(opened, product)
    rows = rows_of(0, 5, product.rows)
    for staged in todo.unfinished(opened).values():
        for first, last in ((0, 2), (2, 3), (3, 6)):
            numbers = [row for row in range(first, last) if not staged.holds(row)]
            commit_rows(rows.take(numbers) if numbers else no_rows(writer, 0, None), writer)
        if staged.complete:
            commit_rows(no_rows(writer, 0, staged.total), writer)
    success.mark_success(opened, totals.read_totals(opened))
    return writer


@pytest.mark.fault(7)
@pytest.mark.parametrize(
    ("layout", "after"),
    [
        pytest.param("webdataset", False, marks=pytest.mark.soak),  # as in tests/faults
        *((layout, True) for layout in LAYOUTS),
    ],
)
def test_commit_of_images_that_dies_at_any_call_is_completed_by_a_rerun(tmp_path, layout, after):
    with Crashing(None, after=after) as counted:
        expected = live(tmp_path / "whole", layout)
    assert counted.count > 15
    for number in range(counted.count):
        sink = tmp_path / str(number)
        with contextlib.suppress(Crash), Crashing(number, after=after):
            live(sink, layout)
        if (sink / "data" / "a.parquet").exists():  # then its images are there too
            assert not list(verify(replace(expected.sink, uri=str(sink)), is_complete=False))
        writer = live(sink, layout)
        assert found(writer) == set()
        assert not (sink / "staging").exists() or not any((sink / "staging").rglob("*.parquet"))
        assert images_of(sink) == images_of(tmp_path / "whole")


def images_of(sink):
    files = (path for path in sink.glob("images/**/*") if path.is_file())
    return {str(path.relative_to(sink)): path.read_bytes() for path in files}


def with_other_pixels(rows):
    """Returns rows of a shard as another device makes them."""
    listed = rows.to_pylist()
    for row in listed:
        if row["image"] is not None:
            row["image"] = image(9, row["row"])
    return pa.Table.from_pylist(listed, schema=rows.schema)


@pytest.mark.parametrize("layout", ["webdataset", "folder"])
@pytest.mark.parametrize("dies", [False, True])
def test_commit_of_a_writer_that_comes_second_leaves_the_images_of_the_first(
    tmp_path, layout, dies
):
    """Both looked before either had published; on other devices pixels may differ."""
    expected = decoded(tmp_path / "expected", layout)
    writer = decoded(tmp_path / "sink", layout)
    Path(data_uri(writer.sink.uri, "a")).unlink()
    for path in Path(writer.sink.uri, "images").glob("a.*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    ours, state = rows_of(0, 4, writer.product.rows), {"is_first": True}

    def call(real, uri, *arguments, **options):
        if "/images/" in str(uri) and state.pop("is_first", False):
            commit_rows(ours, writer)  # another command, from its beginning to its end
        elif str(uri).endswith("data/a.parquet") and real.__name__ == "publish" and dies:
            if "has_come" in state:
                raise Crash
            state["has_come"] = True
        return real(uri, *arguments, **options)

    with contextlib.suppress(Crash), intercept(call):
        commit_rows(with_other_pixels(ours), writer)
    finish(writer)
    assert found(writer) == set()
    assert images_of(Path(writer.sink.uri)) == images_of(Path(expected.sink.uri))


@pytest.mark.parametrize("layout", ["webdataset", "folder"])
def test_commit_of_a_changed_shard_has_new_images_beside_the_old_until_they_are_listed(
    tmp_path, layout
):
    writer = decoded(tmp_path, layout)
    before = images_of(tmp_path)
    changed = Plan.of([tar_shard("a", version="2"), tar_shard("deep/b")])
    growth = Growth(replace_changed=True)
    again = replace(writer, sink=start_run(writer.sink.uri, writer.sink.run, changed, growth))
    rows = with_other_pixels(rows_of(0, 4, writer.product.rows))

    def call(real, uri, *arguments, **options):
        if real.__name__ == "replace_if" and "/data/" in uri.uri:
            assert before.items() < images_of(tmp_path).items()
        return real(uri, *arguments, **options)

    with intercept(call):
        commit_rows(rows, again)
    finish(again)
    assert found(again) == set()
    left = images_of(tmp_path)
    assert {path for path in left if path in before} == {p for p in before if "deep" in p}


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
        ({"c" * 40: "x"}, {"c" * 40: "x"}),
        ({"c" * 41: "x", "n": 1}, {"json": '{"' + "c" * 41 + '": "x", "n": 1}'}),
        ({"ü" * 14: "x"}, {"json": '{"' + "ü" * 14 + '": "x"}'}),  # %C3%BC, each of them
    ],
)
def test_texts_of_a_tar_have_names_of_their_own(row, members):
    (found,) = texts_of(pa.table({name: [value] for name, value in row.items()}), "png")
    assert dict(found) == members
    assert len(found) == len(members)


def test_tar_of_a_shard_is_the_same_for_the_same_rows(tmp_path):
    digests = set()
    for name in ("one", "two"):
        decoded(tmp_path / name, "webdataset")
        data = place(tmp_path / name, "a").read_bytes()
        digests.add(hashlib.sha256(data).hexdigest())
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            names = tar.getnames()
        assert names[:2] == ["k/0.png", "k/0.txt"]
    assert len(digests) == 1
    assert said(tmp_path / "one", "a")["tar"]["sha256"] in digests
    assert Image.open(io.BytesIO(image(0, 0))).size == (8, 6)
