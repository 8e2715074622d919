"""Sinks of any size, with codes that say which sample they are of, made without a model."""

import numpy as np
import pyarrow as pa

from tests.sink.runs import facts_of_codes, start
from tests.sink.sinks import end
from vqpipe.sink.commit import commit_rows

KEPT = pa.schema([pa.field("label", pa.int64()), pa.field("caption", pa.string())])


def make(sink, rows, *, grid=(4, 4), codebook_size=1024, kept=KEPT, views=1, is_complete=True, **how):
    """Makes a sink of shards of so many samples each; returns its writer."""
    names = [f"{index:05d}" for index in range(len(rows))]
    writer = start(sink, names, grid=grid, codebook_size=codebook_size, kept=kept, count=views, **how)
    for index in range(len(rows)):
        fill(writer, index, rows[index])
    if is_complete:
        end(writer)
    return writer


def fill(writer, index, rows, first=0):
    """Commits a shard."""
    views, codes = writer.product.views, writer.product.codes
    length, size = codes.type.list_size, writer.product.codebook_size
    count = rows * views
    row, view = np.divmod(np.arange(count), views)
    kept = writer.product.kept
    values = np.random.default_rng(index).integers(0, size, (count, length))
    columns = {
        "shard": pa.array(np.full(count, index, np.int32)),
        "row": pa.array(row.astype(np.int32)),
        "key": pa.array([f"{writer.sink.plan.name(index)}/{each}" for each in row.tolist()]),
        "view": pa.array(view.astype(np.uint8)),
        "codes": pa.FixedSizeListArray.from_arrays(
            pa.array(values.ravel().astype(codes.type.value_type.to_pandas_dtype())), length
        ).cast(codes.type),
        "width": pa.array(np.full(count, 64, np.int32)),
        "height": pa.array(32 + row.astype(np.int32)),
        "flip": pa.array(view % 2 == 1),
        "crop": pa.FixedSizeListArray.from_arrays(
            pa.array(np.tile(np.array([0, 0, 64, 32], np.int32), count)), 4
        ),
        "kept.label": pa.array(row % 10),
        "kept.caption": pa.array([f"caption of {each % 7}" for each in row.tolist()]),
    }
    schema = writer.product.rows
    arrays = [
        columns[each.name].cast(each.type) if each.name in columns else pa.nulls(count, each.type)
        for each in schema
    ]
    table = pa.Table.from_arrays(arrays, schema=schema)
    if rows:
        total = pa.array([None] * (count - views) + [rows] * views, pa.int32())
        table = table.set_column(schema.get_field_index("total"), schema.field("total"), total)
        commit_rows(table, writer)
    del kept
