"""Objects of a sink with bits flipped all over them: nothing wrong is ever taken over."""

import io
import json
from dataclasses import replace
from pathlib import Path

import datasets
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.sink.damage import rewrite, set_column
from tests.sink.runs import check_committed, codes_of, encoded_rows, query, rows_left, start
from vqpipe import storage
from vqpipe.errors import DamagedError, StorageError
from vqpipe.inspection.verify import verify
from vqpipe.schema import REJECTED, Selection, Shard
from vqpipe.sink import objects, todo
from vqpipe.sink.commit import commit_rows
from vqpipe.sink.footer import HISTOGRAM, pack_histogram, read_footer
from vqpipe.sink.objects import (
    pack_asides,
    pack_object,
    parse_object,
    read_asides,
    read_object,
    read_whole,
)
from vqpipe.sink.slot import Attempt
from vqpipe.sink.success import mark_success
from vqpipe.sink.totals import read_totals
from vqpipe.sources.codes import read_shard

TOTAL, BAD = 24, (5, 11)


def flipped(data, bit):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def some_bits(data, count, seed=0):
    """Returns places of bits, spread over all of an object, its first and last ones among them."""
    places = np.random.default_rng(seed).choice(8 * len(data), count, replace=False).tolist()
    return [0, 8 * len(data) - 1, *places]


def test_object_with_any_bit_flipped_is_damaged():
    table = pa.table({"key": ["x", "y"], "codes": [[1, 2], [3, 0]]})
    good = pack_object(table, {"vqpipe": "{}"})
    for bit in range(8 * len(good)):
        with pytest.raises(DamagedError, match=r"a\.parquet"):
            parse_object("a.parquet", flipped(good, bit))


@pytest.mark.parametrize("cut", [0, 1, 3, 7, 8, 80, 500])
def test_object_cut_short_or_none_of_ours_is_damaged(tmp_path, cut):
    path = tmp_path / "a.parquet"
    path.write_bytes(pack_object(pa.table({"a": [1]}), {"vqpipe": "{}"})[: cut or None])
    if cut == 0:
        pq.write_table(pa.table({"a": [1]}), path)
    for read in (read_object, lambda uri: read_footer(storage.stat(uri))):
        with pytest.raises(DamagedError, match=r"a\.parquet"):
            read(str(path))


def test_object_is_read_by_other_tools_as_it_is(tmp_path):
    writer = start(tmp_path)
    commit_rows(encoded_rows(writer, 0, TOTAL, rejected=BAD), writer)
    check_committed(writer, [TOTAL], BAD)  # by DuckDB
    path = str(tmp_path / "data" / "a.parquet")
    rows = [row for row in range(TOTAL) if row not in BAD]
    assert pq.read_table(path)["row"].to_pylist() == rows
    cache = str(tmp_path / "cache")
    found = datasets.load_dataset("parquet", data_files=path, split="train", cache_dir=cache)
    assert found["row"][:] == rows
    assert duckdb.sql(f"select count(*) from '{path}' where row > 11").fetchall() == [(12,)]


def test_object_writer_makes_row_groups_that_a_reader_has_memory_for(monkeypatch):
    monkeypatch.setattr(objects, "_GROUP_BYTES", 10_000)
    table = pa.table({"image": pa.array([bytes([i]) * 3000 for i in range(10)], pa.large_binary())})
    buffers = [io.BytesIO(), io.BytesIO()]
    for buffer, step in zip(buffers, (10, 1), strict=True):
        with objects.ObjectWriter(buffer, table.schema) as writer:
            for first in range(0, 10, step):
                writer.write(table.slice(first, step))
            writer.finish({})
        file = pq.ParquetFile(buffer)
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
        assert max(sizes) <= 4
        assert len(sizes) <= 4
        assert file.read() == table


def test_read_object_of_some_columns_finds_damage_in_another(tmp_path):
    picture = np.random.default_rng(0).bytes(4000)
    good = pack_object(pa.table({"row": [1], "picture": [picture]}), {"vqpipe": "{}"})
    path = tmp_path / "a.parquet"
    path.write_bytes(good)
    assert read_object(str(path), ["row"]).table.to_pydict() == {"row": [1]}
    path.write_bytes(good.replace(picture[2000:2010], bytes(10)))
    with pytest.raises(DamagedError):
        read_object(str(path), ["row"])


def miscount(path):
    """Writes codes that the histogram does not count, with a seal that is right."""
    rewrite(path, set_column("codes", lambda rows: rows[0].__setitem__(0, (rows[0][0] + 1) % 16)))


def test_codes_that_the_histogram_does_not_count_are_not_taken_over(tmp_path):
    writer = start(tmp_path)
    commit_rows(encoded_rows(writer, 0, TOTAL, rejected=BAD), writer)
    path = tmp_path / "data" / "a.parquet"
    miscount(path)
    with pytest.raises(DamagedError, match="histogram"):
        read_whole(str(path), ["key", "codes"])
    with pytest.raises(DamagedError, match="histogram"):
        list(decoded(writer))
    with pytest.raises(DamagedError, match="histogram"):
        commit_rows(encoded_rows(writer, 0, TOTAL, BAD), retrying(writer))


def retrying(writer):
    return replace(writer, attempt=Attempt("r1", {0: 1}, 5, "13"))


def decoded(writer, name="a"):
    """Returns what decode reads of a shard of a sink."""
    shard = Shard(name, "codes", (storage.stat(f"{writer.sink.uri}/data/{name}.parquet"),))
    how = Selection(key="key", codes="codes", shape=(2, 3), run=writer.sink.run.fingerprint)
    return read_shard(shard, how, pa.schema([]))


@pytest.mark.fault(28)
def test_staged_range_with_a_bit_flipped_is_read_anew(tmp_path):
    writer = start(tmp_path)
    commit_rows(encoded_rows(writer, 0, TOTAL, range(12), BAD), writer)
    (path,) = (tmp_path / "staging" / "a").glob("*0012*.parquet")
    good = path.read_bytes()
    for bit in some_bits(good, 30):
        for left in ("data/a.parquet", "rejected/a.parquet"):
            (tmp_path / left).unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(flipped(good, bit))
        rest = encoded_rows(writer, 0, TOTAL, range(12, TOTAL), BAD)
        (receipt,) = commit_rows(rest, writer).to_pylist()
        assert receipt["committed"] is None
        assert str(path) in receipt["dropped"][0]
        assert query(tmp_path, "data", "*") == []
        again = rows_left(writer, 0, TOTAL, BAD)
        assert again["row"].to_pylist() == list(range(12))
        (receipt,) = commit_rows(again, writer).to_pylist()
        assert (receipt["committed"], receipt["dropped"]) == (TOTAL, [])
        check_committed(writer, [TOTAL], BAD)


@pytest.mark.fault(28)
def test_data_object_with_a_bit_flipped_is_never_revised_nor_decoded(tmp_path):
    writer = start(tmp_path)
    commit_rows(encoded_rows(writer, 0, TOTAL, rejected=BAD), writer)
    path = tmp_path / "data" / "a.parquet"
    good = path.read_bytes()
    again = encoded_rows(writer, 0, TOTAL, BAD)
    for bit in some_bits(good, 300):
        path.write_bytes(flipped(good, bit))
        for read in (lambda: commit_rows(again, retrying(writer)), lambda: list(decoded(writer))):
            with pytest.raises(DamagedError, match=r"data/a\.parquet is damaged"):
                read()
        assert path.read_bytes() == flipped(good, bit)
    path.write_bytes(good)
    assert [s.row for s in decoded(writer)] == list(range(TOTAL - len(BAD)))
    commit_rows(again, retrying(writer))
    check_committed(writer, [TOTAL])


def test_decode_reads_the_codes_of_a_sound_object(tmp_path):
    writer = start(tmp_path)
    commit_rows(encoded_rows(writer, 0, TOTAL, rejected=BAD), writer)
    rows = [row for row in range(TOTAL) if row not in BAD]
    found = [np.frombuffer(sample.data, "<i8").tolist() for sample in decoded(writer)]
    assert found == [codes_of(writer, 0, row) for row in rows]


def test_decode_refuses_an_object_of_another_run(tmp_path):
    writer = start(tmp_path)
    commit_rows(encoded_rows(writer, 0, TOTAL), writer)
    other = start(tmp_path / "other", model="other")
    with pytest.raises(StorageError, match="another run"):
        list(decoded(replace(other, sink=replace(other.sink, uri=writer.sink.uri))))


MANY = 200_000


@pytest.fixture(scope="module")
def rejecting(tmp_path_factory):
    """A sink with one shard of which nearly all is rejected, each with a text of its own."""
    writer = start(tmp_path_factory.mktemp("many"), kept=pa.schema([]))
    good = encoded_rows(writer, 0, MANY + 2, range(MANY, MANY + 2))
    numbers = np.arange(MANY)
    noise = np.random.default_rng(0).bytes(16 * MANY).hex()
    texts = [noise[32 * n : 32 * (n + 1)] for n in numbers]
    known = {"shard": np.zeros(MANY), "row": numbers, "key": texts, "message": texts}
    known["reason"] = ["truncated"] * MANY
    bad = {f.name: pa.array(known.get(f.name, [None] * MANY), f.type, from_pandas=True)
           for f in good.schema}  # fmt: skip
    commit_rows(pa.concat_tables([pa.table(bad, good.schema), good]), writer)
    return writer, texts


def test_footer_stays_small_whatever_is_rejected(rejecting):
    writer, texts = rejecting
    path = Path(writer.sink.uri, "data", "a.parquet")
    data = path.read_bytes()
    assert int.from_bytes(data[-8:-4], "little") < 100_000 < len(data)
    footer, rejected = read_asides(storage.stat(str(path)))
    assert footer.origin["rejected"] == len(rejected) == MANY
    assert rejected["key"].to_pylist() == texts
    assert query(writer.sink.uri, "rejected", "count(*), count(distinct key)") == [(MANY, MANY)]


def test_shard_with_many_rejections_is_counted_settled_verified_and_decoded(rejecting):
    writer, texts = rejecting
    Path(writer.sink.uri, "rejected", "a.parquet").unlink()
    found = read_totals(writer.sink)
    mark_success(writer.sink, found)  # makes rejected/ say what data/ says
    assert query(writer.sink.uri, "rejected", "count(*), count(distinct key)") == [(MANY, MANY)]
    assert [row["key"] for row in found.examples["truncated"]] == texts[:5]
    assert list(verify(writer.sink, is_complete=True)) == []
    (staged,) = todo.retriable(writer.sink, {}).values()
    assert staged.ranges == ((MANY, MANY + 2),)
    found = [np.frombuffer(sample.data, "<i8").tolist() for sample in decoded(writer)]
    assert found == [codes_of(writer, 0, row) for row in (MANY, MANY + 1)]


def test_rejections_packed_and_read_are_the_same(tmp_path):
    rows = [
        {"key": "a\0\n\u00e9", "row": 3, "reason": "empty", "message": "zero bytes"},
        {"key": None, "row": 4, "reason": "shard_damaged", "message": "cut at byte 7"},
    ]
    rejections = pa.Table.from_pylist(rows, schema=REJECTED)
    path = tmp_path / "a.parquet"
    packed = pack_asides(rejections)
    said = {"rejections": objects.digest(packed), "rejections_bytes": len(packed)}
    histogram = {HISTOGRAM: pack_histogram(np.random.default_rng(0).integers(0, 9, 100_000))}
    for footer in ({}, histogram):  # of which the second is larger than one read
        data = pack_object(pa.table({"a": [b"x"]}), {"vqpipe": json.dumps(said), **footer}, packed)
        path.write_bytes(data)
        assert read_asides(storage.stat(str(path)))[1].equals(rejections)
        assert read_object(str(path)).asides.equals(rejections)
