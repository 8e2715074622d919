"""Which column of Parquet files holds the images, and which others can be read."""

import contextlib
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import pyarrow as pa

from vqpipe.errors import ConfigError
from vqpipe.schema import File, Sample, Selection, Shard
from vqpipe.sources.contents import is_image
from vqpipe.sources.damage import ARROW_ERRORS
from vqpipe.sources.parquet_footer import extension_name, fetch_schema
from vqpipe.storage.ahead import map_ahead
from vqpipe.texts import is_bytes

Read = Callable[[Shard, Selection, pa.Schema], Iterator[Sample]]
"""`read_shard`, here or in a process of its own."""

_READERS = 32
_FILES_LOOKED_AT = 100
_FILES_ASKED = 8
"""How many files have to tell of the columns beside one that looks like images."""
_COLUMNS_READ = 4
_VALUES, _ROWS = 16, 256
"""How many values, in how many rows, have to tell whether a column holds images."""
_MAX_COLUMNS_TEXT = 2_000


def find_image(shards: Iterable[Shard], read: Read) -> str:
    """Returns the column of images, the only one whose first values are some.

    Where all values at the beginning are null, the type has to do, if no other column holds images.
    A column that may hold images as well, and of which nobody can tell, is a question.

    Args:
        shards: Those of a source; the first ones from which it can be told are looked at.
        read: Reads samples. The first file may be one over which parsers crash.

    Raises:
        ConfigError: If no column is, or several are or may be; says what there is.
    """
    error: ConfigError | None = None
    files = list(dict.fromkeys(shard.files[0] for shard in shards))
    seen: dict[str, bool | None] = {}
    for number, file in enumerate(files[:_FILES_LOOKED_AT]):
        schema = find_schema(file)
        if schema is None:
            continue
        try:
            return _find_in(file, schema, seen, read)
        except ConfigError as found:
            error = error or found
            if any(seen.values()) and not _may_be_told(schema, seen, number):
                break
    raise error or ConfigError(no_footer(files))


def name_images(schema: pa.Schema, names: tuple[str, ...]) -> str | tuple[str, ...]:
    """Returns the columns of images as a selection has them: as a tuple if there may be several."""
    is_list = any(holds_images(schema.field(name).type) for name in names if name in schema.names)
    return names if is_list or len(names) > 1 else names[0]


def find_named(shards: Iterable[Shard], names: tuple[str, ...]) -> str | tuple[str, ...]:
    """Returns named columns as a selection has them, by the first file with a readable footer."""
    return name_images(_first_schema(shards), names)


def _first_schema(shards: Iterable[Shard]) -> pa.Schema:
    files = dict.fromkeys(shard.files[0] for shard in shards)
    schemas = map(find_schema, itertools.islice(files, _FILES_LOOKED_AT))
    return next((each for each in schemas if each is not None), pa.schema([]))


def _may_be_told(schema: pa.Schema, seen: dict[str, bool | None], files: int) -> bool:
    """Tells whether another file may say which of several columns holds the images."""
    is_one = sum(map(bool, seen.values())) == 1
    return is_one and not _unread(schema) and files + 1 < _FILES_ASKED


def find_passed_over(shards: Iterable[Shard], images: Collection[str]) -> list[str]:
    """Returns the columns that may hold images too and are not taken, by the first readable file.

    Args:
        shards: Those of a source.
        images: The columns that are taken.
    """
    return [
        each.name for each in _first_schema(shards) if may_hold(each) and each.name not in images
    ]


def may_hold(column: pa.Field) -> bool:
    """Tells whether a column may hold images, in whatever way."""
    return holds_image(column.type) or _hides(column.type)


def no_footer(files: Sequence[File]) -> str:
    """Returns what to say where no file is what it should be."""
    return (
        f"none of {len(files):,} file(s) is Parquet with a readable footer, the first being "
        f"{files[0].uri}"
    )


def find_schema(file: File) -> pa.Schema | None:
    """Returns the columns of a file; None if its footer cannot be read."""
    try:
        return fetch_schema(file)
    except MemoryError:
        raise  # also an ArrowException
    except ARROW_ERRORS:
        return None


def may_hold_images(files: Sequence[File], read: Read) -> bool:
    """Tells whether any of some Parquet files may hold images, or cannot be looked into."""
    read_yet = 0
    for file, schema in zip(files, map_ahead(find_schema, files, _READERS), strict=True):
        if schema is None or _unread(schema):
            return True
        for name in _candidates(schema) if read_yet < _COLUMNS_READ else ():
            read_yet += 1
            if looks_like_images(file, name, read) is not False:
                return True
    return False


def _find_in(file: File, schema: pa.Schema, seen: dict[str, bool | None], read: Read) -> str:
    """Returns the column of images; adds what a file shows to what others have shown."""
    names = _candidates(schema)
    for name in names:
        if not seen.get(name):
            looks = looks_like_images(file, name, read)
            seen[name] = seen.get(name) if looks is None else looks
    found = [name for name in names if seen[name] is not False]
    found += [each.name for each in _unread(schema)] if found else []
    if len(found) == 1 and not holds_images(schema.field(found[0]).type):
        return found[0]
    raise ConfigError(f"{file.uri}: {_describe(schema, names, found)}; {columns_of(schema)}")


def _describe(schema: pa.Schema, names: list[str], found: list[str]) -> str:
    if len(found) == 1:
        return (
            f"column {found[0]!r} is a list of images: name it with --image {found[0]}, and each "
            "of them becomes a row"
        )
    if found:
        several = ", ".join(map(repr, found))
        return (
            f"several columns may hold the images, {several}: name one with --image, or several of "
            "them, and each image becomes a row"
        )
    unread = [_why_unread(each) for each in _unread(schema)]
    if names:
        only = f"; {unread[0]}" if unread else ""
        return (
            f"the values of {', '.join(map(repr, names))} do not begin as images do; if they are, "
            f"name the column with --image{only}"
        )
    if unread:
        return unread[0]
    return "no column holds binary data; if there is one with images, name it with --image"


def _candidates(schema: pa.Schema) -> list[str]:
    return [each.name for each in schema if _is_read(each.type) and extension_name(each) is None]


def _unread(schema: pa.Schema) -> list[pa.Field]:
    """Returns the columns that may hold images in a way that is not read."""
    return [each for each in schema if not _is_read(each.type) and _hides(each.type)]


def _is_read(kind: pa.DataType) -> bool:
    return holds_image(kind) or holds_images(kind)


def _hides(kind: pa.DataType) -> bool:
    """Tells whether a type holds bytes in lists or dictionaries, or images in structs."""
    if pa.types.is_struct(kind):
        fields = [each.type for each in kind]
        return any(map(_hides, fields)) or any(map(_is_image_struct, fields))
    inner = kind.item_type if pa.types.is_map(kind) else getattr(kind, "value_type", None)
    return inner is not None and (holds_image(inner) or _hides(inner))


def _is_image_struct(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and holds_image(kind)


def _why_unread(column: pa.Field) -> str:
    """Returns why the images of a column are not read, and what to do."""
    name, kind = column.name, column.type
    if pa.types.is_dictionary(kind):
        return (
            f"column {name!r} holds bytes in a dictionary ({kind}), which is not read: write it "
            "anew as plain binary, as Arrow's cast(pa.binary()) makes it"
        )
    if pa.types.is_struct(kind):
        return (
            f"column {name!r} holds bytes deeper in a struct ({kind}), which is not read: write "
            "them anew as a column of plain binary"
        )
    many = "map" if pa.types.is_map(kind) else "list"
    return (
        f"column {name!r} is a {many} of images ({kind}), which is not read: store them as a plain "
        "list of binary values, of which each becomes a row"
    )


def looks_like_images(file: File, name: str, read: Read) -> bool | None:
    """Tells whether the first values of a column look like images; None if there are none."""
    shard, schema = Shard("looked-at", "parquet", (file,)), find_schema(file)
    selection = Selection(image=name_images(schema or pa.schema([]), (name,)))
    with contextlib.closing(read(shard, selection, pa.schema([]))) as samples:  # type: ignore[type-var]
        some = (sample.data for sample in itertools.islice(samples, _ROWS) if sample.data)
        looks = [is_image(image) for image in itertools.islice(some, _VALUES)]
    return any(looks) if looks else None


def holds_image(kind: pa.DataType) -> bool:
    """Tells whether a column of a type may hold images: bytes, or a struct with `bytes`."""
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return bool(index >= 0 and is_bytes(kind.field(index).type))
    return is_bytes(kind)


def holds_images(kind: pa.DataType) -> bool:
    """Tells whether a column of a type may hold a list of images in each row."""
    checks = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(check(kind) for check in checks) and holds_image(kind.value_type)


def check_image(uri: str, schema: pa.Schema, name: str, *, may_be_list: bool) -> pa.DataType:
    """Returns the type of a column of images.

    Raises:
        ConfigError: If it is not there, or cannot hold any.
    """
    check_column(uri, schema, name)
    field = schema.field(name)
    if holds_images(field.type) and not may_be_list:
        raise ConfigError(
            f"{uri}: column {name!r} is a list of images, and holds one in a row elsewhere: write "
            f"one of the two anew; {columns_of(schema)}"
        )
    if not _is_read(field.type):
        plain = f"column {name!r} is {field.type}, and an image is binary or struct<bytes: binary>"
        why = _why_unread(field) if _hides(field.type) else plain
        raise ConfigError(f"{uri}: {why}; {columns_of(schema)}")
    return field.type


def check_key(uri: str, schema: pa.Schema, name: str) -> None:
    """Checks that a column can hold keys.

    Raises:
        ConfigError: If not.
    """
    check_column(uri, schema, name)
    kind = schema.field(name).type
    if pa.types.is_nested(kind):
        raise ConfigError(
            f"{uri}: column {name!r} is {kind}, and a key is text, a number or a time; "
            f"{columns_of(schema)}"
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
