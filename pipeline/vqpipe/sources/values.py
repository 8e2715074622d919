"""Keys and kept values of one row, as they are taken out of a Parquet file."""

import pyarrow as pa

from vqpipe.rejections import Reason, Rejection
from vqpipe.schema import Sample
from vqpipe.sources.damage import brief
from vqpipe.texts import is_binary, is_text, texts

MAX_VALUE_BYTES = 16 * 2**20
"""Larger keys and kept values are rejected (16 MiB)."""


def name_sample(
    row: int, default: str, values: pa.RecordBatch, key_column: str | None, kept: pa.Schema
) -> Sample:
    """Returns a sample without its image yet, or its rejection.

    Args:
        row: Its place in the shard.
        default: Its key if none is stored.
        values: One row of the file.
        key_column: Which column holds the key, if one does.
        kept: Columns that are kept, with the types in which they are.
    """
    key = default
    try:
        if key_column is not None and (found := key_of(values.column(key_column))) is not None:
            key = found
        named = {each.name: keep_value(values.column(each.name), each.type) for each in kept}
    except MemoryError:
        raise  # also an ArrowException: this machine's trouble
    except (pa.ArrowException, ValueError) as error:
        message = brief(f"the key or a kept column cannot be read: {error}")
        return Sample(row, key, rejection=Rejection(Reason.BAD_METADATA, message))
    return Sample(row, key, kept=named)


def keep_value(value: pa.Array, kind: pa.DataType) -> pa.Array:
    """Returns an array of one value in the type in which its column is kept.

    Raises:
        pa.ArrowException: If that type cannot hold it, or it is not what its own type says: Parquet
            does not promise that a string column is UTF-8.
        ValueError: If it is above `MAX_VALUE_BYTES`.
    """
    if value.type != kind:
        value = value.cast(kind)
    check_size(int(value.nbytes))
    value.validate(full=True)
    return value


def key_of(value: pa.Array) -> str | None:
    """Returns the key that an array of one value holds, as text; None if it is null.

    Raises:
        ValueError: If it is above `MAX_VALUE_BYTES`.
    """
    if pa.types.is_dictionary(value.type):
        value = value.dictionary_decode()
    if value.null_count:
        return None
    if is_text(value.type) or is_binary(value.type):
        data = value[0].as_buffer()
        check_size(data.size)
        return bytes(data).decode("utf-8", "backslashreplace")
    return texts(value)[0]


def check_size(size: int) -> None:
    """Raises ValueError for a size above `MAX_VALUE_BYTES`."""
    if size > MAX_VALUE_BYTES:
        raise ValueError(f"{size} bytes are more than the {MAX_VALUE_BYTES} that are kept")
