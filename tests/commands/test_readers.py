"""All columns of `data/`, as pyarrow, DuckDB, Polars, pandas and `datasets` read them."""

import datasets
import duckdb
import pandas
import polars
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests import plain
from tests.codec import models
from tests.makers import encoded, jpeg, picture

ROWS = 3
KEPT = {
    "label": pa.array([0, 1, None], pa.int64()),
    "big": pa.array([2**60 + 1, None, -1], pa.int64()),
    "score": pa.array([0.1, float("nan"), None], pa.float32()),
    "caption": pa.array(["ä", "", None]),
    "taken": pa.array([18_000, -1, 60_000], pa.int32()).cast(pa.date32()),
    "crawled": pa.array([1, 2, None], pa.timestamp("us", "UTC")),
    "price": pa.array([1, None, -2], pa.int32()).cast(pa.decimal128(12, 2)),
    "words": pa.array([["a", "b"], [], None]),
    "box": pa.array([{"x": 1, "tag": ["t"]}, None, {"x": None, "tag": None}]),
    "good": pa.array([True, None, False]),
}
FEATURES = '{"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}'


@pytest.fixture(scope="module")
def sink(tmp_path_factory):
    """A sink of views of several shapes, two images a sample, with all kinds of columns."""
    home = tmp_path_factory.mktemp("readers")
    (home / "photos").mkdir()
    photos = [Image.fromarray(picture(90, 60, seed)) for seed in range(ROWS)]
    model = models.write_tiny(home / "model", photos)
    left = [encoded(each, "PNG") for each in photos]
    right = [jpeg(50, 80, seed=seed) for seed in range(ROWS)]
    table = pa.table({"left": left, "right": right, "id": [f"k{i}" for i in range(ROWS)], **KEPT})
    pq.write_table(
        table.replace_schema_metadata({"huggingface": FEATURES}), home / "photos" / "a.parquet"
    )
    words = ["encode", "--source", home / "photos", "--sink", home / "codes", "--model", model]
    words += ["--pixel-range", "signed", "--skip-doctor", "--key", "id", "--keep-all"]
    words += ["--image", "left", "right", "--buckets", "32", "--flip", "both", "--latents", "both"]
    assert plain.run([words]) == [0]
    return home / "codes"


@pytest.fixture(scope="module")
def truth(sink):
    """What pyarrow reads, in order."""
    table = pyarrow.dataset.dataset(sink / "data").to_table()
    return table.sort_by([("key", "ascending"), ("image", "descending"), ("view", "ascending")])


def test_pyarrow_reads_kept_columns_as_they_were(truth):
    assert len(truth) == ROWS * 2 * 2
    firsts = truth.take(list(range(0, len(truth), 4)))
    for name, values in KEPT.items():
        assert firsts[name].type == values.type, name
        assert str(firsts[name].to_pylist()) == str(values.to_pylist()), name
    assert truth["image"].to_pylist()[:4] == ["right", "right", "left", "left"]
    assert truth["grid_h"].type == truth["grid_w"].type == pa.uint16()
    lengths = pc.list_value_length(truth["codes"]).to_pylist()
    sides = list(zip(truth["grid_h"].to_pylist(), truth["grid_w"].to_pylist(), strict=True))
    assert lengths == [height * width for height, width in sides]
    assert len(set(sides)) > 1
    assert truth["latents"].type == pa.list_(pa.float16())


def same(found, truth):
    """Checks Arrow tables column by column, as Python has the values; NaN equals NaN."""
    assert found.column_names == truth.column_names
    for name in truth.column_names:
        assert str(found[name].to_pylist()) == str(truth[name].to_pylist()), name


ORDER = "ORDER BY key, image DESC, view"


def test_duckdb_reads_every_column(sink, truth):
    found = duckdb.sql(f"FROM '{sink}/data/*.parquet' {ORDER}")
    kinds = dict(zip(found.columns, map(str, found.types), strict=True))
    assert kinds["codes"] == "UTINYINT[]"
    assert kinds["latents"] == "FLOAT[]"
    assert (kinds["taken"], kinds["price"]) == ("DATE", "DECIMAL(12,2)")
    assert kinds["crawled"] == "TIMESTAMP WITH TIME ZONE"
    arrow = found.to_arrow_table()
    plain_names = [name for name in truth.column_names if name not in {"crawled"}]
    same(arrow.select(plain_names), truth.select(plain_names))
    times = arrow["crawled"].cast(pa.timestamp("us", "UTC"))
    assert times.to_pylist() == truth["crawled"].to_pylist()


def test_polars_reads_every_column(sink, truth):
    found = polars.read_parquet(sink / "data" / "*.parquet").sort(
        ["key", "image", "view"], descending=[False, True, False]
    )
    assert found.schema["codes"] == polars.List(polars.UInt8)
    assert found.schema["taken"] == polars.Date
    same(found.to_arrow(), truth)


def test_pandas_reads_every_column(sink, truth):
    found = pandas.read_parquet(sink / "data", dtype_backend="pyarrow")
    found = found.sort_values(["key", "image", "view"], ascending=[True, False, True])
    kinds = {name: each.pyarrow_dtype for name, each in found.dtypes.items()}
    for name in truth.column_names:
        assert kinds[name] == truth[name].type, name
        column = pa.array(found[name].array)
        assert str(column.to_pylist()) == str(truth[name].to_pylist()), name


def test_datasets_reads_every_column_and_the_names_of_classes(sink, truth):
    found = datasets.load_dataset(str(sink), split="train")
    assert found.features["label"].names == ["cat", "dog"]
    table = found.data.table.combine_chunks()
    order = [("key", "ascending"), ("image", "descending"), ("view", "ascending")]
    same(table.sort_by(order), truth)
