"""Totals by few requests, held against totals by all of them, and against DuckDB."""

import json
import shutil
from collections import Counter

import pytest

from tests.sink import sinks
from tests.sink.runs import encoded_rows, query, tar_shard
from vqpipe import storage
from vqpipe.errors import StorageError
from vqpipe.inspection import survey
from vqpipe.inspection.survey import (
    add_up,
    count,
    count_rejections,
    expect_samples,
    find_pace,
    look,
    refine,
)
from vqpipe.picks import pick_names
from vqpipe.sink import layout, totals
from vqpipe.sink.commit import commit_rows
from vqpipe.sink.growth import Growth
from vqpipe.sink.plan import Plan
from vqpipe.sink.start import start_run

MANY = [f"train/{index:03d}" for index in range(40)]


def half_done(sink, rows=8, rejected=(3,)):
    """Returns the survey of a run of 40 shards of which every second one is committed."""
    writer = sinks.begin(sink, MANY)
    for index in range(0, 40, 2):
        sinks.commit(writer, index, rows, rejected)
    return look(writer.sink.uri, writer.sink.run)


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """The survey of such a run; the sink stays as it is."""
    return half_done(tmp_path_factory.mktemp("half"))


def test_pick_names_larger_pick_holds_the_smaller_whatever_the_order():
    small, large = pick_names(MANY, 5), pick_names(reversed(MANY), 20)
    assert len(small) == 5
    assert set(small) < set(large) < set(MANY)
    assert small == sorted(small)
    assert pick_names(MANY, 1000) == MANY
    assert small != MANY[:5]


def test_look_unfinished_run_says_what_is_there(tmp_path):
    half_done(tmp_path)
    writer = sinks.begin(tmp_path, MANY)
    commit_rows(encoded_rows(writer, 1, 8, range(3)), writer)
    shutil.copy(tmp_path / "data/train/000.parquet", tmp_path / "data/mine.parquet")
    found = look(writer.sink.uri, writer.sink.run)
    assert sorted(found.objects) == MANY[::2]
    assert found.begun == 1
    assert found.foreign == (f"{tmp_path}/data/mine.parquet",)
    assert not found.is_complete


def test_count_unfinished_run_is_what_duckdb_counts(half):
    found = count(half)
    assert found.origin == "footers"
    assert found.footers_read == 20
    assert found.totals["encoded"] == query(half.sink.uri, "data", "count(*)")[0][0] == 140
    assert found.totals["rejected"] == query(half.sink.uri, "rejected", "count(*)")[0][0] == 20


def test_count_of_a_share_scales_up_and_says_so(half):
    found, exact = count(half, most=4), count(half)
    assert (found.origin, found.footers_read, found.is_estimate) == ("some footers", 4, True)
    same = ("shards", "samples", "encoded", "rejected", "rejected_by_reason", "data_bytes")
    assert {name: found.totals[name] for name in same} == {  # shards of one size: no error
        name: exact.totals[name] for name in same
    }


def test_count_of_a_share_of_unequal_shards_is_close(tmp_path):
    writer = sinks.begin(tmp_path, MANY)
    for index in range(40):
        sinks.commit(writer, index, 10 + index % 5)
    found = count(look(writer.sink.uri, writer.sink.run), most=20).totals
    assert found["samples"] == pytest.approx(query(tmp_path, "data", "count(*)")[0][0], rel=0.1)


def test_count_of_a_share_reads_no_other_footer(tmp_path):
    writer = sinks.begin(tmp_path, MANY)
    sinks.fill(writer, done=30, real=5)
    seen = look(writer.sink.uri, writer.sink.run)
    assert count(seen, most=5).totals["samples"] == 30 * 8
    with pytest.raises(StorageError):  # the other objects have the footer of one shard
        count(seen, most=30)


def test_count_complete_run_opens_no_object(tmp_path):
    writer = sinks.begin(tmp_path, MANY)
    for index in range(40):
        sinks.commit(writer, index, 8, rejected=(1,))
    sinks.end(writer)
    expected = totals.read_totals(writer.sink).to_dict()
    for path in (tmp_path / "data").rglob("*.parquet"):
        path.write_bytes(b"nobody looks")
    found = count(look(writer.sink.uri, writer.sink.run))
    assert (found.origin, found.footers_read) == ("_SUCCESS", 0)
    assert found.totals == expected


def test_look_success_of_another_plan_is_not_believed(tmp_path):
    writer = sinks.begin(tmp_path, ["a"])
    sinks.commit(writer, 0, 4)
    sinks.end(writer)
    said = json.loads((tmp_path / "_SUCCESS").read_bytes())
    (tmp_path / "_SUCCESS").write_text(json.dumps(said | {"plan_sha256": "0" * 64}))
    assert not look(writer.sink.uri, writer.sink.run).is_complete
    (tmp_path / "_SUCCESS").write_text("no json")
    assert not look(writer.sink.uri, writer.sink.run).is_complete


def with_outdated(sink):
    """Returns a run of eight shards, all committed, four of which have changed since."""
    names = MANY[:8]
    writer = sinks.begin(sink, names)
    for index in range(8):
        sinks.commit(writer, index, 6)
    listed = Plan.of(tar_shard(name, version=str(1 + i % 2)) for i, name in enumerate(names))
    sink = start_run(writer.sink.uri, writer.sink.run, listed, Growth(replace_changed=True))
    return look(sink.uri, sink.run)


@pytest.mark.parametrize("most", [8, 4])
def test_count_objects_of_earlier_versions_are_not_done(tmp_path, most):
    found = count(with_outdated(tmp_path), most)
    assert found.is_estimate == (most == 4)
    assert found.totals["shards"] == 4
    assert found.totals["samples"] == 24


def test_count_rejections_reads_only_shards_that_have_any(tmp_path):
    writer = sinks.begin(tmp_path, MANY)
    for index in range(40):
        sinks.commit(writer, index, 6, rejected=(0, 5) if index in (7, 9) else ())
    found = count_rejections(look(writer.sink.uri, writer.sink.run))
    assert found.footers_read == 2
    assert found.by_reason == {"corrupt": query(tmp_path, "rejected", "count(*)")[0][0]}
    rows = query(tmp_path, "rejected", "key, row")
    assert [(each["key"], each["row"]) for each in found.examples["corrupt"]] == rows
    assert not found.is_estimate


def test_count_rejections_of_a_share_scales_up(half):
    found = count_rejections(half, most=5)
    assert (found.by_reason, found.footers_read, found.is_estimate) == ({"corrupt": 20}, 5, True)
    assert len(found.examples["corrupt"]) == 5


def test_refine_estimate_takes_the_rejections_that_were_all_read(tmp_path):
    writer = sinks.begin(tmp_path, MANY)
    rare = next(index for index in range(40) if MANY[index] not in pick_names(MANY, 4))
    for index in range(40):
        sinks.commit(writer, index, 6, rejected=(2,) if index == rare else ())
    seen = look(writer.sink.uri, writer.sink.run)
    estimate = count(seen, most=4)
    assert estimate.totals["rejected"] == 0
    better = refine(estimate, count_rejections(seen)).totals
    assert (better["rejected"], better["rejected_by_reason"]) == (1, {"corrupt": 1})
    assert better["samples"] == better["encoded"] + 1


def test_add_up_all_counts_codes_as_duckdb_does(half):
    found = add_up(half, None)
    counts = Counter(code for (code,) in query(half.sink.uri, "data", "unnest(codes)"))
    assert found.is_whole
    assert found.totals.histogram.tolist() == [counts[code] for code in range(16)]


def test_expect_samples_follows_the_bytes_of_the_plan(tmp_path):
    writer = sinks.begin(tmp_path, ["a", "b"])
    sinks.commit(writer, 0, 6)
    listed = Plan.of([tar_shard("a", size=100), tar_shard("b", size=300)])
    storage.replace(layout.plan_uri(writer.sink.uri), listed.to_bytes())
    assert expect_samples(look(writer.sink.uri, writer.sink.run), 6) == 6 * 400 / 100
    fresh = sinks.begin(tmp_path / "fresh", ["a"])
    assert expect_samples(look(fresh.sink.uri, fresh.sink.run), 0) is None


def test_find_pace_says_what_is_left_at_the_last_rate(tmp_path):
    seen = half_done(tmp_path)
    assert find_pace(seen, count(seen)) is None
    writer = sinks.begin(tmp_path, MANY)
    sinks.end(writer, is_complete=False)
    found = find_pace(seen, count(seen))
    assert (found["images_per_second"], found["devices"]) == (4.0, ["NVIDIA H200"])
    assert (found["images_left"], found["seconds_left"]) == (160, 40)


def test_find_pace_complete_run_has_nothing_left(tmp_path):
    writer = sinks.begin(tmp_path, ["a"])
    sinks.commit(writer, 0, 4)
    sinks.end(writer, sinks.LAST | {"images_per_second": 0.0, "images_this_run": 0})
    seen = look(writer.sink.uri, writer.sink.run)
    found = find_pace(seen, count(seen))
    assert (found["images_per_second"], found["seconds_left"]) == (0.0, None)


@pytest.mark.s3
def test_look_and_count_in_a_bucket_work_as_on_disk(bucket, half):
    remote, local = half_done(f"{bucket}/sink"), half
    assert sorted(remote.objects) == sorted(local.objects)
    assert count(remote, 4).totals == count(local, 4).totals
    assert count_rejections(remote) == count_rejections(local)
    assert survey.find_json(f"{bucket}/sink/none.json") is None
