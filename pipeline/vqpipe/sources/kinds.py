"""In which Arrow type a column is kept that files of one source have in different ones.

Only what changes no value is done: there is no common type where Arrow would round. Of whole
numbers and floats, of years and nanoseconds, a single value may still not fit; it costs its row.
"""

import pyarrow as pa

_NULL = pa.null()


def plain_kind(kind: pa.DataType, nothing: pa.DataType = _NULL) -> pa.DataType:
    """Returns a type for the same values that says little of how they are stored.

    A dictionary is what it holds, and anything but a map's key may be null.

    Args:
        kind: The type.
        nothing: What stands for nulls in lists, maps and structs.
    """

    def inner(child: pa.DataType) -> pa.DataType:
        return nothing if pa.types.is_null(child) else plain_kind(child, nothing)

    if pa.types.is_dictionary(kind):
        return plain_kind(kind.value_type, nothing)
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(each.name, inner(each.type)) for each in kind])
    if pa.types.is_map(kind):
        return pa.map_(inner(kind.key_type), inner(kind.item_type))
    if _is_list(kind):
        return _list_like(kind, inner(kind.value_type))
    return _OF_VIEWS.get(kind, kind)  # those of lists stay: Arrow 26 casts them to damaged lists


def _list_like(kind: pa.DataType, item: pa.DataType) -> pa.DataType:
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(item, kind.list_size)
    return pa.large_list(item) if pa.types.is_large_list(kind) else pa.list_(item)


_OF_VIEWS = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}


def common_kind(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Returns a type for the values of two types; None if there is none."""
    one, other = plain_kind(one), plain_kind(other)
    if one == other:
        return one
    if pa.types.is_struct(one) and pa.types.is_struct(other):
        return _common_struct(one, other)
    if _is_list(one) and _is_list(other):
        return _common_list(one, other)
    if pa.types.is_map(one) and pa.types.is_map(other):
        key = common_kind(one.key_type, other.key_type)
        item = common_kind(one.item_type, other.item_type)
        return pa.map_(key, item) if key and item else None
    return _common_leaf(one, other)


def _common_struct(one: pa.StructType, other: pa.StructType) -> pa.DataType | None:
    """Returns a struct with the fields of both."""
    fields = {each.name: each.type for each in one}
    if len(fields) < len(one) or len({each.name for each in other}) < len(other):
        return None  # a name twice
    for each in other:
        kind = common_kind(fields[each.name], each.type) if each.name in fields else each.type
        if kind is None:
            return None
        fields[each.name] = kind
    return pa.struct(list(fields.items()))


def _is_list(kind: pa.DataType) -> bool:
    checks = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(check(kind) for check in checks)


def _is_view(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind))


def _common_list(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    item = common_kind(one.value_type, other.value_type)
    if item is None:
        return None
    if any(map(pa.types.is_large_list, (one, other))):
        return pa.large_list(item)
    sizes = {getattr(each, "list_size", None) for each in (one, other)}
    return pa.list_(item, sizes.pop() or -1) if len(sizes) == 1 else pa.list_(item)


def _common_leaf(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    pair = (one, other)
    if any(map(pa.types.is_decimal, pair)) and any(map(pa.types.is_floating, pair)):
        return None  # Arrow would round
    if any(map(_is_view, pair)) and not any(map(pa.types.is_null, pair)):
        return None
    if all(map(pa.types.is_timestamp, pair)) and None not in {one.tz, other.tz}:
        pair = tuple(pa.timestamp(each.unit, "UTC") for each in pair)
    schemas = [pa.schema([("x", each)]) for each in pair]
    try:
        found = pa.unify_schemas(schemas, promote_options="permissive").field("x").type
        for each in (one, other):
            pa.nulls(1, each).cast(found)
    except pa.ArrowException:
        return None
    return found
