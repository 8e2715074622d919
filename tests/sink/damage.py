"""Changes to the objects of a sink, as somebody might make them who means no harm."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vqpipe.sink import seal
from vqpipe.sink.objects import pack_object


def rewrite(path, change=lambda table: table, metadata=None):
    """Writes an object again as vqpipe would, so that its seal is right, its footer kept."""
    file = pq.ParquetFile(path)
    stored = {key.decode(): value.decode() for key, value in file.metadata.metadata.items()}
    kept = {key: value for key, value in stored.items() if key.startswith("vqpipe")}
    table = change(file.read()).replace_schema_metadata(None)
    data = Path(path).read_bytes()
    end = len(data) - seal.tail_bytes(data)
    rejections = data[end - json.loads(kept["vqpipe"])["rejections_bytes"] : end]
    Path(path).write_bytes(pack_object(table, {**kept, **(metadata or {})}, rejections))


def set_column(name, change):
    """Returns a change of the list of a column's values."""

    def apply(table):
        values = table[name].to_pylist()
        change(values)
        column = pa.array(values, table.schema.field(name).type)
        return table.set_column(table.schema.get_field_index(name), name, column)

    return apply
