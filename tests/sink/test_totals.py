import json
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from tests.sink.runs import encoded_rows, flips_of, query, start, tar_shard, visible
from tests.storage.intercept import Amid
from vqpipe import storage
from vqpipe.errors import IncompleteError, StorageError
from vqpipe.sink.commit import commit_rows
from vqpipe.sink.footer import pack_histogram
from vqpipe.sink.growth import Growth
from vqpipe.sink.objects import pack_object
from vqpipe.sink.plan import Plan
from vqpipe.sink.slot import Attempt
from vqpipe.sink.start import start_run
from vqpipe.sink.success import mark_success, write_summary
from vqpipe.sink.sums import Totals
from vqpipe.sink.totals import read_totals

NAMES = ("a", "a/b", "c")
ROWS = (5, 1, 7)
REJECTED = {0: (1, 2), 1: (), 2: (6,)}


def finished(sink, count=3):
    """Returns the writer of a run that has committed its first shards."""
    writer = start(sink, names=NAMES)
    for index in range(count):
        commit_rows(encoded_rows(writer, index, ROWS[index], rejected=REJECTED[index]), writer)
    return writer


def totals_of(writer):
    return read_totals(writer.sink)


def test_read_totals_equal_a_count_by_duckdb(tmp_path):
    found = totals_of(finished(tmp_path))
    assert found.shards == 3
    assert found.good == query(tmp_path, "data", "count(*)")[0][0] == 10
    assert found.rejected == query(tmp_path, "rejected", "count(*)")[0][0] == 3
    assert found.seen == 13
    assert found.reasons == {"corrupt": 3}
    assert found.counted.asides("rejected")["name"].to_pylist() == ["a", "c"]
    sizes = [path.stat().st_size for path in (tmp_path / "data").rglob("*.parquet")]
    assert found.data_bytes == sum(sizes)
    assert found.bytes_per_image == sum(sizes) / 10
    counts = Counter(code for (code,) in query(tmp_path, "data", "unnest(codes)"))
    assert found.histogram.tolist() == [counts[code] for code in range(16)]
    flips = [flips_of(row) for (row,) in query(tmp_path, "data", "row")]
    audited = [count for count in flips if count is not None]
    assert (found.audited, found.flips) == (len(audited), sum(audited))
    assert found.flip_rate == round(sum(audited) / (len(audited) * 6), 6) > 0  # 2 x 3 codes each


def test_read_totals_of_a_fresh_sink_are_zero(tmp_path):
    found = totals_of(start(tmp_path))
    assert (found.shards, found.seen, found.data_bytes) == (0, 0, 0)
    assert (found.bytes_per_image, found.codebook_usage, found.flip_rate) == (0.0, 0.0, None)
    assert json.dumps(found.to_dict())


def test_read_totals_other_files_in_data_are_left_alone(tmp_path):
    writer = finished(tmp_path)
    (tmp_path / "data" / "notes.txt").write_text("mine")
    (tmp_path / "data" / ".hidden.parquet").write_text("being written")
    assert totals_of(writer).shards == 3


@pytest.mark.parametrize("uses", [[1] * 16, [5, 5, 0, 0], [7], [0, 3], [1, 2, 3, 10], [2**32 - 1]])
def test_totals_usage_and_perplexity_follow_their_formulas(uses):
    histogram = np.zeros(16, np.int64)
    histogram[: len(uses)] = uses
    share = [use / sum(uses) for use in uses if use]
    perplexity = np.prod([p**-p for p in share])
    found = Totals(histogram)
    assert found.codebook_usage == len(share) / 16
    assert found.perplexity == pytest.approx(perplexity, rel=1e-12)
    assert 1 <= found.perplexity <= 16 * (1 + 1e-12)


def damage_footer(data):
    size = int.from_bytes(data[-8:-4], "little")
    return data[: -8 - size] + b"\xff" * size + data[-8:]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda _: b"", id="empty"),
        pytest.param(lambda _: b"PAR1", id="tiny"),
        pytest.param(lambda _: b"<html>" * 1000, id="html"),
        pytest.param(lambda data: data[:-20], id="truncated"),
        pytest.param(damage_footer, id="footer"),
        pytest.param(lambda data: data[:-8] + b"\xff\xff\xff\xff" + data[-4:], id="footer_size"),
    ],
)
def test_read_totals_damaged_object_is_storage_error_that_names_it(tmp_path, damage):
    writer = finished(tmp_path)
    path = tmp_path / "data" / "a" / "b.parquet"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(StorageError, match=r"data/a/b\.parquet"):
        totals_of(writer)


@pytest.mark.parametrize(
    "metadata",
    [{}, {"vqpipe": "{}"}, {"vqpipe": "no json", "vqpipe.histogram": "x"},
     {"vqpipe": "{}", "vqpipe.histogram": "AAAA"},
     {"vqpipe": "{}", "vqpipe.histogram": pack_histogram(np.ones(16))}],
)  # fmt: skip
def test_read_totals_foreign_parquet_is_storage_error_that_names_it(tmp_path, metadata):
    writer = finished(tmp_path)
    data = pack_object(pa.table({"a": [b"x"]}), metadata)
    (tmp_path / "data" / "foreign.parquet").write_bytes(data)
    with pytest.raises(StorageError, match=r"data/foreign\.parquet"):
        totals_of(writer)


@pytest.mark.parametrize("folder", ["rejected", "data"])
def test_read_totals_object_under_another_name_is_storage_error(tmp_path, folder):
    writer = finished(tmp_path, count=1)
    shutil.copy(tmp_path / folder / "a.parquet", tmp_path / "data" / "c.parquet")
    with pytest.raises(StorageError, match=r"data/c\.parquet"):
        totals_of(writer)


def test_read_totals_object_of_another_run_is_storage_error(tmp_path):
    ours = finished(tmp_path / "ours", count=2)
    other = start(tmp_path / "other", names=NAMES, model="other")
    commit_rows(encoded_rows(other, 2, 3), other)
    shutil.copy(tmp_path / "other" / "data" / "c.parquet", tmp_path / "ours" / "data")
    with pytest.raises(StorageError, match=r"data/c\.parquet"):
        totals_of(ours)


def test_mark_success_finished_run_writes_the_totals(tmp_path):
    writer = finished(tmp_path)
    found = totals_of(writer)
    mark_success(writer.sink, found)
    document = json.loads((tmp_path / "_SUCCESS").read_bytes())
    assert document == found.to_dict() | {"plan_sha256": writer.sink.plan.sha256()}
    assert (document["samples"], document["rejected_by_reason"]) == (13, {"corrupt": 3})
    before = (tmp_path / "_SUCCESS").read_bytes()
    mark_success(writer.sink, totals_of(writer))
    assert (tmp_path / "_SUCCESS").read_bytes() == before


@pytest.mark.parametrize("count", [0, 1, 2])
def test_mark_success_with_shards_left_is_incomplete(tmp_path, count):
    writer = finished(tmp_path, count)
    commit_rows(encoded_rows(writer, 2, 7, range(3)), writer)
    with pytest.raises(IncompleteError):
        mark_success(writer.sink, totals_of(writer))
    assert not (tmp_path / "_SUCCESS").exists()
    assert len(visible(tmp_path, "staging")) == 1


def test_mark_success_makes_rejected_say_what_data_says(tmp_path):
    writer = finished(tmp_path)
    before = query(tmp_path, "rejected", "*")
    (tmp_path / "rejected" / "c.parquet").unlink()
    shutil.copy(tmp_path / "rejected" / "a.parquet", tmp_path / "rejected" / "stale.parquet")
    other = start(tmp_path / "other", names=NAMES)
    commit_rows(encoded_rows(other, 0, ROWS[0], rejected=(0, 3)), other)
    shutil.copy(tmp_path / "other" / "rejected" / "a.parquet", tmp_path / "rejected" / "a.parquet")
    shutil.rmtree(tmp_path / "other")
    assert query(tmp_path, "rejected", "*") != before
    mark_success(writer.sink, totals_of(writer))
    assert query(tmp_path, "rejected", "*") == before
    assert not (tmp_path / "rejected" / "stale.parquet").exists()


def test_mark_success_late_ranges_are_swept(tmp_path):
    writer = finished(tmp_path)
    for index in range(3):
        commit_rows(encoded_rows(writer, index, 9, range(3)), writer)
    assert len(visible(tmp_path, "staging")) == 3
    (tmp_path / "staging" / "notes.txt").write_text("mine")
    mark_success(writer.sink, totals_of(writer))
    assert visible(tmp_path, "staging") == ["notes.txt"]


@pytest.mark.parametrize("verb", ["list_files", "delete"])
def test_mark_success_failing_sweep_leaves_no_success(tmp_path, monkeypatch, verb):
    writer = finished(tmp_path)
    commit_rows(encoded_rows(writer, 0, 9, range(3)), writer)
    found = totals_of(writer)

    def refuse(uri):
        raise StorageError(uri)

    monkeypatch.setattr(storage, verb, refuse)
    with pytest.raises(StorageError):
        mark_success(writer.sink, found)
    assert not (tmp_path / "_SUCCESS").exists()


def revised(writer):
    """Tries the rejected samples of the first shard again; they are good now."""
    again = replace(writer, attempt=Attempt("r1", {0: 1}, 5, "13"))
    commit_rows(encoded_rows(again, 0, ROWS[0], numbers=REJECTED[0]), again)


def grown(writer):
    """Takes a new shard in."""
    shards = [tar_shard(name) for name in (*NAMES, "new")]
    start_run(writer.sink.uri, writer.sink.run, Plan.of(shards), Growth(extend=True))


@pytest.mark.parametrize("change", [revised, grown])
@pytest.mark.parametrize("verb", ["stat", "publish"])
def test_mark_success_of_a_sum_that_is_outdated_just_then_is_withdrawn(tmp_path, change, verb):
    writer = finished(tmp_path)
    found = totals_of(writer)
    amid = Amid(verb, f"{writer.sink.uri}/_SUCCESS", lambda: change(writer))
    with amid, pytest.raises(IncompleteError):
        mark_success(writer.sink, found)
    assert not (tmp_path / "_SUCCESS").exists()


def test_mark_success_of_an_older_sum_leaves_the_right_one(tmp_path):
    writer = finished(tmp_path)
    older = totals_of(writer)
    revised(writer)
    right = totals_of(writer)
    mark_success(writer.sink, right)
    before = (tmp_path / "_SUCCESS").read_bytes()
    with pytest.raises(IncompleteError):
        mark_success(writer.sink, older)
    assert (tmp_path / "_SUCCESS").read_bytes() == before

    def other():
        revised(writer)
        mark_success(writer.sink, totals_of(writer))

    writer = finished(tmp_path / "again")
    with Amid("publish", f"{writer.sink.uri}/_SUCCESS", other), pytest.raises(IncompleteError):
        mark_success(writer.sink, totals_of(writer))
    document = json.loads((tmp_path / "again" / "_SUCCESS").read_bytes())
    assert document["objects"] == right.to_dict()["objects"]


def test_totals_say_which_objects_they_count(tmp_path):
    writer, other = finished(tmp_path / "one"), start(tmp_path / "other", names=NAMES)
    for index in (2, 0, 1):
        commit_rows(encoded_rows(other, index, ROWS[index], rejected=REJECTED[index]), other)
    before = totals_of(writer).to_dict()["objects"]
    assert totals_of(other).to_dict()["objects"] == before
    revised(writer)
    assert totals_of(writer).to_dict()["objects"] != before


def test_write_summary_again_replaces_it(tmp_path):
    writer = finished(tmp_path, count=1)
    write_summary(writer.sink, totals_of(writer), {"seconds": 1.5})
    finished(tmp_path)
    write_summary(writer.sink, totals_of(writer), {"seconds": 2.5})
    summary = json.loads((tmp_path / "summary.json").read_bytes())
    assert (summary["shards"], summary["shards_planned"], summary["seconds"]) == (3, 3, 2.5)
    assert summary["samples"] == 13


@pytest.mark.s3
def test_read_totals_and_success_in_a_bucket_work_as_on_disk(bucket, tmp_path):
    remote, local = finished(bucket + "/run"), finished(tmp_path)
    commit_rows(encoded_rows(remote, 0, 9, range(3)), remote)
    found = totals_of(remote)
    mark_success(remote.sink, found)
    assert found.to_dict() == totals_of(local).to_dict()
    said = json.loads(storage.read(f"{remote.sink.uri}/_SUCCESS"))
    assert said == found.to_dict() | {"plan_sha256": remote.sink.plan.sha256()}
    assert storage.list_files(f"{remote.sink.uri}/staging") == []


def psnr_totals(means, images=1):
    found = Totals(np.zeros(16, np.int64))
    columns = {
        "name": [f"{i:03d}" for i in range(len(means))],
        "psnr_images": pa.array([images] * len(means), pa.int32()),
        "psnr_db_sum": pa.array([images * mean for mean in means], pa.float64()),
    }
    found.counted.extend(pa.table(columns))
    return found


def test_low_shards_names_those_far_below_the_others():
    spread = np.random.default_rng(0).normal(25, 1, 100)
    found = psnr_totals([*spread, 12.0, 10.0])
    assert found.low_shards() == ["101", "100"]
    assert found.psnr_db == pytest.approx(np.mean([*spread, 12.0, 10.0]), abs=0.01)


def test_low_shards_that_only_spread_are_not_named():
    assert psnr_totals(np.random.default_rng(0).normal(25, 3, 5000)).low_shards() == []
    assert psnr_totals([25.0] * 100 + [20.0]).low_shards() == []  # less than 6 dB
    assert psnr_totals([25.0] * 6 + [5.0]).low_shards() == []  # too few to tell
    assert psnr_totals([]).psnr_db is None


def test_low_shards_of_equal_ones_are_judged_by_decibels_alone():
    assert psnr_totals([25.0] * 100 + [18.9]).low_shards() == ["100"]
