"""Parquet files with a column of codes, or of latents, made by vqpipe or by other tools.

A value is a list of whole numbers (codes, row-major) or of numbers (latents, as (C, h, w)), of any
width and fixed or variable length; bits of bfloat16 where the column says so (`vector_layout`).
Lists of lists are flattened; their lengths have to be those of
the shape, or of one in which neighbouring dimensions are merged, such as (C, h * w). What comes out
of a row is the data of a `Sample`: int64 or float32, little-endian. Where images differ in their
grids, those of codes begin with its rows and columns.
"""

import itertools
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vqpipe import storage
from vqpipe.errors import ConfigError, StorageError
from vqpipe.rejections import Reason, Rejection
from vqpipe.schema import GRID, Sample, Selection, Shard
from vqpipe.sink.objects import open_object
from vqpipe.sources.agreement import Begun, kept_by_all
from vqpipe.sources.columns import check_column, check_key
from vqpipe.sources.damage import brief
from vqpipe.sources.extensions import extension
from vqpipe.sources.formats import check_obstacles
from vqpipe.sources.keys import Keys
from vqpipe.sources.listing import Listing
from vqpipe.sources.names import check_names, check_unicode, shard_names, visible_files
from vqpipe.sources.parquet import BATCH_ROWS, read_file, unique
from vqpipe.sources.parquet_footer import open_parquet
from vqpipe.sources.patterns import find_files
from vqpipe.sources.values import MAX_VALUE_BYTES, key_of, name_sample
from vqpipe.sources.versions import imprint_shards
from vqpipe.vector_layout import is_bfloat16

Kind = Literal["codes", "latents"]
DTYPE: dict[str, np.dtype[Any]] = {"codes": np.dtype("<i8"), "latents": np.dtype("<f4")}
"""What a sample's bytes are."""

_ENDING = ".parquet"


def list_shards(source: str, kind: Kind) -> Listing:
    """Returns one shard a file; the codes of a sink of ours are `todo.finished`.

    Args:
        source: A folder, a file or a pattern.
        kind: What the column holds.

    Raises:
        ConfigError: If nothing is found, or a file's name cannot be a shard's.
    """
    found = find_files(source)
    seen = visible_files(storage.normalise_uri(source), found.root, found.files)
    files = [file for file in seen if file.uri.endswith(_ENDING)]
    if not files:
        raise ConfigError(
            f"{source} holds no {_ENDING} file: give a sink of vqpipe encode, or Parquet files"
        )
    check_obstacles([file for file in found.files if extension(file.uri) in {"", _ENDING}])
    check_unicode(files)
    names = shard_names(found.root, files)
    shards = [Shard(name, kind, (file,)) for name, file in zip(names, files, strict=True)]
    check_names(shards)
    named = sorted(imprint_shards(shards), key=lambda shard: shard.name)
    return Listing(kind, tuple(named), {}, found.followed, found.repeated)


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
        _check_columns(uri, shards[0].format, schema, selection)
        _check_sizes(uri, shards[0].format, schema.field(_column(selection)), selection.shape)

    return kept_by_all((each.files[0] for each in shards), selection.keep, check, begun)


def read_shard(shard: Shard, selection: Selection, kept: pa.Schema) -> Iterator[Sample]:
    """Yields the rows of a file; `selection.codes` names the column of codes or latents.

    Raises:
        ConfigError: If this file lacks a selected column; files of a source must look alike.
        DamagedError: If it is an object of a run of ours, and not as it was written: what is wrong
            there is nothing that a sample could be rejected for.
    """
    read = _read_foreign if selection.run is None else _read_own
    return read(shard, selection, kept)


def _read_own(shard: Shard, selection: Selection, kept: pa.Schema) -> Iterator[Sample]:
    """Yields the rows of an object in a sink, once all of it has been checked."""
    (listed,) = shard.files
    with open_object(listed) as (file, footer):
        if footer.origin.get("fingerprint") != selection.run:
            raise StorageError(f"{listed.uri} belongs to another run than its sink; remove it")
        yield from _read_rows(shard, file, selection, kept)


def _read_foreign(shard: Shard, selection: Selection, kept: pa.Schema) -> Iterator[Sample]:
    """Yields the rows of a file of any tool; the last one is a rejection if the file is damaged."""
    seen = Keys()
    return read_file(
        shard,
        lambda file: (unique(each, seen) for each in _read_rows(shard, file, selection, kept)),
    )


def _check_columns(uri: str, kind: str, schema: pa.Schema, selection: Selection) -> None:
    name = _column(selection)
    if selection.key:
        check_key(uri, schema, selection.key)
    for each in (name, *selection.keep):
        check_column(uri, schema, each)
    found = schema.field(name).type
    value = found
    while pa.types.is_nested(value) and hasattr(value, "value_type"):
        value = value.value_type
    is_number = pa.types.is_integer(value) or (kind == "latents" and pa.types.is_floating(value))
    if value is found or not is_number:
        wanted = "whole numbers" if kind == "codes" else "numbers"
        raise ConfigError(f"{uri}: column {name!r} is {found}; it must be a list of {wanted}")


def _check_sizes(uri: str, kind: str, column: pa.Field, shape: tuple[int, ...]) -> None:
    """Refuses lists of a fixed size that is not what an image has; of others each row tells."""
    sizes, value = [], column.type
    while pa.types.is_fixed_size_list(value):
        sizes.append(value.list_size)
        value = value.value_type
    if pa.types.is_nested(value):
        return
    found, wanted = math.prod(sizes), math.prod(shape)
    if not _fits(sizes, shape):
        raise ConfigError(
            f"{uri}: column {column.name!r} is {column.type}, {found} numbers a row,"
            f" and {' x '.join(map(str, shape))} {kind} are {wanted}: give the --grid that "
            "they were made with"
        )


def _fits(sizes: Sequence[int], shape: Sequence[int]) -> bool:
    """Tells whether lists of lists of these lengths hold numbers of a shape, in its order.

    So they do if the lengths are the shape's, or arise when neighbouring dimensions are merged.
    """
    ends = {1, *itertools.accumulate(shape, operator.mul)}
    return math.prod(sizes) == math.prod(shape) and ends.issuperset(
        itertools.accumulate(sizes, operator.mul)
    )


def _column(selection: Selection) -> str:
    assert selection.codes is not None, "the column of codes has a name"
    return selection.codes


def _read_rows(
    shard: Shard, file: BinaryIO, selection: Selection, kept: pa.Schema
) -> Iterator[Sample]:
    with open_parquet(file) as parquet:
        _check_columns(shard.files[0].uri, shard.format, parquet.schema_arrow, selection)
        key = [selection.key] if selection.key else []
        grid = [each.name for each in GRID] if selection.has_grids else []
        names = [_column(selection), *key, *grid, *selection.keep, *selection.parts]
        expected, row = parquet.metadata.num_rows, 0
        columns = list(dict.fromkeys(names))
        convert = _find_conversion(shard.format, parquet.schema_arrow.field(_column(selection)))
        for batch in parquet.iter_batches(BATCH_ROWS, columns=columns, use_threads=False):
            for place in range(len(batch)):
                values = batch.slice(place, 1)
                sample = name_sample(row, f"{shard.name}/{row:08d}", values, selection.key, kept)
                parts = [key_of(values.column(name)) or "" for name in selection.parts]
                sample = replace(sample, key="/".join([sample.key or "", *parts]))
                if sample.rejection is None:
                    sample = _with_numbers(sample, values, shard, convert, selection)
                yield sample
                row += 1
        if row != expected:
            raise ValueError(f"the footer claims {expected} rows, and its pages hold {row}")


Convert = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
"""Numbers as they are stored to those of `DTYPE`."""


def _find_conversion(kind: str, column: pa.Field) -> Convert:
    """Returns what makes codes or latents of the numbers in a column."""

    def widen(bits: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return (bits.astype("<u4") << 16).view("<f4")

    if kind == "latents" and is_bfloat16(column.metadata) and _is_of_uint16(column.type):
        return widen
    return operator.methodcaller("astype", DTYPE[kind])


def _is_of_uint16(kind: pa.DataType) -> bool:
    while pa.types.is_nested(kind):
        kind = kind.value_type
    return bool(pa.types.is_uint16(kind))


def _with_numbers(
    sample: Sample, values: pa.RecordBatch, shard: Shard, convert: Convert, selection: Selection
) -> Sample:
    """Returns a sample with the codes or latents of a row, or its rejection."""
    value = values.column(_column(selection))[0]
    if not value.is_valid:
        message = f"the {shard.format} are null"
        return replace(sample, rejection=Rejection(Reason.NO_CODES, message))
    try:
        grid = _grid(values, DTYPE[shard.format]) if selection.has_grids else b""
        return replace(sample, data=grid + _numbers(value, convert, selection.shape))
    except MemoryError:
        raise  # also an ArrowException
    except (pa.ArrowException, ValueError) as error:
        return replace(sample, rejection=Rejection(Reason.BAD_CODES, brief(str(error))))


def _grid(values: pa.RecordBatch, dtype: np.dtype[Any]) -> bytes:
    """Returns rows and columns of a row's grid.

    Raises:
        ValueError: If they are null.
    """
    sides = [values.column(each.name)[0].as_py() for each in GRID]
    if None in sides:
        raise ValueError(f"{' or '.join(each.name for each in GRID)} is null")
    return np.array(sides, dtype).tobytes()


def _numbers(value: pa.Scalar, convert: Convert, shape: tuple[int, ...]) -> bytes:
    """Returns the numbers in a list, or in lists of lists, as bytes.

    Raises:
        ValueError: If there are too many, some are null, or lists in lists are not of that shape.
    """
    size = int(value.values.nbytes)
    if size > MAX_VALUE_BYTES:
        raise ValueError(f"{size} bytes are more than the {MAX_VALUE_BYTES} that are read")
    numbers, sizes = value.values, [len(value.values)]
    while pa.types.is_nested(numbers.type):
        sizes.append(_only_length(numbers))
        numbers = numbers.flatten()
    if len(sizes) > 1 and not _fits(sizes, shape):
        nested, wanted = (" x ".join(map(str, each)) for each in (sizes, shape))
        raise ValueError(f"lists in lists of {nested} numbers, where they should be {wanted}")
    if numbers.null_count:
        raise ValueError(f"{numbers.null_count} of {len(numbers)} numbers are null")
    found: npt.NDArray[Any] = numbers.to_numpy(zero_copy_only=False)
    return convert(found).tobytes()


def _only_length(lists: pa.Array) -> int:
    """Returns the length that all lists have.

    Raises:
        ValueError: If they differ, or there are none.
    """
    found = pc.unique(pc.list_value_length(lists).fill_null(0)).to_pylist()
    if len(found) != 1:
        raise ValueError(f"lists in a list have {len(found)} different lengths")
    return int(found[0])
