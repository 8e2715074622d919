"""Sinks to export, exports in this process, and what they leave, wherever it is stored."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.sink import sinks
from tests.storage.intercept import Crash, Crashing
from vqpipe import storage
from vqpipe.commands import cli
from vqpipe.sink import layout
from vqpipe.sink.run import find_run
from vqpipe.storage.listing import _list

KEPT = pa.schema(
    [
        pa.field("label", pa.int64()),
        pa.field("txt", pa.string()),
        pa.field("score", pa.float32()),
    ]
)
COUNTS = {"a": 4, "b/c": 0, "b/d": 1, "e": 3}
"""Samples of each shard that are seen; the second of one is rejected where there is one."""


def label_of(key):
    return sum(key.encode()) % 10


def caption_of(key):
    return f'"{key}", ä 🐈\nline 2'


def describe(rows):
    for row in rows:
        if row["reason"] is None:
            key = row["key"]
            row |= {"kept.label": label_of(key), "kept.txt": caption_of(key), "kept.score": 0.5}


def make_sink(uri, counts=COUNTS, views=1, change=describe, *, is_complete=True, **how):
    """Makes a complete sink of codes, anywhere; returns its URI."""
    writer = sinks.begin(uri, tuple(counts), **({"kept": KEPT, "count": views} | how))
    for index, name in enumerate(writer.sink.plan.names):
        rejected = [1] if counts[name] > 1 else [0] if not counts[name] else []
        sinks.commit(writer, index, max(counts[name], 1), rejected=rejected, change=change)
    sinks.end(writer, is_complete=is_complete)
    return uri


def export(sink, out, to, *options, workers=1):
    """Exports a sink in this process; returns the exit code."""
    words = ["export", sink, out, "--to", to, "--workers", workers, *options]
    return cli.main(list(map(str, words)))


def rows_of(sink):
    """Returns all rows of a sink as pyarrow reads them, shard by shard in order of name."""
    objects = layout.list_committed(str(sink))
    names = sorted(objects)
    tables = [pq.read_table(io.BytesIO(storage.read(objects[name].uri))) for name in names]
    return [row for table in tables for row in table.to_pylist()]


def files_of(out):
    """Returns the bytes of all files of an export that has ended, by name; no others are there."""
    found = _list(str(out), recursive=True)
    assert not found.hidden
    assert not storage.list_files(f"{out}/.export")
    return {file.uri[len(str(out)) + 1 :]: storage.read(file.uri) for file in found.files}


def success_of(out):
    return json.loads(storage.read(f"{out}/_SUCCESS"))


def check_totals(sink, out, views=1):
    """Checks that totals are what the sink and the files have."""
    said, rows = success_of(out), rows_of(sink)
    made = files_of(out)
    own = {"_SUCCESS", "export.json"}
    assert said["rows"] == len(rows) == said["samples"] * views
    assert said["shards"] == len(layout.list_committed(str(sink)))
    assert said["files"] == len(made.keys() - own)
    assert said["bytes"] == sum(len(data) for name, data in made.items() if name not in own)
    assert find_run(str(sink)).fingerprint == json.loads(made["export.json"])["fingerprint"]


some_kills = pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.soak), 3])
"""After how many storage calls `check_kills` kills again."""


def check_kills(sink, tmp_path, to, *options, step=1):
    """Checks that an export that dies at any storage call ends as one that does not, once rerun."""
    whole = tmp_path / "whole"
    assert export(sink, whole, to, *options) == 0
    truth = files_of(whole)
    number = 0
    while True:
        out = tmp_path / f"killed-{number}"
        crash = Crashing(number, after=bool(number % 2))
        try:
            with crash:
                assert export(sink, out, to, *options) == 0
        except Crash:
            pass
        assert export(sink, out, to, *options) == 0
        assert files_of(out) == truth, f"died at call {number}"
        if not crash.died:
            break
        number += step
    assert number > 20
