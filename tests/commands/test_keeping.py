"""Whole commands on metadata of all kinds, and on samples of several images; without Ray."""

import contextlib
import io
import json

import datasets
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import plain
from tests.makers import jpeg, tar_of
from tests.shell import CHECKPOINT, rows

BIG = 2**60 + 1


def run(*commands, expect=0):
    """Runs commands; returns what they printed."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        codes = plain.run(commands)
    assert codes[-1] == expect, said.getvalue()
    return said.getvalue()


def encode(source, sink, *options):
    places = ["--source", source, "--sink", sink, "--model", CHECKPOINT, "--resolution", 32]
    how = ["--pixel-range", "signed", "--skip-doctor", "--max-rejected", 0.9]
    return ["encode", *places, *how, *options]


def kinds(sink, *names):
    files = f"{sink}/data/**/*.parquet"
    found = duckdb.sql(f"describe select {', '.join(names)} from '{files}'").fetchall()
    return {name: kind for name, kind, *_ in found}


def said(sink):
    return json.loads((sink / "run.json").read_text())


def test_members_and_fields_of_tars_stand_in_data_with_their_types(tmp_path):
    source, sink, images = tmp_path / "tars", tmp_path / "codes", tmp_path / "images"
    source.mkdir()
    for name in "ab":
        members = []
        for i in range(2):
            document = {"caption": f"{name}{i}", "width": BIG + i, "exif": {"iso": [1, 2.5]}}
            members += [
                (f"{name}{i}.l.jpg", jpeg(seed=i)),
                (f"{name}{i}.r.jpg", jpeg(seed=i + 5)),
                (f"{name}{i}.cls", str(i).encode()),
                (f"{name}{i}.json", json.dumps(document).encode()),
            ]
        (source / f"{name}.tar").write_bytes(tar_of(members[:-3] if name == "b" else members))
    keep = ["--keep", "cls", "json:caption", "json:width", "json:exif.iso"]
    asked = encode(source, sink, "--image", "l.jpg", "r.jpg", *keep)
    run(
        asked,
        asked,
        ["verify", sink, "--deep", "--share", 1],
        ["diff", sink, sink],
        ["evaluate", "--source", sink],
        ["decode", "--source", sink, "--sink", images],
        ["verify", images],
    )
    assert kinds(sink, "image", "cls", "caption", "json_width", "iso") == {
        "image": "VARCHAR",
        "cls": "BIGINT",
        "caption": "VARCHAR",
        "json_width": "BIGINT",
        "iso": "DOUBLE[]",
    }
    found = rows(sink, columns="key, row, image, cls, caption, json_width, iso")
    whole = [
        {
            "key": f"{name}{i}",
            "row": 2 * i + place,
            "image": image,
            "cls": i,
            "caption": f"{name}{i}",
            "json_width": BIG + i,
            "iso": [1.0, 2.5],
        }
        for name in "ab"
        for i in range(2)
        for place, image in enumerate(("l.jpg", "r.jpg"))
    ]
    nothing = dict.fromkeys(["cls", "caption", "json_width", "iso"])
    assert found == [*whole[:6], {**whole[6], **nothing}]
    (bad,) = rows(sink, "rejected")
    assert (bad["key"], bad["row"], bad["reason"]) == ("b1", 3, "no_image")
    assert "'r.jpg'" in bad["message"]
    assert said(sink)["identity"]["image"] == ["l.jpg", "r.jpg"]
    keys = [row["key"] for row in rows(images)]
    assert keys == [f"{row['key']}/{row['image']}" for row in found]


def test_classes_and_files_about_images_stand_in_data_as_datasets_reads_them(tmp_path):
    source, sink, everything = tmp_path / "photos", tmp_path / "codes", tmp_path / "all"
    for name in ("dog/0", "dog/1", "cat/0", "top"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / f"{name}.jpg").write_bytes(jpeg())
    about = source / "metadata.csv"
    about.write_text("file_name,caption,n\ndog/0.jpg,a dog,1\ncat/0.jpg,a cat,\ngone.jpg,,3\n")
    asked = encode(source, sink, "--label", "folder", "--keep", "caption", "n")
    all_asked = encode(source, everything, "--keep-all")
    printed = run(asked, asked, ["verify", sink, "--deep", "--share", 1], all_asked)
    assert "1 row(s) speak of no image" in printed
    assert "of 2 image(s) no metadata file says anything" in printed
    found = datasets.load_dataset(str(sink), split="train", cache_dir=str(tmp_path / "cache"))
    assert found.features["label"].names == said(sink)["classes"] == ["cat", "dog"]
    assert {row["key"]: (row["label"], row["caption"], row["n"]) for row in found} == {
        "cat/0.jpg": (0, "a cat", None),
        "dog/0.jpg": (1, "a dog", 1),
        "dog/1.jpg": (1, None, None),
        "top.jpg": (None, None, None),
    }
    about.write_text("file_name,caption,n,more\ndog/0.jpg,a new dog,1,1\n")
    (source / "bird").mkdir()
    (source / "bird" / "0.jpg").write_bytes(jpeg())
    growing = ["--extend", "--replace-changed"]
    assert "'bird'" in run([*all_asked, *growing], [*asked, *growing], expect=3)
    assert said(everything)["identity"]["keep"] == ["caption", "n"]
    assert {row["key"]: row["caption"] for row in rows(everything)}["dog/0.jpg"] == "a new dog"


@pytest.mark.parametrize("images", [("pages",), ("cover", "pages")])
def test_lists_of_images_are_rows_of_their_own(tmp_path, images):
    source, sink = tmp_path / "books", tmp_path / "codes"
    source.mkdir()
    pages = [[jpeg(seed=1), jpeg(seed=2)], [], [jpeg(seed=3), None]]
    table = {"cover": [jpeg()] * 3, "pages": pages, "when": pa.array([1, 2, 3], pa.duration("ns"))}
    pq.write_table(pa.table(table), source / "a.parquet")
    asked = encode(source, sink, "--image", *images, "--keep", "when")
    again = [["evaluate", "--source", sink], ["verify", sink, "--deep", "--share", 1]]
    run(asked, *again, asked)
    named = [[*images[:-1], "pages[0]", "pages[1]"], [*images[:-1]], [*images[:-1], "pages[0]"]]
    found = pq.read_table(sink / "data")
    assert found["image"].to_pylist() == [name for each in named for name in each]
    assert found["when"].type == pa.duration("ns")
    bad = rows(sink, "rejected")
    assert [row["message"].partition(":")[0] for row in bad] == [
        "image 'pages'",
        "image 'pages[1]'",
    ]
    assert said(sink)["identity"]["image"] == list(images)


def test_one_image_by_name_is_what_it_always_was(tmp_path):
    """Old job definitions and runs have a text there, and go on."""
    source, sink = tmp_path / "source", tmp_path / "codes"
    source.mkdir()
    pq.write_table(pa.table({"photo": [jpeg()], "image": ["x"]}), source / "a.parquet")
    asked = encode(source, sink, "--image", "photo", "--keep", "image")
    definition = tmp_path / "job.yaml"
    definition.write_text("image: photo\nkeep: [image]\n")
    by_file = [*encode(source, sink), "--job", definition]
    run(asked, encode(source, sink, "--keep", "image"), by_file)
    identity = said(sink)["identity"]
    assert identity["image"] == "photo"
    assert not {"label", "parts"} & identity.keys()
    assert not {"keep_all", "classes"} & said(sink).keys()
