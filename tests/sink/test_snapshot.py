"""Which objects of a sink there are, frozen: made of footers, kept as a file, refused by name."""

import pickle
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from tests.dataset.sinks import begin, fill, make, rows_of
from tests.sink.runs import tar_shard
from vqpipe import storage
from vqpipe.errors import IncompleteError, MismatchError
from vqpipe.sink.growth import Growth
from vqpipe.sink.parts import column_bytes, data_types, read_part
from vqpipe.sink.plan import Plan
from vqpipe.sink.snapshot import keep_snapshot, load_snapshot, take_snapshot
from vqpipe.sink.start import start_run

ROWS = (7, 1, 12)


def test_snapshot_counts_what_duckdb_counts(tmp_path):
    make(tmp_path / "codes", ROWS, views=3)

    found = take_snapshot(str(tmp_path / "codes"))

    assert found.rows.tolist() == [21, 3, 36]
    assert found.samples == 20
    assert found.starts.tolist() == [0, 21, 24, 60]
    rows = [
        row for index in range(3) for table in read_part(found, index) for row in table.to_pylist()
    ]
    expected = rows_of(tmp_path / "codes")
    assert [row["codes"] for row in rows] == [row["codes"] for row in expected]


def test_snapshot_goes_to_other_processes_as_it_is(base):
    make(f"{base}/codes", ROWS)
    found = take_snapshot(f"{base}/codes")

    sent = pickle.loads(pickle.dumps(found))

    assert sent.digest == found.digest
    assert sent.part(2) == found.part(2)


def test_snapshot_that_is_kept_is_the_one_that_was_first(base):
    writer = begin(f"{base}/codes", ROWS)
    fill(writer, 0, 7)
    first = keep_snapshot(f"{base}/kept", take_snapshot(f"{base}/codes", allow_incomplete=True))
    fill(writer, 1, 1)

    second = keep_snapshot(f"{base}/kept", take_snapshot(f"{base}/codes", allow_incomplete=True))

    assert second.digest == first.digest == load_snapshot(f"{base}/kept", f"{base}/codes").digest
    assert len(take_snapshot(f"{base}/codes", allow_incomplete=True)) == 2


def test_snapshot_of_another_run_is_refused(tmp_path):
    make(tmp_path / "codes", ROWS)
    make(tmp_path / "other", ROWS, pixel_range="unit")
    keep_snapshot(str(tmp_path / "kept"), take_snapshot(str(tmp_path / "codes")))

    with pytest.raises(MismatchError, match="another run"):
        load_snapshot(str(tmp_path / "kept"), str(tmp_path / "other"))


def test_snapshot_file_that_is_none_is_refused(tmp_path):
    make(tmp_path / "codes", ROWS)
    pq.write_table(pq.read_table(tmp_path / "codes" / "plan.parquet"), tmp_path / "kept")

    with pytest.raises(MismatchError, match="is no snapshot"):
        load_snapshot(str(tmp_path / "kept"), str(tmp_path / "codes"))


def test_snapshot_of_a_generation_whose_shard_was_replaced_since_names_it(tmp_path):
    writer = make(tmp_path / "codes", ROWS)
    shards = writer.sink.plan.shards()
    changed = Plan.of([tar_shard("00000", size=101), *shards[1:]])
    opened = start_run(writer.sink.uri, writer.sink.run, changed, Growth(replace_changed=True))
    writer = replace(writer, sink=opened)

    with pytest.raises(IncompleteError, match=r"1 of 3 shards are not there \(00000\)"):
        take_snapshot(writer.sink.uri)
    fill(writer, 0, 9, seed=1)

    assert take_snapshot(writer.sink.uri).samples == 22
    assert take_snapshot(writer.sink.uri, generation=1).samples == 22
    with pytest.raises(MismatchError, match="00000 changed after generation 0"):
        take_snapshot(writer.sink.uri, generation=0)


def test_part_that_is_gone_is_named(tmp_path):
    make(tmp_path / "codes", ROWS)
    found = take_snapshot(str(tmp_path / "codes"))
    storage.delete(found.part(1).uri)

    with pytest.raises(MismatchError, match=r"00001\.parquet is gone"):
        list(read_part(found, 1))


def test_columns_of_another_object_than_there_was_are_refused(tmp_path):
    make(tmp_path / "codes", ROWS)
    found = take_snapshot(str(tmp_path / "codes"))
    expected = pq.read_table(found.part(0).uri)
    assert data_types(found).names == expected.schema.names
    assert column_bytes(found).keys() == set(expected.schema.names)
    storage.replace(found.part(0).uri, storage.read(found.part(2).uri))
    for read in (data_types, column_bytes):
        with pytest.raises(MismatchError, match=r"00000\.parquet is not the object that it was"):
            read(found)
    storage.delete(found.part(0).uri)
    with pytest.raises(MismatchError, match=r"00000\.parquet is gone"):
        data_types(found)
