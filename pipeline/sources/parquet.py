"""Parquet files with a column of compressed images, plain or as `struct{bytes, path}`.

The struct is the layout of Hugging Face `datasets`' `Image` feature:
https://huggingface.co/docs/datasets/about_dataset_features. Its `path` is no key: it is often null
or the same in every row.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import ConfigError
from pipeline.schema import File, Reason, Rejection, Sample, Selection, Shard
from pipeline.sources.damage import PARSER_ERRORS, brief, damaged
from pipeline.sources.footer import extension_name, read_footer
from pipeline.sources.growth import check_growth, most_bytes
from pipeline.sources.keys import Keys, check_count
from pipeline.sources.names import shard_names
from pipeline.threads import map_ahead

MAX_SHARD_BYTES = 10**9
"""Files above this size become several shards of row groups, each of at most about this size."""

MAX_IMAGE_BYTES = 2**30
"""Larger images are rejected (1 GiB)."""
MAX_VALUE_BYTES = 16 * 2**20
"""Larger keys and kept values are rejected (16 MiB)."""

BATCH_ROWS = 1  # a small page may hold large rows: a dictionary's value again and again, prefixes
_MAX_COLUMNS_TEXT = 2_000
_READERS = 16
_BUFFER_BYTES = 2**20  # a column: without it Arrow reads whole column chunks into memory
ARROW_ERRORS = (pa.ArrowException, *PARSER_ERRORS)
_ROW_GROUP = "-rg"


def list_shards(root: str, files: list[File], max_bytes: int = MAX_SHARD_BYTES) -> list[Shard]:
    """Returns one shard a file, or several for a file of more than `max_bytes`."""
    named = zip(files, shard_names(root, files), strict=True)
    shards = (Shard(name, "parquet", (file,)) for file, name in named)

    def parts(shard: Shard) -> list[Shard]:
        return [shard] if shard.size <= max_bytes else _split(shard, max_bytes)

    return [part for found in map_ahead(parts, shards, _READERS) for part in found]


def first_schema(shards: Sequence[Shard]) -> tuple[Shard, pa.Schema]:
    """Returns the first shard whose file has a readable footer, and that file's columns.

    Raises:
        ConfigError: If there is none.
    """
    for shard in shards:
        try:
            with storage.open_file(shard.files[0]) as file, open_parquet(file) as parquet:
                return shard, parquet.schema_arrow
        except ARROW_ERRORS:
            continue  # `read_shard` makes it a rejection
    raise ConfigError(
        f"none of {len(shards)} file(s) is Parquet with a readable footer, the first being "
        f"{shards[0].files[0].uri}"
    )


def kept_schema(shards: Sequence[Shard], selection: Selection) -> pa.Schema:
    """Returns the kept columns with their types in the first file that has a readable footer.

    Raises:
        ConfigError: If a selected column is missing or unusable, or no footer can be read.
    """
    shard, schema = first_schema(shards)
    columns = _Columns.of(shard.files[0].uri, schema, selection)
    return pa.schema([pa.field(name, schema.field(name).type) for name in columns.kept])


def read_shard(shard: Shard, selection: Selection, kept: pa.Schema) -> Iterator[Sample]:
    """Yields the rows of a file or of its row groups.

    Raises:
        ConfigError: If this file lacks a selected column; files of a source must look alike.
    """
    row, size, most = 0, 0, most_bytes(shard.size)
    seen = Keys()
    with storage.open_file(shard.files[0]) as file:
        try:
            for sample in _read_rows(shard, file, selection, kept):
                check_count(row, shard.files[0].uri)
                yield unique(sample, seen)
                row, size = row + 1, size + len(sample.image or b"")
                check_growth(size, most)
        except MemoryError:
            raise  # also an ArrowException: this machine's trouble, not the file's
        except ARROW_ERRORS as error:
            yield damaged(row, None, f"{shard.files[0].uri}, from row {row} of the shard on", error)


def count_rows(shard: Shard) -> int | None:
    """Returns the rows of a file or of its row groups by its footer; None if it is damaged."""
    try:
        with storage.open_file(shard.files[0]) as file:
            footer = read_footer(file)
        first, last = shard.row_groups or (0, footer.num_row_groups)
        return sum(int(footer.row_group(i).num_rows) for i in range(first, last))
    except ARROW_ERRORS:
        return None


@dataclass(frozen=True)
class _Columns:
    """The columns to read of one file."""

    image: str
    is_struct: bool
    key: str | None
    kept: tuple[str, ...]

    @classmethod
    def of(cls, uri: str, schema: pa.Schema, selection: Selection) -> "_Columns":
        """Returns the selected columns, or raises a `ConfigError` that lists what there is."""
        image = selection.image or _only_image(uri, schema)
        for name in (image, *([selection.key] if selection.key else []), *selection.keep):
            check_column(uri, schema, name)
        image_type = schema.field(image).type
        if not _holds_image(image_type):
            raise ConfigError(
                f"{uri}: column {image!r} is {image_type}, and an image is binary or "
                f"struct<bytes: binary>; {columns_of(schema)}"
            )
        return cls(image, pa.types.is_struct(image_type), selection.key, selection.keep)

    @property
    def names(self) -> list[str]:
        """The columns as Arrow's reader wants them, without the struct's other fields."""
        image = f"{self.image}.bytes" if self.is_struct else self.image
        return list(dict.fromkeys([image, *([self.key] if self.key else []), *self.kept]))


def _split(shard: Shard, max_bytes: int) -> list[Shard]:
    (file,) = shard.files
    try:
        with storage.open_file(file) as opened:
            footer = read_footer(opened)
    except ARROW_ERRORS:
        return [shard]  # `read_shard` makes it a rejection
    starts = _split_points(
        [_stored_bytes(footer, i) for i in range(footer.num_row_groups)], max_bytes
    )
    ends = [*starts[1:], footer.num_row_groups]
    return [
        Shard(f"{shard.name}{_ROW_GROUP}{first:05d}", "parquet", (file,), row_groups=(first, last))
        for first, last in zip(starts, ends, strict=True)
    ] or [shard]


def _split_points(sizes: list[int], max_bytes: int) -> list[int]:
    """Returns the first index of every run of sizes that sums up to at most `max_bytes`."""
    starts: list[int] = []
    total = max_bytes
    for index, size in enumerate(sizes):
        total += size
        if not starts or total > max_bytes:
            starts.append(index)
            total = size
    return starts


def _stored_bytes(footer: pq.FileMetaData, row_group: int) -> int:
    group = footer.row_group(row_group)
    return sum(group.column(i).total_compressed_size for i in range(group.num_columns))


def open_parquet(file: BinaryIO) -> pq.ParquetFile:
    """Returns a reader that checks what can be checked and makes nothing of extension types."""
    return pq.ParquetFile(
        file,
        metadata=read_footer(file),
        buffer_size=_BUFFER_BYTES,
        pre_buffer=False,
        page_checksum_verification=True,
        arrow_extensions_enabled=False,
    )


def _read_rows(
    shard: Shard, file: BinaryIO, selection: Selection, kept: pa.Schema
) -> Iterator[Sample]:
    with open_parquet(file) as parquet:
        columns = _Columns.of(shard.files[0].uri, parquet.schema_arrow, selection)
        first, last = shard.row_groups or (0, parquet.num_row_groups)
        counts = [parquet.metadata.row_group(i).num_rows for i in range(last)]
        name = shard.name if shard.row_groups is None else shard.name.rpartition(_ROW_GROUP)[0]
        row_in_file, expected = sum(counts[:first]), sum(counts[first:])
        batches = parquet.iter_batches(
            BATCH_ROWS, range(first, last), columns.names, use_threads=False
        )
        row = 0
        for batch in batches:
            for values in _rows(batch, columns):
                default_key = f"{name}/{row_in_file + row:08d}"
                yield _sample(row, default_key, values, kept)
                row += 1
        if row != expected:
            raise ValueError(f"the footer claims {expected} rows, and its pages hold {row}")


def _rows(
    batch: pa.RecordBatch, columns: _Columns
) -> Iterator[tuple[pa.Scalar, pa.Scalar | None, list[pa.Scalar]]]:
    """Yields image, key and kept values of each row."""
    image = batch.column(columns.image)
    if columns.is_struct:
        image = pc.struct_field(image, "bytes")
    key = batch.column(columns.key) if columns.key else None
    kept = [batch.column(name) for name in columns.kept]
    for row in range(batch.num_rows):
        yield image[row], None if key is None else key[row], [column[row] for column in kept]


def _sample(
    row: int,
    default_key: str,
    values: tuple[pa.Scalar, pa.Scalar | None, list[pa.Scalar]],
    kept: pa.Schema,
) -> Sample:
    image, key_value, kept_values = values
    key = default_key
    try:
        if key_value is not None and key_value.is_valid:
            check_size(key_value)
            key = text_of(key_value)
        named = {
            field.name: plain_value(value, field.type)
            for field, value in zip(kept, kept_values, strict=True)
        }
    except (pa.ArrowException, ValueError) as error:
        message = brief(f"the key or a kept column cannot be read: {error}")
        return Sample(row, key, rejection=Rejection(Reason.BAD_METADATA, message))
    size = size_of(image)
    if size > MAX_IMAGE_BYTES:
        message = f"{size} bytes are more than the {MAX_IMAGE_BYTES} that are read"
        return Sample(row, key, None, Rejection(Reason.CORRUPT, message), named)
    data = image.as_py()
    if data is None:
        return Sample(row, key, None, Rejection(Reason.NO_IMAGE, "the image is null"), named)
    return Sample(row, key, data, None, named)


def unique(sample: Sample, seen: Keys) -> Sample:
    """Returns the sample, or its rejection if its key has been seen."""
    assert sample.key is not None, "rows without a key have got a default"
    if seen.add(sample.key):
        return sample
    message = "this key came earlier in the shard: choose a key column without duplicates"
    rejection = Rejection(Reason.DUPLICATE_KEY, message)
    return Sample(sample.row, sample.key, None, rejection, sample.kept)


def size_of(value: pa.Scalar) -> int:
    """Returns the bytes of a value that has text or bytes or several values in it, else 0."""
    if pa.types.is_dictionary(value.type):
        value = value.value
    if not value.is_valid:
        return 0
    if hasattr(value, "as_buffer"):
        return int(value.as_buffer().size)
    # `pa.array` of a scalar fails where a list in it holds a null list.
    return int(pa.repeat(value, 1).nbytes) if pa.types.is_nested(value.type) else 0


def check_size(value: pa.Scalar) -> None:
    """Raises ValueError for a value above `MAX_VALUE_BYTES`."""
    size = size_of(value)
    if size > MAX_VALUE_BYTES:
        raise ValueError(f"{size} bytes are more than the {MAX_VALUE_BYTES} that are kept")


def text_of(value: pa.Scalar) -> str:
    """Returns a key as text; Parquet does not promise that a string column is UTF-8."""
    if pa.types.is_dictionary(value.type):
        value = value.value
    if hasattr(value, "as_buffer") and value.as_buffer() is not None:
        return bytes(value.as_buffer()).decode("utf-8", "backslashreplace")
    return str(value.as_py())


def plain_value(value: pa.Scalar, kind: pa.DataType) -> object:
    """Returns a Python value that Arrow turns back into the same one."""
    check_size(value)
    if value.type != kind:
        value = value.cast(kind)
    if getattr(kind, "unit", None) == "ns":  # datetime ends at microseconds
        return value.value
    return value.as_py()


def _only_image(uri: str, schema: pa.Schema) -> str:
    names = [field.name for field in schema if _holds_image(field.type)]
    names = [name for name in names if extension_name(schema.field(name)) is None]
    if len(names) == 1:
        return str(names[0])
    state = "several columns hold binary data" if names else "no column holds binary data"
    raise ConfigError(f"{uri}: {state}; name the image column; {columns_of(schema)}")


def _holds_image(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _is_binary(kind.field(index).type)
    return _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    )


def check_column(uri: str, schema: pa.Schema, name: str) -> None:
    """Checks that a column is there, once, and of a plain type.

    Raises:
        ConfigError: If not; names the columns that are there.
    """
    uses = schema.names.count(name)
    if uses != 1:
        state = "has no column" if uses == 0 else f"has {uses} columns"
        raise ConfigError(f"{uri} {state} {name!r}; {columns_of(schema)}")
    extension = extension_name(schema.field(name))
    if extension is not None:
        raise ConfigError(
            f"{uri}: column {name!r} has the extension type {extension}; these are not read, since "
            "some run code: store plain bytes, strings or numbers instead"
        )


def columns_of(schema: pa.Schema) -> str:
    """Returns columns and their types for a person."""
    columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
    return f"columns: {columns[:_MAX_COLUMNS_TEXT]}"
