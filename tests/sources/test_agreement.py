"""Parquet files of one source, which were not written alike."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.makers import jpeg, tar_of
from tests.sink.runs import facts_of_kept, make_run
from vqpipe.commands.kept import begun_with
from vqpipe.errors import ConfigError, MismatchError
from vqpipe.rejections import Reason
from vqpipe.schema import Selection
from vqpipe.sink.plan import Plan
from vqpipe.sources import find_image, kept_schema, list_shards, read_shard
from vqpipe.sources.kinds import common_kind

IMAGE = b"\x89PNG\r\n\x1a\n..."
SELECTION = Selection("image", keep=("x",))


def write(folder, name, x, metadata=None):
    """Writes a file of images beside the values of `x`."""
    table = pa.table({"image": [IMAGE] * len(x), "x": x})
    pq.write_table(table.replace_schema_metadata(metadata), folder / f"{name}.parquet")


def read(folder, selection=SELECTION):
    """Returns the samples of a source and its kept column, as it is kept."""
    listing = list_shards(str(folder))
    kept = kept_schema(listing, selection)
    samples = [s for shard in listing.shards for s in read_shard(shard, selection, kept)]
    found = [each.kept["x"] for each in samples if each.rejection is None]
    return samples, pa.concat_arrays(found)


US, NS = pa.timestamp("us"), pa.timestamp("ns")
UNIFIED = {
    "null": (pa.nulls(1), pa.array(["a"]), pa.array([None, "a"])),
    "int": (pa.array([1], pa.int32()), pa.array([2**40]), pa.array([1, 2**40])),
    "float": (pa.array([1], pa.float32()), pa.array([0.1]), pa.array([1, 0.1])),
    "int and float": (pa.array([1]), pa.array([0.5]), pa.array([1, 0.5])),
    "time": (pa.array([1], US), pa.array([1], NS), pa.array([1_000, 1], NS)),
    "zones": (
        pa.array([1], pa.timestamp("us", "tzutc()")),
        pa.array([1], pa.timestamp("ns", "+00:00")),
        pa.array([1_000, 1], pa.timestamp("ns", "UTC")),
    ),
    "dictionary": (pa.array(["a"]).dictionary_encode(), pa.array(["b"]), pa.array(["a", "b"])),
    "large": (
        pa.array(["a"], pa.large_string()),
        pa.array(["b"]),
        pa.array(["a", "b"], pa.large_string()),
    ),
    "list": (pa.array([[1]], pa.list_(pa.int8(), 1)), pa.array([[1, 2]]), pa.array([[1], [1, 2]])),
    "struct": (
        pa.array([{"a": 1}], pa.struct([("a", pa.int8())])),
        pa.array([{"b": "x", "a": 300}]),
        pa.array([{"a": 1, "b": None}, {"a": 300, "b": "x"}]),
    ),
    "map": (
        pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int8())),
        pa.array([[("b", 300)]], pa.map_(pa.string(), pa.int64())),
        pa.array([[("a", 1)], [("b", 300)]], pa.map_(pa.string(), pa.int64())),
    ),
}


@pytest.mark.parametrize("name", UNIFIED)
@pytest.mark.parametrize("turned", [False, True])
def test_kept_columns_of_unlike_files_become_one_type_that_holds_all(tmp_path, name, turned):
    one, other, both = UNIFIED[name]
    if turned and name != "struct":  # whose fields come in the order in which they are found
        one, other, both = other, one, both[::-1]
    write(tmp_path, "a", one)
    write(tmp_path, "b", other)
    samples, found = read(tmp_path)
    assert [each.rejection for each in samples] == [None, None]
    assert found.equals(both)


def test_kept_value_that_does_not_fit_the_common_type_costs_its_row(tmp_path):
    write(tmp_path, "a", pa.array([0.5]))
    write(tmp_path, "b", pa.array([2**53, 2**53 + 1]))
    samples, found = read(tmp_path)
    assert [each.rejection and each.rejection.reason for each in samples] == [
        None,
        None,
        Reason.BAD_METADATA,
    ]
    assert found.equals(pa.array([0.5, 2.0**53]))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pa.array(["a"]), pa.array([1])),
        (pa.array([1], US), pa.array([1], pa.timestamp("us", "UTC"))),
        (pa.array(["1.1"]).cast(pa.decimal128(5, 2)), pa.array([1.1])),
        (pa.array([{"a": "1.1"}]), pa.array([{"a": 1.1}])),
        (pa.array([[1]]), pa.array([{"a": 1}])),
        (pa.array([1], pa.date32()), pa.array([1], pa.int32())),
    ],
)
def test_kept_columns_without_a_common_type_name_both_files(tmp_path, one, other):
    write(tmp_path, "a", one)
    write(tmp_path, "b", one)
    write(tmp_path, "c", other)
    with pytest.raises(ConfigError) as raised:
        read(tmp_path)
    for part in (f"in {tmp_path}/a.parquet", str(other.type), f"in {tmp_path}/c.parquet"):
        assert part in raised.value.message
    assert common_kind(one.type, other.type) is None
    assert common_kind(other.type, one.type) is None


def test_stranger_among_the_files_is_named_with_its_columns(tmp_path):
    write(tmp_path, "a", pa.array([1]))
    write(tmp_path, "c", pa.array([1]))
    pq.write_table(pa.table({"file_name": ["a"]}), tmp_path / "b.parquet")
    with pytest.raises(ConfigError) as raised:
        read(tmp_path)
    for part in ("1 of 3 Parquet file(s)", "b.parquet", "columns: file_name (string)", "--source"):
        assert part in raised.value.message
    assert len(read(f"{tmp_path}/[ac].parquet")[0]) == 2


def test_file_that_cannot_be_read_has_no_say_and_is_one_rejection(tmp_path):
    write(tmp_path, "b", pa.array([1]))
    (tmp_path / "a.parquet").write_bytes(b"PAR1 cut short")
    samples, found = read(tmp_path)
    assert samples[0].rejection.reason == Reason.SHARD_DAMAGED
    assert found.equals(pa.array([1]))


def begin(folder):
    """Returns what a run keeps that has begun with all there is, as its sink would say it."""
    listing = list_shards(str(folder))
    kept = kept_schema(listing, SELECTION)
    run = make_run(facts=facts_of_kept(kept), keep=["x"])
    return begun_with(run, Plan.of(listing.shards), ("x",)), kept


def test_new_file_is_held_against_what_the_run_keeps(tmp_path):
    write(tmp_path, "b", pa.array([1], pa.int32()))
    begun, kept = begin(tmp_path)
    write(tmp_path, "a", pa.array([1], pa.int8()))
    assert kept_schema(list_shards(str(tmp_path)), SELECTION, begun).equals(kept)
    write(tmp_path, "c", pa.array([1], pa.int64()))
    with pytest.raises(MismatchError, match=r"'x' as int32, and in .*c\.parquet.* int64"):
        kept_schema(list_shards(str(tmp_path)), SELECTION, begun)


def test_files_of_the_plan_are_not_looked_at_again(tmp_path):
    write(tmp_path, "a", pa.array([1]))
    begun, kept = begin(tmp_path)
    listing = list_shards(str(tmp_path))
    (tmp_path / "a.parquet").unlink()
    assert kept_schema(listing, SELECTION, begun).equals(kept)


def features(**columns):
    said = {name: {"names": names, "_type": "ClassLabel"} for name, names in columns.items()}
    return {"huggingface": json.dumps({"info": {"features": said}})}


def test_names_of_classes_of_kept_columns_come_along(tmp_path):
    write(tmp_path, "a", pa.array([0, 1]), features(x=["cat", "dog"], image=["no"]))
    write(tmp_path, "b", pa.array([1]))
    kept = kept_schema(list_shards(str(tmp_path)), SELECTION)
    said = json.loads(kept.metadata[b"huggingface"])
    assert said == json.loads(features(x=["cat", "dog"])["huggingface"])
    write(tmp_path, "b", pa.array([1]), features(x=["dog", "cat"]))
    with pytest.raises(ConfigError, match=r"'x' have other names in .*b\.parquet"):
        kept_schema(list_shards(str(tmp_path)), SELECTION)


@pytest.mark.parametrize("said", [b"", b"{", b"[]", b'{"info": null}', b"[" * 100_000])
def test_description_that_is_none_is_passed_over(tmp_path, said):
    write(tmp_path, "a", pa.array([1]), {"huggingface": said})
    assert kept_schema(list_shards(str(tmp_path)), SELECTION).metadata is None


HASHES = pa.array([bytes(8)] * 3)


@pytest.mark.parametrize(
    "columns",
    [
        {"image": [None, b"", IMAGE]},
        {"hash": HASHES, "image": [b"<html>", IMAGE, None]},
        {"image": [None] * 3, "hash": HASHES},
    ],
)
def test_find_image_takes_the_column_whose_values_are_images(tmp_path, columns):
    kinds = [("image", pa.binary()), ("hash", pa.binary())][: len(columns)]
    table = pa.table(columns, schema=pa.schema([each for each in kinds if each[0] in columns]))
    pq.write_table(table, tmp_path / "a.parquet")
    assert find_image(list_shards(str(tmp_path)), Selection()) == Selection("image")


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"phash": HASHES}, "'phash' do not begin as images do"),
        ({"a": [IMAGE], "b": [IMAGE]}, "'a', 'b': name one with --image"),
        ({"images": [[{"bytes": IMAGE, "path": None}]]}, "'images' is a list of images"),
        ({"images": [[IMAGE]]}, "'images' is a list of images"),
        ({"text": ["a"]}, "no column holds binary data"),
    ],
)
def test_find_image_in_doubt_asks(tmp_path, columns, said):
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(ConfigError) as raised:
        find_image(list_shards(str(tmp_path)), Selection())
    assert said in raised.value.message
    assert next(iter(columns)) in raised.value.message


def test_image_of_which_only_the_path_is_there_says_what_to_do(tmp_path):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": None, "path": "/photos/0.png"}, None], kind)
    pq.write_table(pa.table({"image": images}), tmp_path / "a.parquet")
    listing = list_shards(str(tmp_path))
    selection = find_image(listing, Selection())
    first, second = read_shard(listing.shards[0], selection, pa.schema([]))
    assert {first.rejection.reason, second.rejection.reason} == {Reason.NO_IMAGE}
    for part in ("bytes are null", "/photos/0.png", "embed_table_storage"):
        assert part in first.rejection.message
    assert second.rejection.message == "the image is null"


@pytest.mark.parametrize("hashes", [False, True])
def test_images_beside_parquet_metadata_are_the_source(tmp_path, hashes):
    for name in ("00000/0", "00001/1"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / f"{name}.jpg").write_bytes(jpeg())
    columns = {"url": ["http://x"], "status": ["success"]} | (
        {"phash": [bytes(8)]} if hashes else {}
    )
    for name in ("00000", "00001"):
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    listing = list_shards(str(tmp_path))
    assert (listing.format, listing.ignored) == ("folder", {".parquet": 2})


def test_images_beside_parquet_with_images_are_a_question(tmp_path):
    (tmp_path / "0.jpg").write_bytes(jpeg())
    pq.write_table(pa.table({"image": [IMAGE]}), tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match="--format"):
        list_shards(str(tmp_path))
    assert list_shards(str(tmp_path), "parquet").format == "parquet"
    (tmp_path / "a.tar").write_bytes(tar_of({"a.jpg": jpeg()}))
    assert list_shards(str(tmp_path), "folder").format == "folder"
