"""What is kept of a tar's members: text, a number, or fields of a JSON document in Arrow's types.

`json:exif.Model` is the field `Model` of the object in the field `exif` of the member `.json`, and
becomes the column `Model`. JSON has fewer types than Arrow: true and false, numbers, text, lists
and objects. A number is a whole one where it is written so, exact in 64 bits or refused. An object
without any field says nothing, and Parquet cannot hold it, so that it counts as null.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from vqpipe.errors import ConfigError
from vqpipe.sources.kinds import common_kind
from vqpipe.sources.names import RESERVED

_INT64 = range(-(2**63), 2**63)
_WHOLE = re.compile(rb"\s*[+-]?[0-9]{1,40}\s*")
_OF_FIELDS = "json"
_WHOLE_NUMBER = "cls"
_SHOWN = 60


@dataclass(frozen=True)
class Part:
    """One thing to keep of a sample in a tar."""

    asked: str
    """As the operator says it: `txt`, `json:exif.Model`."""

    @property
    def member(self) -> str:
        """Extension of its member, in small letters."""
        return self.asked.partition(":")[0].lower()

    @property
    def path(self) -> tuple[str, ...]:
        """Names of fields, from the document inwards; none of what is a member as a whole."""
        return tuple(name for name in self.asked.partition(":")[2].split(".") if name)

    @property
    def column(self) -> str:
        """Name of its column; that of a field whose name the output has itself says whose it is."""
        if not self.path:
            return self.asked
        name = self.path[-1]
        return f"{self.member}_{name}" if name in RESERVED else name

    @property
    def is_number(self) -> bool:
        """Whether it is a class, which webdataset writes as a whole number."""
        return not self.path and self.member.rpartition(".")[2] == _WHOLE_NUMBER

    @property
    def has_type(self) -> bool:
        """Whether its values say which type they are of: all else is text."""
        return bool(self.path) or self.is_number


def parts_of(keep: Sequence[str]) -> list[Part]:
    """Returns what is to be kept of a sample in a tar.

    Raises:
        ConfigError: If one names no field, one of what is no JSON, or two would be one column.
    """
    parts = [Part(name) for name in keep]
    for part in parts:
        if ":" in part.asked and not (part.path and _is_document(part.member)):
            raise ConfigError(
                f"--keep {part.asked} names no field of a JSON member: say it as json:caption, or "
                "json:exif.Model for a field inside another, or leave out what follows the colon "
                "to keep a member's text"
            )
    named: dict[str, Part] = {}
    for part in parts:
        other = named.setdefault(part.column, part)
        if other is not part and other.asked != part.asked:
            raise ConfigError(
                f"--keep names {other.asked} and {part.asked}, which would both be the column "
                f"{part.column!r}: leave one of them out"
            )
    return parts


def _is_document(member: str) -> bool:
    return member.rpartition(".")[2] == _OF_FIELDS


def parse(data: bytes) -> dict[str, Any]:
    """Returns the JSON object that a member holds.

    Raises:
        ValueError: If it is none.
    """
    try:
        found = json.loads(data)
    except RecursionError:
        raise ValueError("it is no JSON that can be read: lists in lists, too many") from None
    except ValueError as error:
        raise ValueError(f"it is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"it is no JSON object, but {_show(found)}")  # noqa: TRY004 (the member's)
    return found


def find(document: Mapping[str, Any], path: Iterable[str]) -> Any:  # noqa: ANN401 (any JSON value)
    """Returns the value of a field; None if it is absent or null, or so is one that it is in.

    Raises:
        ValueError: If a field that it is to be in holds something else than fields.
    """
    value: Any = document
    for name in path:
        if value is None:
            return None
        if not isinstance(value, dict):
            why = f"field {name!r} is looked for in {_show(value)}, which has no fields"
            raise ValueError(why)  # noqa: TRY004 (the member's)
        value = value.get(name)
    return value


def kind_of(value: object) -> pa.DataType | None:
    """Returns the Arrow type of a JSON value; None if what is in its lists has none in common."""
    if isinstance(value, dict):
        fields = [(name, kind_of(each)) for name, each in value.items()]
        is_good = all(kind is not None for _, kind in fields)
        return (pa.struct(fields) if fields else pa.null()) if is_good else None
    if isinstance(value, list):
        item: pa.DataType | None = pa.null()
        for each in value:
            kind = kind_of(each)
            item = None if item is None or kind is None else common_kind(item, kind)
        return None if item is None else pa.list_(item)
    return _OF_LEAVES[type(value)]


_OF_LEAVES = {
    type(None): pa.null(),
    bool: pa.bool_(),
    int: pa.int64(),
    float: pa.float64(),
    str: pa.string(),
}


def array_of(value: object, kind: pa.DataType) -> pa.Array:
    """Returns a JSON value as an array of one, of the type in which its column is kept.

    Raises:
        ValueError: If that type cannot hold it as it is.
    """
    return pa.array([_fitted(value, kind)], kind)


def _fitted(value: Any, kind: pa.DataType) -> Any:  # noqa: ANN401 (any JSON value)
    """Returns a value as Arrow takes it, after checking that nothing of it would be lost."""
    if _is_nothing(value):
        return None
    if pa.types.is_struct(kind) and isinstance(value, dict):
        return _fitted_fields(value, kind)
    if pa.types.is_list(kind) and isinstance(value, list):
        return [_fitted(each, kind.value_type) for each in value]
    if not _holds(kind, value):
        raise ValueError(f"{_show(value)} does not fit its type, {kind}")
    return value


def _is_nothing(value: object) -> bool:
    return value is None or value == {}


def _fitted_fields(value: dict[str, Any], kind: pa.StructType) -> dict[str, Any]:
    known = {each.name: each.type for each in kind}
    more = next(
        (each for each in value if each not in known and not _is_nothing(value[each])), None
    )
    if more is not None:
        raise ValueError(f"{_show(value)} has a field {more!r}, which its type has not, {kind}")
    return {name: _fitted(value.get(name), each) for name, each in known.items()}


def _holds(kind: pa.DataType, value: object) -> bool:
    """Tells whether a type without parts holds a value just as it is."""
    if isinstance(value, bool):
        return bool(pa.types.is_boolean(kind))
    if isinstance(value, str):
        return bool(pa.types.is_string(kind)) and _is_unicode(value)
    if pa.types.is_int64(kind):
        whole = int(value) if isinstance(value, float) and value.is_integer() else value
        return isinstance(whole, int) and whole in _INT64  # a float is looked for one by one
    return bool(pa.types.is_float64(kind)) and is_exact(value)


def is_exact(value: object) -> bool:
    """Tells whether a number is the same one as a float of 64 bits."""
    try:
        return isinstance(value, float) or (isinstance(value, int) and int(float(value)) == value)
    except OverflowError:
        return False


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def whole_number(data: bytes) -> int:
    """Returns the whole number that a member holds as decimal text, as webdataset writes it.

    Raises:
        ValueError: If it is none, or needs more than 64 bits.
    """
    if not _WHOLE.fullmatch(data) or int(data) not in _INT64:
        shown = data[:_SHOWN].decode("utf-8", "backslashreplace")
        raise ValueError(f"{shown!r} is no whole number of 64 bits")
    return int(data)


def _show(value: object) -> str:
    """Returns a JSON value for a message, cut if it is long."""
    try:
        text = json.dumps(value)
    except RecursionError:
        text = "lists in lists"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def values_of(
    data: bytes, parts: Sequence[Part], kinds: Mapping[str, pa.DataType]
) -> dict[str, pa.Array]:
    """Returns what is kept of a member, arrays of one value by column.

    Args:
        data: The member.
        parts: What to keep of it.
        kinds: The type of each column.

    Raises:
        ValueError: If it is not what it must be, or a value does not fit its column.
    """
    found, document = {}, None
    for part in parts:
        kind = kinds[part.column]
        if part.path:
            document = parse(data) if document is None else document
            found[part.column] = _field(document, part, kind)
        elif pa.types.is_integer(kind):
            found[part.column] = pa.array([whole_number(data)], kind)
        else:
            found[part.column] = pa.array([_text(data)], kind)
    return found


def _field(document: Mapping[str, Any], part: Part, kind: pa.DataType) -> pa.Array:
    try:
        return array_of(find(document, part.path), kind)
    except ValueError as error:
        raise ValueError(f"{'.'.join(part.path)}: {error}") from None


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8: {error}") from None
