"""Files that say more of images, read as tables: `metadata.csv`, `.jsonl` and `.parquet`.

Text has no types: Arrow finds them in all of a file, and what it would round is refused.
"""

import functools
import posixpath
import re
from collections.abc import Iterable, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.json as pa_json

from vqpipe import storage
from vqpipe.errors import ConfigError
from vqpipe.schema import File
from vqpipe.sources.columns import columns_of
from vqpipe.sources.damage import ARROW_ERRORS, brief
from vqpipe.sources.fields import is_exact
from vqpipe.sources.parquet_footer import open_parquet

FILE_NAME = "file_name"
MAX_BYTES = 2**30
"""Larger files of text are refused (1 GiB): all of one is read before its types are known."""

_HELD = 4
_HELD_FROM_BYTES = 2**20
"""Smaller files are read again for each shard: there may be one in every folder."""
_MANY_DIGITS = 16
"""A whole number of fewer digits is exact as a float, too."""


def load(file: File, columns: tuple[str, ...]) -> pa.Table:
    """Returns names (`FILE_NAME`, from the file's own folder) and some columns of a file.

    Raises:
        ConfigError: If it cannot be read, or lacks one of them.
        SourceChangedError: If it is not the one that was listed.
    """
    return (_load_and_hold if file.size >= _HELD_FROM_BYTES else _load)(file, columns)


def find_columns(file: File) -> pa.Schema:
    """Returns all columns of a file but the names.

    Raises:
        ConfigError: If it cannot be read.
    """
    schema = _read(file, None).schema
    place = schema.get_field_index(FILE_NAME)
    return schema.remove(place) if place >= 0 else schema


def _load(file: File, columns: tuple[str, ...]) -> pa.Table:
    table = _read(file, columns)
    for name in (FILE_NAME, *columns):
        if table.column_names.count(name) != 1:
            raise ConfigError(
                f"{file.uri} has {table.column_names.count(name)} columns {name!r}, and one is "
                f"needed; {columns_of(table.schema)}"
            )
    return table.select(columns).append_column(FILE_NAME, _normal(file, table[FILE_NAME]))


_load_and_hold = functools.lru_cache(_HELD)(_load)


def _normal(file: File, names: pa.ChunkedArray) -> pa.ChunkedArray:
    """Returns names as listings have them: without `./`, `//` and the slashes of Windows."""
    try:
        names = names.cast(pa.string())
    except pa.ArrowException as error:
        raise ConfigError(f"{file.uri}: column {FILE_NAME!r} is no text: {error}") from error
    if not pc.any(pc.match_substring_regex(names, r"\\|//|(^|/)\.")).as_py():
        return names
    plain = [each and posixpath.normpath(each.replace("\\", "/")) for each in names.to_pylist()]
    return pa.chunked_array([pa.array(plain, pa.string())])


def _read(file: File, columns: Sequence[str] | None) -> pa.Table:
    """Returns columns of a file, of those named the ones that it has; all if none are named."""
    kind = file.uri.rpartition(".")[2]
    if kind != "parquet" and file.size > MAX_BYTES:
        raise ConfigError(
            f"{file.uri} has {file.size:,} bytes, more than the {MAX_BYTES:,} of text that are "
            "read: write it as metadata.parquet"
        )
    try:
        return _READ[kind](file, columns)
    except MemoryError:
        raise  # also an ArrowException
    except ARROW_ERRORS as error:
        raise ConfigError(f"{file.uri} cannot be read: {brief(str(error))}") from error


def _read_parquet(file: File, columns: Sequence[str] | None) -> pa.Table:
    with storage.open_file(file) as opened, open_parquet(opened) as parquet:
        names = parquet.schema_arrow.names
        wanted = names if columns is None else (FILE_NAME, *columns)
        return parquet.read([each for each in names if each in wanted])


def _read_csv(file: File, columns: Sequence[str] | None) -> pa.Table:
    data = _bytes_of(file)
    whole = pa_csv.ReadOptions(block_size=len(data) + 1)  # else later blocks do not have their say
    lines = pa_csv.ParseOptions(newlines_in_values=True)
    table = pa_csv.read_csv(pa.BufferReader(data), whole, lines)
    floats = [each.name for each in table.schema if pa.types.is_floating(each.type)]
    if floats:
        as_text = pa_csv.ConvertOptions(
            column_types=dict.fromkeys(floats, pa.string()), include_columns=floats
        )
        texts = pa_csv.read_csv(pa.BufferReader(data), whole, lines, as_text)
        for name in floats if columns is None else set(floats) & set(columns):
            long = pc.match_substring_regex(texts[name], rf"^\s*[+-]?[0-9]{{{_MANY_DIGITS},}}\s*$")
            _check_exact(name, texts[name].filter(long).to_pylist())
    return table


def _read_jsonl(file: File, columns: Sequence[str] | None) -> pa.Table:
    data = _bytes_of(file)
    whole = pa_json.ReadOptions(block_size=len(data) + 1)
    table = pa_json.read_json(pa.BufferReader(data), whole)
    texts = pa.schema([each.with_type(_without_times(each.type)) for each in table.schema])
    if texts != table.schema:
        options = pa_json.ParseOptions(explicit_schema=texts)
        table = pa_json.read_json(pa.BufferReader(data), whole, options)
    for each in table.schema:
        if pa.types.is_floating(each.type) and (columns is None or each.name in columns):
            name = re.escape(f'"{each.name}"'.encode())
            long = re.compile(name + rb"\s*:\s*(-?[0-9]{%d,})\s*[,}]" % _MANY_DIGITS)
            _check_exact(each.name, [found.decode() for found in long.findall(data)])
    return table


_READ = {"parquet": _read_parquet, "csv": _read_csv, "jsonl": _read_jsonl}


def _bytes_of(file: File) -> bytes:
    with storage.open_file(file) as opened:
        return opened.read()


def _check_exact(name: str, numbers: Iterable[str]) -> None:
    """Refuses whole numbers that the floats of their column do not hold.

    Raises:
        ValueError: If one is not exact.
    """
    wrong = next((each for each in numbers if not is_exact(int(each))), None)
    if wrong is not None:
        raise ValueError(
            f"column {name!r} has {wrong.strip()}, which neither a whole number of 64 bits nor, "
            "with other values, a float holds: write its values as text, or as metadata.parquet"
        )


def _without_times(kind: pa.DataType) -> pa.DataType:
    """Returns a type in which text is text: Arrow takes what looks like a time in JSON for one."""
    if pa.types.is_timestamp(kind):
        return pa.string()
    if pa.types.is_struct(kind):
        return pa.struct([each.with_type(_without_times(each.type)) for each in kind])
    return pa.list_(_without_times(kind.value_type)) if pa.types.is_list(kind) else kind
