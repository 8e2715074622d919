"""Which task makes which files, and tables that depend on nothing but the rows in them."""

import io
import itertools
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqpipe.sink.arrangement import Arrangement
from vqpipe.sink.objects import ObjectWriter
from vqpipe.stages.compact import in_batches
from vqpipe.stages.neighbours import file_runs


@dataclass
class _Snapshot:
    """What `file_runs` looks at: rows and bytes of each shard."""

    rows: list
    sizes: list

    @property
    def table(self):
        return {"bytes": pa.array(self.sizes, pa.int64())}

    @property
    def starts(self):
        return np.append(0, np.cumsum(self.rows))


@dataclass
class _Work:
    snapshot: _Snapshot
    arrangement: Arrangement
    todo: tuple


def work_of(shards, per_file, todo=None):
    rows = [count for count, _ in shards]
    arrangement = Arrangement(sum(rows), 1, per_file, None)
    left = tuple(range(len(arrangement)) if todo is None else todo)
    return _Work(_Snapshot(rows, [size for _, size in shards]), arrangement, left)


def bytes_read(work, runs):
    """Returns the bytes of all shards that each run reads, by a plain loop over shards."""
    starts, per_file, total = work.snapshot.starts, work.arrangement.rows_per_file, 0
    for first, last in runs:
        begin, end = first * per_file, min(last * per_file, starts[-1])
        for index, size in enumerate(work.snapshot.sizes):
            if starts[index] < end and starts[index + 1] > begin:
                total += size
    return total


@settings(deadline=None)
@given(
    shards=st.lists(
        st.tuples(st.integers(0, 40), st.integers(1, 10_000)), min_size=1, max_size=30
    ).filter(lambda shards: sum(rows for rows, _ in shards)),
    per_file=st.integers(1, 30),
    cores=st.sampled_from([1, 2, 64]),
    most=st.sampled_from([1, 500, 10**9]),
)
def test_file_runs_have_every_file_once_and_read_no_more_than_twice_what_there_is(
    shards, per_file, cores, most
):
    work = work_of(shards, per_file)
    runs = file_runs(work, cores, most)
    assert [file for run in runs for file in range(*run)] == list(work.todo)
    held = sum(size for rows, size in shards if rows)
    empty = sum(size for rows, size in shards if not rows)
    assert bytes_read(work, runs) <= 2 * (held + empty) + max(size for _, size in shards)


def test_file_runs_leave_out_files_that_are_there():
    work = work_of([(10, 100)] * 10, 5, todo=(0, 1, 4, 5, 6, 19))
    runs = file_runs(work, 1, 10**9)
    assert [file for run in runs for file in range(*run)] == [0, 1, 4, 5, 6, 19]


def test_file_runs_of_many_cores_are_many_and_of_one_large_shard_one():
    many = work_of([(10, 100)] * 64, 5)
    assert len(file_runs(many, 16, 10**9)) >= 32
    one = work_of([(1000, 10**6)], 5)
    assert file_runs(one, 16, 10) == [(0, 200)]


KINDS = {
    "text": pa.array(["a", None, "", "long " * 9, "a"] * 7),
    "lists": pa.array([[1, 2], None, [], [3], [4]] * 7, pa.list_(pa.int16())),
    "fixed": pa.array([[1, 2], None, [3, 4], [5, 6], [7, 8]] * 7, pa.list_(pa.int16(), 2)),
    "struct": pa.array([{"x": 1}, None, {"x": None}, {"x": 4}, {"x": 5}] * 7),
    "whole": pa.array(range(35)),
}


def cut(table, cuts, *, masked):
    """Returns rows in pieces, which lie in memory in another way each time."""
    edges = [0, *sorted(cuts), len(table)]
    for first, last in itertools.pairwise(edges):
        piece = table.slice(first, last - first)
        if masked:  # a copy, with masks that nothing needs, and the rows behind others
            piece = pa.concat_tables([table.slice(1, 3), piece]).combine_chunks().slice(3)
        yield piece


@pytest.mark.parametrize("rows", [1, 4, 16, 35, 100])
@pytest.mark.parametrize("masked", [False, True])
@given(cuts=st.lists(st.integers(0, 35), max_size=6))
@settings(max_examples=20, deadline=None)
def test_in_batches_gives_the_same_bytes_however_rows_come(rows, masked, cuts):
    table = pa.table(KINDS)
    plain = list(in_batches([table], rows))
    found = list(in_batches(cut(table, cuts, masked=masked), rows))
    assert [len(each) for each in found] == [min(rows, 35 - i) for i in range(0, 35, rows)]
    assert pa.concat_tables(found).equals(table)
    for one, other in zip(plain, found, strict=True):
        assert one.nbytes == other.nbytes
    assert packed(plain) == packed(found)


def packed(tables):
    """Returns the object that is made of tables."""
    buffer = io.BytesIO()
    with ObjectWriter(buffer, tables[0].schema) as writer:
        for table in tables:
            writer.write(table)
        writer.finish({})
    return buffer.getvalue()
