"""Parquet files with a column of compressed images, plain or as `struct{bytes, path}`.

The struct is the layout of Hugging Face `datasets`' `Image` feature:
https://huggingface.co/docs/datasets/about_dataset_features. Its `path` is no key: it is often null
or the same in every row.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vqpipe import storage
from vqpipe.rejections import Loss, Reason, Rejection
from vqpipe.schema import File, Sample, Selection, Shard
from vqpipe.sources.agreement import Begun, kept_by_all
from vqpipe.sources.columns import check_column, check_image, check_key
from vqpipe.sources.damage import ARROW_ERRORS, brief, damaged
from vqpipe.sources.growth import check_growth, most_bytes
from vqpipe.sources.keys import Keys, check_count
from vqpipe.sources.names import shard_names
from vqpipe.sources.parquet_footer import read_metadata
from vqpipe.sources.values import key_of, name_sample
from vqpipe.storage.ahead import map_ahead

MAX_SHARD_BYTES = 10**9
"""Files above this size become several shards of row groups, each of at most about this size."""

MAX_IMAGE_BYTES = 2**30
"""Larger images are rejected (1 GiB)."""

BATCH_ROWS = 1  # a small page may hold large rows: a dictionary's value again and again, prefixes
_READERS = 16
_BUFFER_BYTES = 2**20  # a column: without it Arrow reads whole column chunks into memory
_ROW_GROUP = "-rg"


def list_shards(root: str, files: list[File], max_bytes: int = MAX_SHARD_BYTES) -> list[Shard]:
    """Returns one shard a file, or several for a file of more than `max_bytes`."""
    named = zip(files, shard_names(root, files), strict=True)
    shards = (Shard(name, "parquet", (file,)) for file, name in named)

    def parts(shard: Shard) -> list[Shard]:
        return [shard] if shard.size <= max_bytes else _split(shard, max_bytes)

    return [part for found in map_ahead(parts, shards, _READERS) for part in found]


def kept_schema(
    shards: Sequence[Shard], selection: Selection, begun: Begun | None = None
) -> pa.Schema:
    """Returns the kept columns with types that hold the values of all files.

    Raises:
        ConfigError: If a selected column is missing or unusable in some of them, or files have
            types that do not go together.
        MismatchError: If a new file does not go with a run that has begun.
    """

    def check(uri: str, schema: pa.Schema) -> None:
        _Columns.of(uri, schema, selection)

    return kept_by_all(shards, selection.keep, check, begun)


def read_shard(shard: Shard, selection: Selection, kept: pa.Schema) -> Iterator[Sample]:
    """Yields the rows of a file or of its row groups.

    Raises:
        ConfigError: If this file lacks a selected column; files of a source must look alike.
    """
    return read_file(shard, lambda file: _read_rows(shard, file, selection, kept))


def read_file(shard: Shard, rows: Callable[[BinaryIO], Iterator[Sample]]) -> Iterator[Sample]:
    """Yields what is read of a shard's file, each key once; damage in it is one last rejection.

    Args:
        shard: Of one file.
        rows: Yields the samples of the file once it is open.
    """
    row, size, most = 0, 0, most_bytes(shard.size)
    seen = Keys()
    with storage.open_file(shard.files[0]) as file:
        try:
            for sample in rows(file):
                check_count(row, shard.files[0].uri)
                yield unique(sample, seen)
                row, size = row + 1, size + len(sample.data or b"")
                check_growth(size, most)
        except MemoryError:
            raise  # also an ArrowException: this machine's trouble, not the file's
        except ARROW_ERRORS as error:
            place = f"{shard.files[0].uri}, from row {row} of the shard on"
            yield damaged(row, None, place, error, Loss.of(count_rows(shard), row))


def count_rows(shard: Shard) -> int | None:
    """Returns the rows of a file or of its row groups by its footer; None if it is damaged."""
    try:
        with storage.open_file(shard.files[0]) as file:
            footer = read_metadata(file)
        first, last = shard.row_groups or (0, footer.num_row_groups)
        return sum(int(footer.row_group(i).num_rows) for i in range(first, last))
    except ARROW_ERRORS:
        return None


@dataclass(frozen=True)
class _Columns:
    """The columns to read of one file."""

    image: str
    kind: pa.DataType
    key: str | None
    kept: tuple[str, ...]

    @classmethod
    def of(cls, uri: str, schema: pa.Schema, selection: Selection) -> "_Columns":
        """Returns the selected columns, or raises a `ConfigError` that lists what there is."""
        assert selection.image is not None, "the column of images has been found"
        kind = check_image(uri, schema, selection.image)
        if selection.key:
            check_key(uri, schema, selection.key)
        for name in selection.keep:
            check_column(uri, schema, name)
        return cls(selection.image, kind, selection.key, selection.keep)

    @property
    def is_struct(self) -> bool:
        """Whether images are in a struct of bytes and path."""
        return bool(pa.types.is_struct(self.kind))

    @property
    def names(self) -> list[str]:
        """The columns as Arrow's reader wants them, without the struct's other fields."""
        image = [self.image]
        if self.is_struct:
            known = (name for name in ("bytes", "path") if self.kind.get_field_index(name) >= 0)
            image = [f"{self.image}.{name}" for name in known]
        return list(dict.fromkeys([*image, *([self.key] if self.key else []), *self.kept]))


def _split(shard: Shard, max_bytes: int) -> list[Shard]:
    (file,) = shard.files
    try:
        with storage.open_file(file) as opened:
            footer = read_metadata(opened)
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
        metadata=read_metadata(file),
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
            for place in range(len(batch)):
                key = f"{name}/{row_in_file + row:08d}"
                values = batch.slice(place, 1)
                sample = name_sample(row, key, values, columns.key, kept)
                yield sample if sample.rejection else _with_image(sample, values, columns)
                row += 1
        if row != expected:
            raise ValueError(f"the footer claims {expected} rows, and its pages hold {row}")


def _with_image(sample: Sample, values: pa.RecordBatch, columns: _Columns) -> Sample:
    """Returns a sample with the image that a batch of one row has, or its rejection."""
    image = values.column(columns.image)
    if columns.is_struct:
        image = pc.struct_field(image, "bytes")
    if image.null_count:
        message = _describe_null(values.column(columns.image))
        return replace(sample, rejection=Rejection(Reason.NO_IMAGE, message))
    data = image[0].as_buffer()
    if data.size > MAX_IMAGE_BYTES:
        message = f"{data.size} bytes are more than the {MAX_IMAGE_BYTES} that are read"
        return replace(sample, rejection=Rejection(Reason.CORRUPT, message))
    return replace(sample, data=data.to_pybytes())


def _describe_null(image: pa.Array) -> str:
    """Returns what is known of an image that is not there."""
    path = None
    if pa.types.is_struct(image.type) and image.type.get_field_index("path") >= 0:
        path = key_of(pc.struct_field(image, "path"))
    if not path:
        return "the image is null"
    return (
        f"the image's bytes are null, and its path names {brief(path)}, which is not read: put the "
        "images into the Parquet files, as datasets' embed_table_storage does"
    )


def unique(sample: Sample, seen: Keys) -> Sample:
    """Returns the sample, or its rejection if its key has been seen."""
    assert sample.key is not None, "rows without a key have got a default"
    if seen.add(sample.key):
        return sample
    message = "this key came earlier in the shard: choose a key column without duplicates"
    rejection = Rejection(Reason.DUPLICATE_KEY, message)
    return Sample(sample.row, sample.key, None, rejection, sample.kept)
