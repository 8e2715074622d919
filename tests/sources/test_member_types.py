"""Types of what is kept of tars are those of the first members, and stay."""

import json

import pyarrow as pa
import pytest

from tests.makers import jpeg, tar_of
from tests.sink.runs import facts_of_kept, make_run
from vqpipe.commands.kept import begun_with
from vqpipe.errors import ConfigError
from vqpipe.rejections import Reason
from vqpipe.schema import Selection
from vqpipe.sink.plan import Plan
from vqpipe.sources import kept_schema, list_shards, members, read_shard


def write(folder, name, *samples, kind="json"):
    """Writes a tar of samples, each with one member: a JSON value, or bytes as they are."""
    found = []
    for number, value in enumerate(samples):
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        found += [(f"{number}.jpg", jpeg()), (f"{number}.{kind}", data)]
    (folder / f"{name}.tar").write_bytes(tar_of(found))


def read(folder, *keep):
    """Returns the kept columns and, by key, what each sample has of them or why it is rejected."""
    listing, selection = list_shards(str(folder)), Selection(keep=keep)
    kept = kept_schema(listing, selection)
    samples = [each for shard in listing.shards for each in read_shard(shard, selection, kept)]
    return kept, [
        (each.rejection.reason, each.rejection.message)
        if each.rejection
        else {name: value.to_pylist()[0] for name, value in each.kept.items()}
        for each in samples
    ]


def test_fields_have_the_types_of_all_values_looked_at(tmp_path):
    first = {"n": 2**60 + 1, "x": 1, "tags": [], "exif": {"Model": "a"}, "flag": True, "no": None}
    then = {"n": None, "x": 1.5, "tags": ["t"], "exif": {"iso": 100}, "flag": None, "no": {}}
    write(tmp_path, "a", first)
    write(tmp_path, "b", then)
    keep = [f"json:{name}" for name in (*first, "exif.Model")]
    kept, found = read(tmp_path, *keep)
    assert {field.name: field.type for field in kept} == {
        "n": pa.int64(),
        "x": pa.float64(),
        "tags": pa.list_(pa.string()),
        "exif": pa.struct([("Model", pa.string()), ("iso", pa.int64())]),
        "flag": pa.bool_(),
        "no": pa.string(),
        "Model": pa.string(),
    }
    exif = [{"Model": "a", "iso": None}, {"Model": None, "iso": 100}]
    assert found == [
        {**first, "exif": exif[0], "Model": "a"},
        {**then, "exif": exif[1], "no": None, "Model": None},
    ]


def test_later_value_that_does_not_fit_costs_its_row_and_names_the_field(tmp_path, monkeypatch):
    monkeypatch.setattr(members, "_MEMBERS", 4)
    write(tmp_path, "a", {"w": 1}, {"w": 2}, {"w": "wide"}, {"w": 10**30}, {}, b"{", {"w": 3})
    kept, found = read(tmp_path, "json:w")
    assert kept.field("w").type == pa.int64()
    assert [each["w"] for each in (*found[:2], found[4], found[6])] == [1, 2, None, 3]
    assert {found[place][0] for place in (2, 3, 5)} == {Reason.BAD_METADATA}
    assert 'w: "wide" does not fit its type, int64' in found[2][1]
    assert "2.json: w: " in found[2][1]
    assert "1000000000000000000000000000000 does not fit" in found[3][1]
    assert "it is no JSON" in found[5][1]


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, "a"), (True, 1), ([1], 1), ({"a": 1}, {"a": "x"}), (2**60 + 1, 1.5), ([0.5], [2**53 + 1])],
)
def test_values_that_no_type_holds_are_refused_with_both_tars(tmp_path, one, other):
    write(tmp_path, "a", {"x": None}, {"x": one})
    write(tmp_path, "b", {}, {"x": other})
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, "json:x")
    for part in ("json:x", "a.tar", "b.tar"):
        assert part in caught.value.message


def test_big_whole_number_at_the_beginning_costs_its_row_only(tmp_path):
    write(tmp_path, "a", {"x": 2**64}, {"x": 1})
    kept, found = read(tmp_path, "json:x")
    assert kept.field("x").type == pa.int64()
    assert found[0][0] == Reason.BAD_METADATA
    assert found[1] == {"x": 1}


def test_field_that_no_document_has_is_refused_with_what_there_is(tmp_path):
    write(tmp_path, "a", {"caption": "a", "exif": {"Model": "X"}})
    for keep, said in (("json:captoin", "did you mean caption?"), ("json:exif.Make", "Model")):
        with pytest.raises(ConfigError) as caught:
            read(tmp_path, keep)
        assert said in caught.value.message


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ((b"3", b"-1\n"), pa.int64()),
        ((b"3", b"cat"), pa.string()),
        ((b"3", b"99999999999999999999"), pa.string()),
    ],
)
def test_classes_are_whole_numbers_unless_they_are_none(tmp_path, values, kind):
    write(tmp_path, "a", *values, kind="cls")
    kept, found = read(tmp_path, "cls")
    assert kept == pa.schema([("cls", kind)])
    read_as = int if pa.types.is_integer(kind) else str
    assert [each["cls"] for each in found] == [read_as(each.decode()) for each in values]


def test_class_that_is_no_number_later_costs_its_row(tmp_path, monkeypatch):
    monkeypatch.setattr(members, "_MEMBERS", 2)
    write(tmp_path, "a", b"3", b"cat", b"4", kind="cls")
    _, found = read(tmp_path, "cls")
    assert found[0] == {"cls": 3}
    assert found[1][0] == Reason.BAD_METADATA
    assert "1.cls: 'cat' is no whole number" in found[1][1]
    assert found[2] == {"cls": 4}


@pytest.mark.parametrize("kinds", [(pa.int64(), pa.string()), (pa.string(), pa.float64())])
def test_run_that_has_begun_keeps_its_types_without_looking(tmp_path, kinds):
    """The second pair is what runs kept before classes were numbers."""
    write(tmp_path, "a", {"x": "none of that"})
    listing, keep = list_shards(str(tmp_path)), ("cls", "json:x")
    kept = pa.schema([("cls", kinds[0]), ("x", kinds[1])])
    run = make_run(facts=facts_of_kept(kept), keep=list(keep))
    begun = begun_with(run, Plan.of(listing.shards), keep)
    (tmp_path / "a.tar").unlink()
    assert kept_schema(listing, Selection(keep=keep), begun).equals(kept)


def test_whole_document_and_its_fields_are_kept_together(tmp_path):
    text = b'{"caption": "\\u00e4", "n": 1.0}'
    write(tmp_path, "a", text)
    _, found = read(tmp_path, "json:caption", "json", "json:n")
    assert found == [{"caption": "ä", "json": text.decode(), "n": 1.0}]
