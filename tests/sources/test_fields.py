"""Fields of JSON as Arrow has them, held against what Python's own parser and fractions say."""

import json
import math
from fractions import Fraction

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqpipe.errors import ConfigError
from vqpipe.sources.fields import array_of, find, kind_of, parse, parts_of, values_of, whole_number
from vqpipe.sources.kinds import plain_kind

JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False),
        st.text(st.characters(exclude_categories=["Cs"])),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text("abc", max_size=2), inner, max_size=3)
    ),
    max_leaves=8,
)


def kind_for(value):
    """Returns the type in which a column of just this value is kept."""
    own = kind_of(value)
    return own and plain_kind(pa.list_(own), pa.string()).value_type


def equal(found, value):
    """Tells whether Arrow's value is the one of JSON: numbers by what they are, {} is null."""
    if isinstance(value, dict) and isinstance(found, dict):
        rest = found.keys() - value.keys()
        return all(equal(found[name], each) for name, each in value.items()) and not any(
            found[name] is not None for name in rest
        )
    if isinstance(value, list) and isinstance(found, list):
        return len(found) == len(value) and all(map(equal, found, value))
    if value is None or value == {}:
        return found is None
    if isinstance(value, bool | str):
        return found is value or found == value
    return value == found if math.isinf(value) else Fraction(found) == Fraction(value)


@settings(deadline=None)
@given(JSON)
def test_array_of_any_value_holds_just_that_value_or_is_refused(value):
    kind = kind_for(value)
    if kind is None:
        return
    try:
        found = array_of(json.loads(json.dumps(value)), kind)
    except ValueError:
        assert "double" in str(kind), "a whole number among floats that is not exact"
        return
    assert found.type == kind
    found.validate(full=True)
    assert equal(found.to_pylist()[0], value)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (2**53 + 1, pa.float64()),
        (2**63, pa.int64()),
        (10**400, pa.float64()),
        (1.5, pa.int64()),
        (True, pa.int64()),
        (1, pa.bool_()),
        (1, pa.string()),
        ("1", pa.int64()),
        ("\ud800", pa.string()),
        ([1], pa.int64()),
        ([1, "a"], pa.list_(pa.int64())),
        ({"a": 1, "b": 0}, pa.struct([("a", pa.int64())])),
        ({"a": "x"}, pa.struct([("a", pa.int64())])),
        (1, pa.struct([("a", pa.int64())])),
    ],
)
def test_array_of_value_that_its_type_does_not_hold_is_refused(value, kind):
    with pytest.raises(ValueError, match=r"does not fit|has a field"):
        array_of(value, kind)


@pytest.mark.parametrize(
    ("value", "kind", "found"),
    [
        (2**53, pa.float64(), 2.0**53),
        (3.0, pa.int64(), 3),
        ({"a": 1, "b": None}, pa.struct([("a", pa.int64())]), {"a": 1}),
        ({}, pa.string(), None),
        (None, pa.list_(pa.int64()), None),
    ],
)
def test_array_of_value_that_only_looks_different_is_kept(value, kind, found):
    assert array_of(value, kind).to_pylist() == [found]


@pytest.mark.parametrize("value", [[1, "a"], [True, 1], {"a": [{"b": 1}, {"b": "x"}]}, [[1], 2]])
def test_kind_of_lists_of_values_with_nothing_in_common_is_none(value):
    assert kind_of(value) is None


def test_find_goes_from_object_to_object_and_absent_is_null():
    document = {"exif": {"Model": "X"}, "nothing": None, "text": "a.b"}
    assert find(document, ("exif", "Model")) == "X"
    for path in (("exif", "Make"), ("nothing", "Model"), ("other", "deep", "er")):
        assert find(document, path) is None
    with pytest.raises(ValueError, match=r"'b' is looked for in \"a\.b\""):
        find(document, ("text", "b"))


NO_OBJECTS = {
    "empty": b"",
    "cut": b"{",
    "no_utf_8": b"\xff",
    "list": b"[1]",
    "number": b"1",
    "null": b"null",
    "deep": b"[" * 100_000,
    "digits": b"9" * 5_000,
    "more": b'{"a": 1}x',
}


@pytest.mark.parametrize("data", NO_OBJECTS.values(), ids=NO_OBJECTS.keys())
def test_parse_what_is_no_object_is_refused(data):
    with pytest.raises(ValueError, match="it is no JSON"):
        parse(data)


@pytest.mark.parametrize("data", [b"0", b"-7", b" 12\n", b"007", b"9223372036854775807"])
def test_whole_number_of_decimal_text(data):
    assert whole_number(data) == int(data.decode())


@pytest.mark.parametrize(
    "data", [b"", b"a", b"1.0", b"1e3", b"1_000", b"0x10", b"9223372036854775808", b"\xd9\xa1"]
)
def test_whole_number_of_anything_else_is_refused(data):
    with pytest.raises(ValueError, match="is no whole number of 64 bits"):
        whole_number(data)


@pytest.mark.parametrize(
    ("keep", "columns"),
    [
        (("txt", "json", "json:exif.Model"), ["txt", "json", "Model"]),
        (("json:width", "json:key", "a.json:height"), ["json_width", "json_key", "a.json_height"]),
        (("CLS", "JSON:Caption"), ["CLS", "Caption"]),
    ],
)
def test_parts_of_name_columns_by_the_last_part(keep, columns):
    assert [part.column for part in parts_of(keep)] == columns


@pytest.mark.parametrize("name", ["json:", "json:.", ":a", "txt:a", "json.txt:a"])
def test_parts_of_what_names_no_field_is_refused(name):
    with pytest.raises(ConfigError, match="names no field of a JSON member"):
        parts_of((name,))


@pytest.mark.parametrize("keep", [("json:a.x", "json:b.x"), ("caption", "json:caption")])
def test_parts_of_two_fields_of_one_name_are_refused_by_name(keep):
    with pytest.raises(ConfigError) as caught:
        parts_of(keep)
    for name in keep:
        assert name in caught.value.message


def test_values_of_names_the_field_that_does_not_fit():
    parts = parts_of(("json:a", "json:b.c"))
    kinds = {"a": pa.int64(), "c": pa.int64()}
    found = values_of(b'{"a": 9007199254740993, "b": null}', parts, kinds)
    assert {name: each.to_pylist() for name, each in found.items()} == {
        "a": [9007199254740993],
        "c": [None],
    }
    with pytest.raises(ValueError, match=r'^b\.c: "x" does not fit its type, int64$'):
        values_of(b'{"a": 1, "b": {"c": "x"}}', parts, kinds)
