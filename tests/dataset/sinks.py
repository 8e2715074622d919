"""Sinks of any size, with metadata that say which sample a row is of, made without a model."""

import duckdb
import numpy as np
import pyarrow as pa

from tests.sink.runs import facts_of_codes, facts_of_kept, make_run, tar_shard
from tests.sink.sinks import end
from vqpipe import schema
from vqpipe.code_layout import CodeLayout
from vqpipe.sink.commit import commit_rows
from vqpipe.sink.growth import Growth
from vqpipe.sink.plan import Plan
from vqpipe.sink.start import start_run
from vqpipe.sink.writer import Writer
from vqpipe.stages.encode import CodesProduct
from vqpipe.storage import normalise_uri

KEPT = pa.schema(
    [
        pa.field("label", pa.int64()),
        pa.field("caption", pa.string()),
        pa.field("score", pa.float32()),
        pa.field("tags", pa.list_(pa.string())),
    ]
)
GRID = CodeLayout.grid(2, 3, 1024)


def grids(*shapes, codebook_size=1024):
    """Returns the layout of images that differ in their grids."""
    return CodeLayout.grids([CodeLayout.grid(*shape, codebook_size) for shape in shapes])


def begin(sink, rows, *, layout=GRID, views=1, **identity):
    """Returns the writer of a run that has begun, of shards of so many samples each."""
    listed = Plan.of(tar_shard(f"{index:05d}") for index in range(len(rows)))
    more = {"views": views} if views > 1 else {}
    facts = {**facts_of_codes(layout), **facts_of_kept(KEPT), **more}
    asked = make_run(plan_sha256=listed.sha256(), facts=facts, **identity)
    opened = start_run(normalise_uri(str(sink)), asked, listed, Growth())
    return Writer(opened, CodesProduct(KEPT, schema.codes_field(layout), layout, views))


def make(sink, rows, *, is_complete=True, **how):
    """Makes a sink of shards of so many samples each; returns its writer."""
    writer = begin(sink, rows, **how)
    for index, count in enumerate(rows):
        fill(writer, index, count)
    if is_complete:
        end(writer)
    return writer


def fill(writer, index, samples, *, seed=0, without_label=(), caption=None):
    """Commits a shard of so many samples, from 1; the same for the same seed.

    Args:
        writer: The run.
        index: Which shard.
        samples: How many it has.
        seed: Of its codes.
        without_label: Rows whose label is null.
        caption: Returns the caption of a row; None has short ones.
    """
    views, layout = writer.product.views, writer.sink.run.facts.codes
    row, view = np.divmod(np.arange(samples * views), views)
    name = writer.sink.plan.name(index)
    columns = {
        "shard": np.full(len(row), index),
        "row": row,
        "key": [f"{name}/{each}" for each in row.tolist()],
        "view": view,
        **_codes(layout, row, np.random.default_rng((index, seed))),
        "width": np.full(len(row), 64),
        "height": 32 + row,
        "flip": view % 2 == 1,
        "crop": [[0, 0, 64, 32]] * len(row),
        "kept.label": [None if each in without_label else each % 10 for each in row.tolist()],
        "kept.caption": list(map(caption or _caption, row.tolist())),
        "kept.score": [None if each % 3 == 2 else each / 4 for each in row.tolist()],
        "kept.tags": [["a", "b"][: each % 3] for each in row.tolist()],
        "total": [samples if each == samples - 1 else None for each in row.tolist()],
    }
    kind = writer.product.rows
    empty = [None] * len(row)
    arrays = [_array(columns.get(each.name, empty), each.type) for each in kind]
    commit_rows(pa.Table.from_arrays(arrays, schema=kind), writer)


def _caption(row):
    return None if row % 5 == 4 else f"image {row % 7} é"


def _array(values, kind):
    return values if isinstance(values, pa.Array) else pa.array(values, kind)


def _codes(layout, row, rng):
    """Returns the columns of codes; where images differ, the number of a row says its shape."""
    kind = schema.codes_field(layout).type
    which = row % len(layout.shapes)
    sizes = np.array([np.prod(shape) for shape in layout.shapes])
    lengths = sizes[which] if layout.differs else np.full(len(row), layout.length)
    dtype = kind.value_type.to_pandas_dtype()
    values = pa.array(rng.integers(0, layout.codebook_size, lengths.sum()).astype(dtype))
    if not layout.differs:
        return {"codes": pa.FixedSizeListArray.from_arrays(values, type=kind)}
    ends = np.append(0, np.cumsum(lengths)).astype(np.int32)
    shapes = np.array([shape[:2] for shape in layout.shapes])[which]
    lists = pa.ListArray.from_arrays(pa.array(ends), values, type=kind)
    return {"codes": lists, "grid_h": shapes[:, 0], "grid_w": shapes[:, 1]}


def rows_of(sink, where="true"):
    """Returns the rows of a sink on a disk in the order of shards, rows and views, by DuckDB."""
    with duckdb.connect() as connection:
        cursor = connection.execute(
            f"SELECT * EXCLUDE (filename) FROM read_parquet('{sink}/data/**/*.parquet', "
            f'filename=true) WHERE {where} ORDER BY filename, "row", "view"'
        )
        names = [each[0] for each in cursor.description]
        return [dict(zip(names, each, strict=True)) for each in cursor.fetchall()]
