"""Samples that a run leaves out: counted, listed, verified, and no rejections."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from tests.sink.runs import (
    check_committed,
    encoded_rows,
    query,
    read_data,
    start,
    visible,
)
from vqpipe.inspection.verify import verify
from vqpipe.sink import success, todo
from vqpipe.sink.asides import as_asides, left_out_of, rejected_of
from vqpipe.sink.commit import commit_rows
from vqpipe.sink.objects import read_object
from vqpipe.sink.totals import read_totals

TOTAL, REJECTED, LEFT_OUT = 8, (1, 6), (0, 3, 7)


@pytest.fixture
def writer(tmp_path):
    writer = start(tmp_path)
    rows = encoded_rows(writer, 0, TOTAL, rejected=REJECTED, left_out=LEFT_OUT)
    (receipt,) = commit_rows(rows, writer).to_pylist()
    assert (receipt["good"], receipt["rejected"], receipt["left_out"]) == (3, 2, 3)
    assert (receipt["reasons"], receipt["rejected_images"]) == (["corrupt"] * 2, 2)
    return writer


def complete(writer):
    found = read_totals(writer.sink)
    success.mark_success(writer.sink, found)
    return found


def breaches(writer):
    return [each.check for each in verify(writer.sink, is_complete=True)]


def test_left_out_samples_are_accounted_for_by_themselves(writer):
    check_committed(writer, [TOTAL], REJECTED, LEFT_OUT)
    found = complete(writer)
    assert (found.good, found.rejected, found.left_out, found.seen) == (3, 2, 3, TOTAL)
    assert (found.images, found.rejected_images) == (5, 2)  # what a limit of rejections counts
    said = found.to_dict()
    assert (said["left_out"], said["left_out_by"]) == (3, {"width >= 150": 3})
    assert found.examples.keys() == said["rejected_by_reason"].keys() == {"corrupt"}
    assert breaches(writer) == []


def test_footer_of_a_shard_without_them_has_no_word_of_them(tmp_path):
    writer = start(tmp_path)
    commit_rows(encoded_rows(writer, 0, TOTAL, rejected=REJECTED), writer)
    _, footer = read_data(writer)
    assert not [name for name in json.loads(footer[b"vqpipe"]) if name.startswith("left_out")]
    assert "left_out" not in complete(writer).to_dict()
    assert visible(tmp_path, "left_out") == []


def test_retried_are_rejected_samples_alone(writer):
    (staged,) = todo.retriable(writer.sink, {}).values()
    assert [row for row in range(TOTAL) if not staged.holds(row)] == list(REJECTED)


def test_shard_of_which_samples_are_left_out_alone_has_nothing_to_retry(tmp_path):
    writer = start(tmp_path)
    commit_rows(encoded_rows(writer, 0, TOTAL, left_out=LEFT_OUT), writer)
    assert todo.retriable(writer.sink, {}) == {}
    check_committed(writer, [TOTAL], (), LEFT_OUT)
    assert visible(tmp_path, "rejected") == []


def test_left_out_area_is_made_to_say_what_data_says(writer):
    path = Path(writer.sink.uri, "left_out", "a.parquet")
    for change in (path.unlink, lambda: path.write_bytes(b"damaged")):
        change()
        complete(writer)
        check_committed(writer, [TOTAL], REJECTED, LEFT_OUT)


def test_verify_finds_what_left_out_says_otherwise(writer):
    complete(writer)
    path = Path(writer.sink.uri, "left_out", "a.parquet")
    whole, other = path.read_bytes(), Path(writer.sink.uri, "rejected", "a.parquet").read_bytes()
    path.unlink()
    assert breaches(writer) == ["left_out"]
    path.write_bytes(whole[:-30] + bytes(30))
    assert breaches(writer) == ["readable"]
    path.write_bytes(other)
    assert set(breaches(writer)) <= {"left_out", "readable"} != set()
    path.write_bytes(whole)
    Path(writer.sink.uri, "left_out", "b.parquet").write_bytes(whole)
    assert breaches(writer) == ["foreign"]


def test_asides_of_an_object_are_one_kind_or_the_other(writer):
    asides = read_object(f"{writer.sink.uri}/data/a.parquet").asides
    rejected, left_out = rejected_of(asides), left_out_of(asides)
    assert rejected["row"].to_pylist() == list(REJECTED)
    assert left_out["row"].to_pylist() == list(LEFT_OUT)
    both = pa.concat_tables([rejected, as_asides(left_out)]).sort_by("row")
    assert both.equals(asides)
    assert query(writer.sink.uri, "left_out", "count(*), count(DISTINCT why)") == [(3, 1)]
