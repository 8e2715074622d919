"""When writers look whether a shard is complete, and which ranges they read then."""

import itertools
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.sink.runs import check_committed, encoded_rows, no_rows, rows_left, start, visible
from tests.storage.intercept import Crash, Crashing, Standing
from vqpipe import storage
from vqpipe.sink import layout, objects, staging
from vqpipe.sink.commit import commit_rows
from vqpipe.sink.slot import Attempt


class Asked(Standing):
    """Keeps which storage calls were made, and how many objects were listed."""

    def __init__(self):
        self.calls, self.listed = [], 0

    def _call(self, real, *args, **options):
        self.calls.append(real.__name__)
        found = real(*args, **options)
        self.listed += len(found) if real.__name__ == "list_files" else 0
        return found


def blocks(writer, total, rows, numbers=None):
    numbers = list(range(total) if numbers is None else numbers)
    for first in range(0, len(numbers), rows):
        yield encoded_rows(writer, 0, total, numbers[first : first + rows])


@pytest.mark.parametrize("order", ["as_read", "backwards", "shuffled"])
def test_shard_in_many_blocks_is_listed_no_more_often_than_after_its_last_row(tmp_path, order):
    count = 40
    writer = start(tmp_path)
    tables = list(blocks(writer, 2 * count, 2))
    places = {
        "as_read": range(count),
        "backwards": range(count)[::-1],
        "shuffled": np.random.default_rng(0).permutation(count),
    }[order]
    with Asked() as asked:
        for place in places:
            commit_rows(tables[place], writer)
    after = count - list(places).index(count - 1)
    assert asked.calls.count("list_files") == after
    assert asked.listed <= after * (count + 1)
    check_committed(writer, [2 * count])
    assert visible(tmp_path, "staging") == []


@pytest.mark.parametrize("dying", ["before", "after"])
@pytest.mark.parametrize("order", list(itertools.permutations([(0, 2), (2, 5), (5, 8)])))
def test_writer_of_the_last_row_that_dies_at_any_call_leaves_the_shard_to_be_merged(
    tmp_path, order, dying
):
    for number in itertools.count():
        writer = start(tmp_path / str(number))
        for rows in order:
            with Crashing(number if rows[1] == 8 else 99, after=dying == "after") as calls:
                try:
                    commit_rows(encoded_rows(writer, 0, 8, range(*rows)), writer)
                except Crash:
                    continue
            died = calls.died
        left = rows_left(writer, 0, 8)
        if left is not None:
            assert not left["row"].to_pylist()[:1] or not visible(writer.sink.uri, "data")
            commit_rows(left, writer)
        check_committed(writer, [8])
        if not died and calls.count <= number and number > 6:
            break


def test_row_that_has_staging_looked_at_merges_without_the_empty_range(tmp_path):
    writer = start(tmp_path)
    for table in blocks(writer, 8, 4):
        staging.stage(writer.slot(0), table, None)
    for path in (tmp_path / "staging" / "a").glob("00000000-00000000*"):
        path.unlink()
    commit_rows(no_rows(writer, 0, 8), writer)
    check_committed(writer, [8])


@pytest.mark.parametrize("seed", range(20))
def test_read_ranges_of_any_overlap_yield_each_row_once_and_read_few(tmp_path, seed):
    rng, total = np.random.default_rng(seed), 30
    writer = start(tmp_path)
    cuts = [0, *sorted(rng.choice(range(1, total), 4, replace=False).tolist()), total]
    more = [sorted(rng.choice(total + 1, 2, replace=False).tolist()) for _ in range(6)]
    for first, last in rng.permutation([*itertools.pairwise(cuts), *more]).tolist():
        staging.stage(writer.slot(0), encoded_rows(writer, 0, total, range(first, last)), None)
    found = staging.list_ranges(writer.slot(0), None)
    assert found.staged.complete
    with Asked() as asked:
        tables = list(staging.read_ranges(writer.slot(0), found, None))
    assert np.concatenate([t["row"].to_numpy() for t in tables]).tolist() == list(range(total))
    assert asked.calls.count("read") <= 5


def test_retried_rows_with_good_ones_between_are_one_range(tmp_path):
    total, bad = 60, range(1, 60, 2)
    writer = start(tmp_path)
    commit_rows(encoded_rows(writer, 0, total, rejected=bad), writer)
    again = replace(writer, attempt=Attempt("r1", {0: 1}, 5, "13"))
    first, second, third = blocks(writer, total, 10, bad)
    with Asked() as asked:
        for table in (third, first):
            commit_rows(table, again)
        assert len(visible(tmp_path, "staging/a")) == 3  # and the empty one
        commit_rows(second, again)
    assert asked.calls.count("list_files") == 3  # all came after the last row
    check_committed(writer, [total])
    assert visible(tmp_path, "staging") == []


def test_merge_of_many_ranges_makes_few_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(objects, "SPOOL_BYTES", 1000)
    monkeypatch.setattr("vqpipe.sink.assembly.SPOOL_BYTES", 1000)  # so that files take part
    writer = start(tmp_path)
    for table in blocks(writer, 200, 5):
        commit_rows(table, writer)
    check_committed(writer, [200])
    assert pq.read_metadata(tmp_path / "data" / "a.parquet").num_row_groups == 1


@pytest.mark.s3
def test_merge_into_a_bucket_from_a_file_is_one_request(bucket, monkeypatch):
    monkeypatch.setattr("vqpipe.sink.assembly.SPOOL_BYTES", 1000)
    writer = start(bucket + "/run")
    for table in blocks(writer, 200, 50):
        commit_rows(table, writer)
    uri = layout.data_uri(writer.sink.uri, "a")
    found = objects.read_object(uri)
    assert found.table["row"].to_pylist() == list(range(200))
    assert "-" not in storage.stat(uri).version  # S3's ETag of what came in parts has one
