"""Kept values on their whole way, held against what pyarrow and DuckDB read of the source."""

import json
import tarfile

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.sink.runs import make_run
from tests.sources.test_parquet import KEPT
from vqpipe import schema
from vqpipe.code_layout import CodeLayout
from vqpipe.images import ImageFormat
from vqpipe.schema import Selection
from vqpipe.sink.commit import commit_rows
from vqpipe.sink.growth import Growth
from vqpipe.sink.plan import Plan
from vqpipe.sink.ranges import Staged
from vqpipe.sink.start import start_run
from vqpipe.sink.writer import Writer
from vqpipe.sources import codes, kept_schema, list_shards, read_shard
from vqpipe.stages.decode import ImagesProduct
from vqpipe.stages.encode import CodesProduct
from vqpipe.stages.quarantine import read_quarantined
from vqpipe.stages.read import read_rows
from vqpipe.texts import documents, texts

IMAGE = "image"
LAYOUT = CodeLayout.grid(1, 2, 16)
CODES = schema.codes_field(LAYOUT)


def cast(kind):
    return lambda numbers: numbers.cast(kind)


def narrow(kind, bits):
    """Returns what makes values of a type that is stored in so many bits."""
    stored = {32: pa.int32(), 64: pa.int64()}[bits]
    most = 2 ** (bits - 1) - 1

    def make(numbers):
        small = [None if n is None else max(-most, min(n, most)) for n in numbers.to_pylist()]
        return pa.array(small, stored).view(kind)

    return make


LEAVES = [
    cast(pa.int64()),
    cast(pa.string()),
    cast(pa.large_string()),
    lambda numbers: numbers.cast(pa.string()).cast(pa.binary()),
    lambda numbers: numbers.cast(pa.string()).dictionary_encode(),
    lambda numbers: pa.array([None if n is None else n % 2 == 0 for n in numbers.to_pylist()]),
    lambda numbers: pa.array([None if n is None else n / 8 for n in numbers.to_pylist()]),
    lambda numbers: pa.array(
        [None if n is None else n % 1000 / 8 for n in numbers.to_pylist()], pa.float16()
    ),
    lambda numbers: pa.array(
        [None if n is None else (n % 2**64).to_bytes(8) for n in numbers.to_pylist()], pa.binary(8)
    ),
    lambda numbers: numbers.cast(pa.decimal128(25, 0)),
    lambda numbers: numbers.cast(pa.decimal256(60, 5)),
    narrow(pa.date32(), 32),
    *(narrow(pa.timestamp(unit), 64) for unit in ("ms", "us", "ns")),
    *(narrow(pa.timestamp("us", zone), 64) for zone in ("UTC", "tzutc()", "+05:30", "No/Where")),
    *(narrow(pa.duration(unit), 64) for unit in ("s", "ms", "us", "ns")),
    lambda numbers: pa.nulls(len(numbers)),
]


@st.composite
def columns(draw, rows, depth=2):
    """Draws an array of any type that Parquet can hold."""
    what = draw(st.sampled_from(["leaf", "list", "struct", "map"] if depth else ["leaf"]))
    if what == "leaf":
        numbers = st.one_of(st.none(), st.integers(-(2**63) + 1, 2**63 - 1), st.integers(-9, 9))
        drawn = draw(st.lists(numbers, min_size=rows, max_size=rows))
        return draw(st.sampled_from(LEAVES))(pa.array(drawn, pa.int64()))
    mask = pa.array(draw(st.lists(st.booleans(), min_size=rows, max_size=rows)), pa.bool_())
    if what == "struct":
        fields = [draw(columns(rows, depth - 1)) for _ in range(draw(st.integers(1, 2)))]
        return pa.StructArray.from_arrays(fields, ["f", "g"][: len(fields)], mask=mask)
    sizes = draw(st.lists(st.integers(0, 3), min_size=rows, max_size=rows))
    starts = [sum(sizes[:row]) for row in range(rows + 1)]
    items = draw(columns(starts[-1], depth - 1))
    if what == "map" and not pa.types.is_null(items.type):  # Arrow writes no map to nothing
        keys = pa.array([f"k{n}" for n in range(starts[-1])], pa.string())
        return pa.MapArray.from_arrays(pa.array(starts, pa.int32()), keys, items)
    return pa.ListArray.from_arrays(pa.array(starts, pa.int32()), items, mask=mask)


def write(folder, values, rows):
    table = pa.table({IMAGE: pa.array([b"png"] * rows), **values})
    pq.write_table(table, folder / "a.parquet", row_group_size=3)
    return list_shards(str(folder)), Selection(IMAGE, keep=tuple(values))


@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
@given(column=columns(5), block_rows=st.integers(1, 6))
def test_kept_values_of_any_type_are_those_that_pyarrow_reads(tmp_path, column, block_rows):
    listing, selection = write(tmp_path, {"x": column}, 5)
    kept = kept_schema(listing, selection)
    samples = read_shard(listing.shards[0], selection, kept)
    found = pa.concat_tables(read_rows(samples, 0, Staged(), kept, block_rows))
    expected = pq.read_table(tmp_path / "a.parquet")["x"].cast(kept.field("x").type)
    assert found["reason"].null_count == 5
    assert found["kept.x"].combine_chunks().equals(expected.combine_chunks())
    assert len(json.dumps(documents(expected.combine_chunks()), allow_nan=False)) > 0


def writer_of(sink, listing, product):
    listed = Plan.of(listing.shards)
    asked = make_run(plan_sha256=listed.sha256(), facts={"layout": LAYOUT.document()})
    opened = start_run(str(sink), asked, listed, Growth())
    return Writer(opened, product)


def commit(writer, rows, more):
    """Commits rows as they were read, with columns that the codec would have added."""
    target = writer.product.rows
    for name in target.names:
        if name not in rows.column_names:
            value = more.get(name, pa.nulls(len(rows), target.field(name).type))
            rows = rows.append_column(name, value)
    commit_rows(rows.select(target.names).cast(target), writer)


@pytest.mark.parametrize("read", [read_shard, read_quarantined])
def test_kept_columns_of_all_types_stand_in_data_as_duckdb_reads_them(tmp_path, read):
    source, sink = tmp_path / "source", tmp_path / "sink"
    source.mkdir()
    listing, selection = write(source, KEPT, 2)
    kept = kept_schema(listing, selection)
    (rows,) = read_rows(read(listing.shards[0], selection, kept), 0, Staged(), kept, 10)
    writer = writer_of(sink, listing, CodesProduct(kept, CODES, LAYOUT))
    commit(writer, rows, {"codes": pa.array([[1, 2]] * 2, CODES.type)})
    then, now = pq.read_table(source / "a.parquet"), pq.read_table(sink / "data" / "a.parquet")
    assert now.select(list(KEPT)).equals(then.select(list(KEPT)))
    names = [name for name in KEPT if name not in {"half", "view_of_list"}]
    picked = ", ".join(names)
    one, other = (
        duckdb.sql(f"select {picked} from '{path}'").to_arrow_table()
        for path in (source / "a.parquet", sink / "data" / "a.parquet")
    )
    assert one.equals(other)


def test_names_of_classes_stand_in_data_and_in_what_is_decoded_of_it(tmp_path):
    source, sink = tmp_path / "source", tmp_path / "sink"
    source.mkdir()
    label, other = ({"names": names, "_type": "ClassLabel"} for names in (["cat", "dog"], ["x"]))
    said = {"huggingface": json.dumps({"info": {"features": {"label": label, "other": other}}})}
    table = pa.table({IMAGE: [b"png"], "label": [1], "other": [0]})
    pq.write_table(table.replace_schema_metadata(said), source / "a.parquet")
    listing, selection = list_shards(str(source)), Selection(IMAGE, keep=("label",))
    kept = kept_schema(listing, selection)
    (rows,) = read_rows(read_shard(listing.shards[0], selection, kept), 0, Staged(), kept, 10)
    writer = writer_of(sink, listing, CodesProduct(kept, CODES, LAYOUT))
    commit(writer, rows, {"codes": pa.array([[1, 2]], CODES.type)})
    found = pq.read_schema(sink / "data" / "a.parquet").metadata[b"huggingface"]
    assert json.loads(found) == {"info": {"features": {"label": label}}}
    decoding = Selection(None, "key", ("label",), codes="codes", shape=(1, 2))
    shards = codes.list_shards(f"{sink}/data", "codes").shards
    again = codes.kept_schema(shards, decoding)
    assert json.loads(again.metadata[b"huggingface"]) == json.loads(found)


def test_kept_columns_of_all_types_become_texts_in_a_tar(tmp_path):
    source, sink = tmp_path / "source", tmp_path / "sink"
    source.mkdir()
    listing, selection = write(source, KEPT, 2)
    kept = kept_schema(listing, selection)
    samples = read_shard(listing.shards[0], selection, kept)
    (rows,) = read_rows(samples, 0, Staged(), kept, 10)
    product = ImagesProduct(kept, ImageFormat("png"), "webdataset", (8, 8))
    commit(writer_of(sink, listing, product), rows, {})
    (path,) = (sink / "images").rglob("*.tar")
    with tarfile.open(path) as tar:
        names = tar.getnames()
        said = json.loads(tar.extractfile(next(n for n in names if n.endswith(".json"))).read())
    assert said["dates"] == "20194-11-22"  # by DuckDB
    assert said["unknown_zone"] == "1970-01-01 00:00:00.000001Z"
    assert said["unknown_zone_in_struct"] == {"x": "1970-01-01 00:00:00.000001Z"}
    assert said["duration"] == "PT4611686018427.387904S"
    assert said["map"] == [["a", [1]], ["b", None]]
    assert said["huge_decimal"] == "1" * 70 + ".00000"
    assert said["not_a_number"] is None
    assert {*said} == {*KEPT} - {"string", "large", "nothing"}


def test_texts_of_what_has_none_name_the_type():
    values = pa.array([(1, 2, 3), None], pa.month_day_nano_interval())
    assert texts(values) == ["<a month_day_nano_interval, which has no text>", None]
