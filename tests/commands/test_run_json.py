"""What commands freeze in a sink, held against what version 0.1.0 did of the same sources."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import shell
from tests.makers import jpeg, tar_of
from tests.sink.runs import encoded_rows
from vqpipe.commands import decode, encode, evaluate
from vqpipe.commands.stage_jobs import Decode, Encode, Evaluate
from vqpipe.inspection.reencode import preprocess_of
from vqpipe.sink.commit import commit_rows
from vqpipe.sink.run import load_run, open_sink

DOCUMENTS = Path(__file__).parent.parent / "sink" / "documents"
ELSEWHERE = {"source", "model", "model_options", "networks"}
"""Fields that say where something was."""
THEN = {"created", "versions", "fingerprint", "plan_sha256", "codes", "picked", "doctor"}
"""Fields that are other ones at another time or place, or of another CPU."""


PLUGINS = {"pillow-heif", "pillow-jxl-plugin"}
"""Packages whose versions are there where they are installed."""


def check(name, sink):
    """Checks that a sink's `run.json` has the fields of a document in its order, and their values.

    Of places and moments, only that they are there.
    """
    expected = json.loads((DOCUMENTS / f"{name}.json").read_bytes())
    found = json.loads(Path(sink, "run.json").read_bytes())
    for mine, theirs in ((found, expected), (found["identity"], expected["identity"])):
        assert list(mine) == list(theirs)
        for field in theirs.keys() - ELSEWHERE - THEN - {"identity"}:
            assert json.dumps(mine[field]) == json.dumps(theirs[field]), field
        for field in theirs.keys() & (ELSEWHERE | THEN):
            assert type(mine[field]) is type(theirs[field]), field
            if isinstance(theirs[field], dict):
                named = [name for name in mine[field] if name not in PLUGINS]
                assert named == list(theirs[field]), field


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    members = {f"{i}.jpg": jpeg(seed=i) for i in range(3)}
    texts = {f"{i}.txt": b"x" for i in range(3)}
    (folder / "a.tar").write_bytes(tar_of(members | texts))
    return folder


@pytest.fixture
def codes(photos, tmp_path):
    """A sink of codes of three photos."""
    sink = str(tmp_path / "codes")
    how = {"model": str(shell.CHECKPOINT), "resolution": 64, "keep": ("txt",)}
    prepared = encode._prepare(Encode(source=str(photos), sink=sink, **how))
    writer = prepared.work.writer
    names = writer.product.rows.names
    rows = [
        {name: row[name] for name in names if name in row} | {"kept.txt": "x"}
        for row in encoded_rows(writer, 0, 3).to_pylist()
    ]
    commit_rows(pa.Table.from_pylist(rows, schema=writer.product.rows), writer)
    return sink


def test_encode_freezes_the_same_as_before(codes):
    check("encode", codes)


def test_encode_of_other_choices_freezes_the_same_as_before(tmp_path):
    columns = {"id": ["a", "b"], "caption": ["x", "y"], "photo": [jpeg(), jpeg(seed=1)]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    job = Encode(
        source=str(tmp_path / "t.parquet"),
        sink=str(tmp_path / "sink"),
        model=str(shell.CHECKPOINT),
        resolution=64,
        keep=("caption",),
        key="id",
        dtype="bfloat16",
        pixel_range="signed",
        background=(0, 1, 2),
        max_pixels=12345,
        resample="lanczos",
    )
    encode._prepare(job)
    check("encode-table", job.sink)


def test_encode_with_draft_freezes_it_and_images_are_opened_alike_ever_after(photos, tmp_path):
    identities, opens = [], []
    for draft in (False, True):
        job = Encode(
            source=str(photos),
            sink=str(tmp_path / f"sink-{draft}"),
            model=str(shell.CHECKPOINT),
            resolution=64,
            draft=draft,
        )
        opens.append(encode._prepare(job).work.opens)
        identities.append(json.loads(Path(job.sink, "run.json").read_bytes())["identity"])
        assert preprocess_of(open_sink(job.sink, load_run(job.sink)), []) == opens[-1]
    assert opens[1] == replace(opens[0], draft=True)
    names = list(identities[0])
    names.insert(names.index("max_pixels") + 1, "draft")
    assert list(identities[1]) == names
    assert identities[1] == {**identities[0], "draft": True}


def test_decode_freezes_the_same_as_before(codes, tmp_path):
    decode._prepare(Decode(source=codes, sink=str(tmp_path / "images"), layout="folder"))
    check("decode", tmp_path / "images")


def test_decode_of_another_tools_codes_freezes_the_same_as_before(tmp_path):
    source, sink = tmp_path / "codes.parquet", str(tmp_path / "images")
    pq.write_table(pa.table({"id": ["a", "b"], "codes": [[0] * 64, [1] * 64]}), source)
    how = {"format": "png", "layout": "parquet", "grid": (8, 8), "key": "id", "keep": ("id",)}
    job = Decode(source=str(source), sink=sink, model=str(shell.CHECKPOINT), eager=True, **how)
    decode._prepare(job)
    check("decode-table", sink)


def test_evaluate_freezes_the_same_as_before(codes):
    job = Evaluate(source=codes, samples=2)
    prepared = evaluate._prepare(job, open_sink(codes, load_run(codes)))
    check("evaluate", prepared.work.writer.sink.uri)
