"""Changes to the objects of a sink, as somebody might make them who means no harm."""

import pyarrow as pa
import pyarrow.parquet as pq


def rewrite(path, change=lambda table: table, metadata=None):
    """Writes an object again, its footer kept."""
    file = pq.ParquetFile(path)
    stored = {key.decode(): value.decode() for key, value in file.metadata.metadata.items()}
    kept = {key: value for key, value in stored.items() if key.startswith("vqpipe")}
    table = change(file.read()).replace_schema_metadata(None)
    with pq.ParquetWriter(path, table.schema, compression="zstd") as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({**kept, **(metadata or {})})


def set_column(name, change):
    """Returns a change of the list of a column's values."""

    def apply(table):
        values = table[name].to_pylist()
        change(values)
        column = pa.array(values, table.schema.field(name).type)
        return table.set_column(table.schema.get_field_index(name), name, column)

    return apply
