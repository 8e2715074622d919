"""Arrow values as text and as JSON, all that a column may hold.

Python's own types cannot hold all of it (years above 9999, nanoseconds), or need what may not be
there (the rules of a time zone), so that Arrow makes the text. Times with a zone come out in UTC.
"""

import base64
import math
from decimal import Decimal
from typing import Any

import pyarrow as pa

_DIGITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}
"""Digits behind the point of seconds."""


def texts(values: pa.Array) -> list[str | None]:
    """Returns numbers, times or strings as text; what has none says which type it is of."""
    kind = values.type
    if pa.types.is_duration(kind):
        return [_seconds(each, kind.unit) for each in values.cast(pa.int64()).to_pylist()]
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        found = texts(values.view(pa.timestamp(kind.unit)))
        return [each and f"{each}Z" for each in found]
    try:
        found = values.cast(pa.string())
    except pa.ArrowNotImplementedError:
        return [f"<a {kind}, which has no text>" if each.is_valid else None for each in values]
    return list(found.to_pylist())


def documents(values: pa.Array) -> list[Any]:
    """Returns values as JSON has them: NaN and infinity as null, bytes in base64, maps as pairs."""
    kind = values.type
    if pa.types.is_struct(kind):
        return _structs(values)
    if pa.types.is_nested(kind):
        lists = (each.values if each.is_valid else None for each in values)
        made = [None if each is None else documents(each) for each in lists]
        return [_pairs(each) for each in made] if pa.types.is_map(kind) else made
    if pa.types.is_floating(kind):
        numbers = values.cast(pa.float64()).to_pylist()
        return [each if each is None or math.isfinite(each) else None for each in numbers]
    if is_binary(kind):
        found = values.to_pylist()  # of these b"" is one too
        return [None if each is None else base64.b64encode(each).decode() for each in found]
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind):
        return list(values.to_pylist())
    return list(texts(values))


def is_text(kind: pa.DataType) -> bool:
    """Tells whether a type is that of strings."""
    checks = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(check(kind) for check in checks)


def is_binary(kind: pa.DataType) -> bool:
    """Tells whether a type is that of bytes, of a fixed length or not."""
    return bool(pa.types.is_fixed_size_binary(kind)) or is_bytes(kind)


def is_bytes(kind: pa.DataType) -> bool:
    """Tells whether a type is that of bytes of any length."""
    checks = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    return any(check(kind) for check in checks)


def _structs(values: pa.StructArray) -> list[dict[str, Any] | None]:
    names = [field.name for field in values.type]
    columns = [documents(each) for each in values.flatten()]
    return [
        {name: column[row] for name, column in zip(names, columns, strict=True)} if valid else None
        for row, valid in enumerate(values.is_valid().to_pylist())
    ]


def _pairs(entries: list[Any] | None) -> list[Any] | None:
    return None if entries is None else [list(each.values()) for each in entries]


def _seconds(count: int | None, unit: str) -> str | None:
    """Returns a duration as ISO 8601 has it."""
    if count is None:
        return None
    seconds = Decimal(abs(count)).scaleb(-_DIGITS[unit])
    return f"{'-' if count < 0 else ''}PT{seconds:f}S"
