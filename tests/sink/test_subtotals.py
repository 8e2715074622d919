import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.sink.runs import encoded_rows, query, start, tar_shard, visible
from tests.storage.intercept import Amid, Crash, Crashing
from vqpipe import storage
from vqpipe.inspection.verify import verify
from vqpipe.sink import subtotals, success, totals
from vqpipe.sink.commit import commit_rows
from vqpipe.sink.coverage import Coverage
from vqpipe.sink.growth import Growth
from vqpipe.sink.plan import Plan
from vqpipe.sink.slot import Attempt
from vqpipe.sink.start import start_run
from vqpipe.sink.totals import PART, add_part, read_totals

NAMES = ("a", "a/b", "c", "d")
ROWS, REJECTED = (5, 1, 7, 4), {0: (1, 2), 1: (), 2: (6,), 3: (0, 1, 2)}


@pytest.fixture
def writer(tmp_path):
    """A run that has committed all of its shards."""
    return finished(start(tmp_path / "sink", names=NAMES))


def finished(writer):
    for index, count in enumerate(ROWS):
        rows = encoded_rows(writer, index, count, rejected=REJECTED[index], left_out=())
        commit_rows(rows, writer)
    return writer


def footers_of(writer):
    """Returns the totals of footers alone."""
    listed = storage.list_files(f"{writer.sink.uri}/data")
    return read_totals(writer.sink, listed).to_dict()


def read(writer, monkeypatch):
    """Returns the totals, and the shards whose footers were read for them by who adds up all."""
    seen, real = [], totals.read_footer

    def note(file):
        seen.append(file.uri.partition("/data/")[2].removesuffix(".parquet"))
        return real(file)

    with monkeypatch.context() as patch:
        patch.setattr(totals, "read_footer", note)
        return read_totals(writer.sink), sorted(seen)


def revised(writer, index=0):
    """Tries the rejected samples of a shard again; they are good now."""
    again = replace(writer, attempt=Attempt("r1", {index: 1}, 5, "13"))
    commit_rows(encoded_rows(again, index, ROWS[index], numbers=REJECTED[index]), again)


def parts(writer):
    return visible(writer.sink.uri, "totals")


def test_totals_with_parts_are_those_of_all_footers(writer, monkeypatch):
    before = footers_of(writer)
    add_part(writer.sink, [0, 2])
    add_part(writer.sink, [3])
    found, looked = read(writer, monkeypatch)
    assert found.to_dict() == before
    assert len(looked) == 3  # the one that no part has, and one of each part
    assert "a/b" in looked
    assert found.rejected == query(writer.sink.uri, "rejected", "count(*)")[0][0]
    examples = [(row["shard"], row["row"]) for row in found.examples["corrupt"]]
    assert examples == [("a", 1), ("a", 2), ("c", 6), ("d", 0), ("d", 1)]


def test_totals_with_parts_that_overlap_count_nothing_twice(writer, monkeypatch):
    before = footers_of(writer)
    for places in ([0, 1], [1, 2], [0, 1, 2, 3], [0, 1]):
        add_part(writer.sink, places)
    assert read(writer, monkeypatch)[0].to_dict() == before


def test_part_with_an_object_that_was_replaced_is_not_taken(writer, monkeypatch):
    add_part(writer.sink, [0, 1, 2, 3])
    revised(writer)
    found, looked = read(writer, monkeypatch)
    assert found.to_dict() == footers_of(writer)
    assert found.reasons == {"corrupt": 4}
    assert set(looked) == set(NAMES)


def test_part_of_an_object_that_is_gone_is_not_taken(writer):
    add_part(writer.sink, [0, 1, 2, 3])
    storage.delete(f"{writer.sink.uri}/data/c.parquet")
    found = read_totals(writer.sink)
    assert (found.shards, found.to_dict()) == (3, footers_of(writer))


@pytest.mark.parametrize("verb", ["read_tail", "stat"])
def test_add_part_of_an_object_that_is_replaced_meanwhile_leaves_it_out(writer, verb):
    uri = f"{writer.sink.uri}/data/a.parquet"
    with Amid(verb, uri, lambda: revised(writer)):
        add_part(writer.sink, [0, 1, 2, 3])
    assert read_totals(writer.sink).to_dict() == footers_of(writer)


def test_part_of_shards_that_are_planned_anew_is_not_taken(writer):
    add_part(writer.sink, [0, 1, 2, 3])
    changed = [tar_shard(name, version="2" if name == "c" else "1") for name in NAMES]
    sink = start_run(
        writer.sink.uri, writer.sink.run, Plan.of(changed), Growth(replace_changed=True)
    )
    assert read_totals(sink).shards == 3
    assert read_totals(sink).good == footers_of(writer)["encoded"] - 6


def test_parts_still_hold_when_shards_are_added_to_the_plan(writer, monkeypatch):
    add_part(writer.sink, [0, 1, 2, 3])
    more = [tar_shard(name) for name in ("0", *NAMES, "b")]
    sink = start_run(writer.sink.uri, writer.sink.run, Plan.of(more), Growth(extend=True))
    found, looked = read(replace(writer, sink=sink), monkeypatch)
    assert (found.to_dict(), len(looked)) == (footers_of(writer), 1)


def damage(data):
    return data[:100] + bytes([data[100] ^ 1]) + data[101:]


@pytest.mark.parametrize("data", [b"", b"PAR1", damage])
def test_part_that_is_damaged_is_not_taken(writer, monkeypatch, data):
    add_part(writer.sink, [0, 1, 2, 3])
    (name,) = parts(writer)
    uri = f"{writer.sink.uri}/totals/{name}"
    storage.replace(uri, data(storage.read(uri)) if callable(data) else data)
    found, looked = read(writer, monkeypatch)
    assert (found.to_dict(), set(looked)) == (footers_of(writer), set(NAMES))


def test_part_of_another_run_is_not_taken(writer, tmp_path, monkeypatch):
    other = finished(start(tmp_path / "other", names=NAMES, model="other"))
    add_part(other.sink, [0, 1, 2, 3])
    (name,) = parts(other)
    data = storage.read(f"{other.sink.uri}/totals/{name}")
    storage.replace(f"{writer.sink.uri}/totals/{name}", data)
    found, looked = read(writer, monkeypatch)
    assert (found.to_dict(), set(looked)) == (footers_of(writer), set(NAMES))


def test_part_that_does_not_say_what_its_footers_say_is_not_taken(writer, monkeypatch):
    false = totals.begin_totals(writer.sink.run)
    add_part(writer.sink, range(4))
    (name,) = parts(writer)
    part = subtotals.read_part(
        storage.stat(f"{writer.sink.uri}/totals/{name}"), writer.sink.run.fingerprint, 16
    )
    table = part.counted.table
    digests = pa.array([b"x" * 32] * len(table), pa.binary(32))
    place = table.column_names.index("digest")
    false.merge(part)
    false.good += 1
    false.counted = type(false.counted)()
    false.counted.extend(table.set_column(place, "digest", digests))
    storage.delete(f"{writer.sink.uri}/totals/{name}")
    subtotals.publish_part(writer.sink, false)
    found, looked = read(writer, monkeypatch)
    assert (found.to_dict(), set(looked)) == (footers_of(writer), set(NAMES))


@pytest.mark.parametrize("after", [False, True])
def test_add_part_that_dies_at_any_call_changes_no_sum(writer, after):
    before, number, is_through = footers_of(writer), 0, False
    while not is_through:
        number += 1
        try:
            with Crashing(number, after=after):
                add_part(writer.sink, [0, 1, 2, 3])
            is_through = True
        except Crash:
            pass
        assert read_totals(writer.sink).to_dict() == before
    assert number > 8


def test_mark_success_says_the_same_and_removes_parts_that_do_not_hold(writer):
    add_part(writer.sink, [0, 1])
    revised(writer)
    add_part(writer.sink, [0, 1, 2, 3])
    success.mark_success(writer.sink, read_totals(writer.sink))
    assert len(parts(writer)) == 1
    assert read_totals(writer.sink).to_dict() == footers_of(writer)
    document = json.loads(storage.read(f"{writer.sink.uri}/_SUCCESS"))
    assert document == footers_of(writer) | {"plan_sha256": writer.sink.plan.sha256()}
    assert list(verify(writer.sink, is_complete=True)) == []


def test_mark_success_with_parts_makes_rejected_say_what_data_says(writer):
    before = query(writer.sink.uri, "rejected", "*")
    add_part(writer.sink, [0, 1, 2, 3])
    found = read_totals(writer.sink)
    assert pc.sum(found.counted.asides("rejected")["rejected_size"]).as_py() > 0
    uri = f"{writer.sink.uri}/rejected"
    storage.replace(f"{uri}/stale.parquet", storage.read(f"{uri}/a.parquet"))
    storage.replace(f"{uri}/a.parquet", storage.read(f"{uri}/c.parquet"))
    storage.delete(f"{uri}/c.parquet")
    success.mark_success(writer.sink, found)
    assert query(writer.sink.uri, "rejected", "*") == before
    assert visible(writer.sink.uri, "rejected") == ["a.parquet", "c.parquet", "d.parquet"]


def test_sums_merged_are_those_of_all_at_once_in_any_order(writer):
    files = storage.list_files(f"{writer.sink.uri}/data")
    whole, merged = read_totals(writer.sink, files), totals.begin_totals(writer.sink.run)
    for some in (files[2:], files[:1], files[1:2]):
        merged.merge(read_totals(writer.sink, some))
    assert merged.to_dict() == whole.to_dict()
    assert merged.examples == whole.examples
    assert np.array_equal(merged.histogram, whole.histogram)


def test_coverage_deals_out_every_finished_shard_once():
    coverage = Coverage(4 * PART, range(PART, 4 * PART), [])
    taken = [coverage.take()]
    assert coverage.take() == []
    for place in [*range(PART, 4 * PART - 1), PART, PART + 1]:  # two receipts of one commit
        coverage.commit(place)
        taken.append(coverage.take())
    taken += [coverage.take(), coverage.take(at_end=True), coverage.take(at_end=True)]
    assert sorted(place for places in taken for place in places) == list(range(4 * PART - 1))
    assert max(map(len, taken)) == PART


def test_coverage_adds_up_anew_what_a_void_part_has():
    added = [np.arange(PART), np.arange(PART, 2 * PART)]
    kept = Coverage(2 * PART, [], added)
    assert kept.take(at_end=True) == []
    void = Coverage(2 * PART, [7], added)
    assert void.take(at_end=True) == [place for place in range(PART) if place != 7]
    void.commit(7)
    assert void.take(at_end=True) == []  # one is left to who adds up all


def test_coverage_of_a_part_of_a_run_leaves_the_shards_of_others_alone():
    part = Coverage(4 * PART, range(0, 2 * PART, 2), [np.arange(PART)], earlier=False)
    assert part.take() == []
    for place in range(0, 2 * PART, 2):
        part.commit(place)
    assert part.take() == list(range(0, 2 * PART, 2))


def test_coverage_leaves_few_objects_to_who_adds_up_all():
    few = Coverage(100, range(50), [])
    assert few.take(at_end=True) == []


@pytest.mark.s3
def test_parts_in_a_bucket_hold_as_on_disk(bucket, monkeypatch):
    writer = finished(start(bucket + "/run", names=NAMES))
    before = footers_of(writer)
    add_part(writer.sink, [0, 1, 2, 3])
    found, looked = read(writer, monkeypatch)
    assert (found.to_dict(), len(looked)) == (before, 1)
    revised(writer)
    success.mark_success(writer.sink, read_totals(writer.sink))
    document = json.loads(storage.read(f"{writer.sink.uri}/_SUCCESS"))
    assert document == footers_of(writer) | {"plan_sha256": writer.sink.plan.sha256()}
    assert storage.list_files(f"{writer.sink.uri}/totals") == []
