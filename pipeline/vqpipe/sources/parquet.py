"""Parquet files with columns of compressed images, plain or as `struct{bytes, path}`, or in lists.

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
from vqpipe.sources.columns import check_column, check_image, check_key, holds_images
from vqpipe.sources.damage import ARROW_ERRORS, brief, damaged
from vqpipe.sources.growth import check_growth, most_bytes
from vqpipe.sources.keys import Keys, check_count
from vqpipe.sources.names import shard_names
from vqpipe.sources.parquet_footer import open_parquet, read_metadata, schema_of
from vqpipe.sources.several import name_image
from vqpipe.sources.values import key_of, name_sample
from vqpipe.storage.ahead import map_ahead

MAX_SHARD_BYTES = 10**9
"""Files above this size become several shards of row groups, each of at most about this size."""

MAX_IMAGE_BYTES = 2**30
"""Larger images are rejected (1 GiB)."""

BATCH_ROWS = 1  # a small page may hold large rows: a dictionary's value again and again, prefixes
_READERS = 16
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

    return kept_by_all((each.files[0] for each in shards), selection.keep, check, begun)


def read_shard(shard: Shard, selection: Selection, kept: pa.Schema) -> Iterator[Sample]:
    """Yields the rows of a file or of its row groups.

    Raises:
        ConfigError: If this file lacks a selected column; files of a source must look alike.
    """
    images = selection.images
    return read_file(shard, lambda file: _read_rows(shard, file, selection, kept), images)


def read_file(
    shard: Shard, rows: Callable[[BinaryIO], Iterator[Sample]], images: Sequence[str] = ()
) -> Iterator[Sample]:
    """Yields what is read of a shard's file; damage in it is one last rejection.

    Args:
        shard: Of one file.
        rows: Yields the samples of the file once it is open.
        images: The columns of images, if images are what is read.
    """
    row, size, most = 0, 0, most_bytes(shard.size)
    with storage.open_file(shard.files[0]) as file:
        try:
            for sample in rows(file):
                check_count(row, shard.files[0].uri)
                yield sample
                row, size = row + 1, size + len(sample.data or b"")
                check_growth(size, most)
        except MemoryError:
            raise  # also an ArrowException: this machine's trouble, not the file's
        except ARROW_ERRORS as error:
            place = f"{shard.files[0].uri}, from row {row} of the shard on"
            yield damaged(row, None, place, error, Loss.of(count_rows(shard, images), row))


def count_rows(shard: Shard, images: Sequence[str] = ()) -> int | None:
    """Returns how many samples a file or its row groups have by its footer.

    None if that is damaged, or if images are in lists, as long as each row's may be.

    Args:
        shard: Of one file.
        images: The columns of images, if images are what is read.
    """
    try:
        with storage.open_file(shard.files[0]) as file:
            footer = read_metadata(file)
        columns = schema_of(footer)
        if any(holds_images(columns.field(name).type) for name in images):
            return None
        first, last = shard.row_groups or (0, footer.num_row_groups)
        rows = sum(int(footer.row_group(i).num_rows) for i in range(first, last))
        return rows * max(1, len(images))
    except (*ARROW_ERRORS, KeyError):
        return None


@dataclass(frozen=True)
class _Image:
    """A column of images."""

    name: str
    kind: pa.DataType

    @property
    def is_struct(self) -> bool:
        """Whether each image is in a struct of bytes and path."""
        return bool(pa.types.is_struct(self.kind))

    @property
    def is_list(self) -> bool:
        """Whether there is a list of them in each row."""
        return holds_images(self.kind)

    @property
    def paths(self) -> list[str]:
        """What Arrow's reader is to read of it: of a struct, no more than is known."""
        if not self.is_struct:
            return [self.name]
        known = (name for name in ("bytes", "path") if self.kind.get_field_index(name) >= 0)
        return [f"{self.name}.{name}" for name in known]


@dataclass(frozen=True)
class _Columns:
    """The columns to read of one file."""

    images: tuple[_Image, ...]
    are_named: bool
    """Whether each row is to say which image it is."""
    key: str | None
    kept: tuple[str, ...]

    @classmethod
    def of(cls, uri: str, schema: pa.Schema, selection: Selection) -> "_Columns":
        """Returns the selected columns, or raises a `ConfigError` that lists what there is."""
        assert selection.images, "the column of images has been found"
        are_named = isinstance(selection.image, tuple)
        images = tuple(
            _Image(name, check_image(uri, schema, name, may_be_list=are_named))
            for name in selection.images
        )
        if selection.key:
            check_key(uri, schema, selection.key)
        for name in selection.keep:
            check_column(uri, schema, name)
        return cls(images, are_named, selection.key, selection.keep)

    @property
    def names(self) -> list[str]:
        """The columns as Arrow's reader wants them."""
        images = [path for each in self.images for path in each.paths]
        return list(dict.fromkeys([*images, *([self.key] if self.key else []), *self.kept]))


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
        kept = pa.schema([kept.field(each) for each in columns.kept if each in kept.names])
        row, place, seen = 0, 0, Keys()
        for batch in batches:
            for values in (batch.slice(each, 1) for each in range(len(batch))):
                key = f"{name}/{row_in_file + place:08d}"
                sample = unique(name_sample(row, key, values, columns.key, kept), seen)
                for image in _images_of(sample, values, columns):
                    yield replace(image, row=row)
                    row += 1
                place += 1
        if place != expected:
            raise ValueError(f"the footer claims {expected} rows, and its pages hold {place}")


def _images_of(sample: Sample, values: pa.RecordBatch, columns: _Columns) -> Iterator[Sample]:
    """Yields the images that a batch of one row has, or their rejections."""
    for image in columns.images:
        column = values.column(image.name)
        if not columns.are_named:
            yield _with_image(sample, column)
        elif not image.is_list:
            yield name_image(_with_image(sample, column), image.name)
        else:
            yield from _entries_of(sample, column, image.name)


def _entries_of(sample: Sample, lists: pa.Array, name: str) -> Iterator[Sample]:
    """Yields the images in a list, the only one of an array; of an empty one, its rejection."""
    entries = lists[0].values
    if not entries:
        message = "the list of images is null" if entries is None else "the list has no image"
        empty = Rejection(Reason.NO_IMAGE, message)
        yield name_image(replace(sample, rejection=sample.rejection or empty), name)
    for place in range(len(entries or ())):
        image = _with_image(sample, entries.slice(place, 1))
        yield name_image(image, f"{name}[{place}]")


def _with_image(sample: Sample, image: pa.Array) -> Sample:
    """Returns a sample with the only image of an array, or its rejection."""
    if sample.rejection is not None:
        return sample
    data = pc.struct_field(image, "bytes") if pa.types.is_struct(image.type) else image
    if data.null_count:
        return replace(sample, rejection=Rejection(Reason.NO_IMAGE, _describe_null(image)))
    content = data[0].as_buffer()
    if content.size > MAX_IMAGE_BYTES:
        message = f"{content.size} bytes are more than the {MAX_IMAGE_BYTES} that are read"
        return replace(sample, rejection=Rejection(Reason.CORRUPT, message))
    return replace(sample, data=content.to_pybytes())


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
