"""Which column of Parquet files is taken for the images, and what is said of the others."""

import io
import itertools

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.makers import encoded, jpeg, picture
from vqpipe.commands.encode import _describe_column
from vqpipe.errors import ConfigError
from vqpipe.schema import Selection
from vqpipe.sources import columns, find_image, find_passed_over, kept_schema, list_shards
from vqpipe.sources import read_shard as read

PHOTO, MASK = jpeg(seed=1), encoded(picture(8, 8), "PNG")
FEATURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
MASKS = pa.array([MASK] * 4)
NPY = io.BytesIO()
np.save(NPY, np.zeros(3, np.float32))


def listing_of(folder, *tables):
    for number, table in enumerate(tables):
        pq.write_table(pa.table(table), folder / f"{number}.parquet")
    return list_shards(str(folder))


def featured(*values):
    return pa.array([value and {"bytes": value, "path": "a.jpg"} for value in values], FEATURE)


UNCLEAR = {
    "null": pa.nulls(4, pa.binary()),
    "empty": pa.array([b""] * 4),
    "null_struct": pa.nulls(4, FEATURE),
    "paths_only": pa.array([{"bytes": None, "path": "a.jpg"}] * 4, FEATURE),
    "list": pa.array([[PHOTO, PHOTO]] * 4),
    "large_list": pa.array([[PHOTO]] * 4, pa.large_list(pa.large_binary())),
    "fixed_list": pa.array([[PHOTO]] * 4, pa.list_(pa.binary(), 1)),
    "list_of_structs": pa.array([[{"bytes": PHOTO, "path": None}]] * 4, pa.list_(FEATURE)),
    "list_of_lists": pa.array([[[PHOTO]]] * 4),
    "map": pa.array([[("front", PHOTO)]] * 4, pa.map_(pa.string(), pa.binary())),
    "dictionary": pa.array([PHOTO] * 4).dictionary_encode(),
    "struct_of_dictionary": pa.StructArray.from_arrays(
        [pa.array([PHOTO] * 4).dictionary_encode()], ["bytes"]
    ),
    "struct_of_images": pa.StructArray.from_arrays([featured(*[PHOTO] * 4)], ["front"]),
}


@pytest.mark.parametrize("name", UNCLEAR)
@pytest.mark.parametrize("order", [("image", "mask"), ("mask", "image")])
def test_find_image_beside_a_column_that_may_hold_images_asks(tmp_path, name, order):
    table = {"image": UNCLEAR[name], "mask": MASKS}
    listing = listing_of(tmp_path, *[{each: table[each] for each in order}] * 3)
    with pytest.raises(ConfigError, match="several columns may hold the images") as caught:
        find_image(listing, Selection())
    for part in ("'image'", "'mask'", "--image"):
        assert part in caught.value.message
    assert find_image(listing, Selection("mask")) == Selection("mask")


@pytest.mark.parametrize(
    "others",
    [
        {"label": [1, 2], "caption": ["a", "b"]},
        {"embedding": pa.array([[1.0, 2.0]] * 2, pa.list_(pa.float32()))},
        {"embedding": pa.array([[1.0, 2.0]] * 2, pa.list_(pa.float32(), 2))},
        {"md5": pa.array([bytes(16)] * 2, pa.binary(16))},
        {"tags": [["a"], ["b", "c"]], "boxes": [[[1, 2, 3, 4]], []]},
        {"meta": [{"hash": b"12", "width": 3}] * 2},
        {"class": pa.array(["cat", "cat"]).dictionary_encode()},
        {"map": pa.array([[("a", 1)]] * 2, pa.map_(pa.string(), pa.int64()))},
        {"nothing": pa.nulls(2), "text": pa.nulls(2, pa.string())},
    ],
    ids="_".join,
)
@pytest.mark.parametrize("image", [pa.array([PHOTO] * 2), featured(PHOTO, PHOTO)], ids=["b", "s"])
def test_find_image_beside_what_can_hold_none_asks_nothing(tmp_path, image, others):
    listing = listing_of(tmp_path, {**others, "image": image})
    selection = find_image(listing, Selection())
    assert selection == Selection("image")
    assert find_passed_over(listing, selection) == []


OTHERS = {
    "phash": pa.array([b"12345678"] * 4),
    "embedding": pa.array([NPY.getvalue()] * 4),
    "audio": featured(*[b"RIFF\x24\0\0\0WAVEfmt "] * 4),
    "html": pa.array([b"<html>"] * 4),
}


@pytest.mark.parametrize("name", OTHERS)
def test_find_image_beside_bytes_that_begin_as_none_takes_it_and_says_so(tmp_path, name):
    listing = listing_of(tmp_path, {name: OTHERS[name], "jpg": [PHOTO] * 4})
    selection = find_image(listing, Selection())
    assert selection == Selection("jpg")
    assert find_passed_over(listing, selection) == [name]
    ((_, said),) = _describe_column(listing, selection)
    assert "'jpg'" in said
    assert f"not read: {name!r}" in said
    kept = Selection("jpg", keep=(name,))
    assert find_passed_over(listing, kept) == [], "it is kept"


def test_column_that_is_taken_is_always_said_and_others_may_be_many(tmp_path):
    plain = listing_of(tmp_path, {"image": [PHOTO], "label": [1]})
    assert _describe_column(plain, Selection("image")) == [("images", "column 'image'")]
    many = {f"view\n{i:02d}": [PHOTO] for i in range(40)}
    listing = listing_of(tmp_path, {"image": [PHOTO], **many})
    ((_, said),) = _describe_column(listing, Selection("image"))
    assert "40 other(s)" in said
    assert "\n" not in said
    (tmp_path / "0.parquet").unlink()
    (tmp_path / "a.jpg").write_bytes(PHOTO)
    assert _describe_column(list_shards(str(tmp_path)), Selection()) == []


def test_column_that_is_named_is_said_with_lists_and_dictionaries_beside_it(tmp_path):
    listing = listing_of(tmp_path, {"mask": MASKS, **UNCLEAR})
    assert find_passed_over(listing, Selection("mask")) == list(UNCLEAR)


@pytest.mark.parametrize(
    ("tables", "found"),
    [
        (["-I", "II"], None),
        (["-I", "NI"], "mask"),
        (["-N", "-I"], "image"),  # as before: the only one that is not ruled out
        (["I-", "IN"], "image"),
        (["--", "IN"], "image"),
        (["--", "-I", "NI"], "mask"),
        (["NN", "NI"], "mask"),
        (["II", "-I"], None),
        (["I-"] * 12, None),
    ],
)
def test_find_image_later_files_tell_of_columns_that_begin_with_nothing(tmp_path, tables, found):
    """I is an image, N is none, - is null."""
    values = {"I": PHOTO, "N": b"12345678", "-": None}
    columns_of = (
        {
            "image": pa.array([values[image]], pa.binary()),
            "mask": pa.array([values[mask]], pa.binary()),
        }
        for image, mask in tables
    )
    listing = listing_of(tmp_path, *columns_of)
    if found:
        assert find_image(listing, Selection()) == Selection(found)
    else:
        with pytest.raises(ConfigError, match="'image', 'mask': name one with --image"):
            find_image(listing, Selection())


@pytest.mark.parametrize("kinds", ["I-", "II", "IL"])
def test_find_image_of_many_files_that_cannot_tell_reads_few(tmp_path, kinds):
    reads = itertools.count()

    def counted(*asked):
        next(reads)
        return read(*asked)

    rows = {"I": pa.array([PHOTO]), "-": pa.nulls(1, pa.binary()), "L": pa.array([[PHOTO]])}
    table = {name: rows[each] for name, each in zip(("a", "b"), kinds, strict=True)}
    listing = listing_of(tmp_path, *[table] * 40)
    with pytest.raises(ConfigError):
        columns.find_image(listing.shards, counted)
    assert next(reads) <= 10, "each may start a process"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("dictionary", "bytes in a dictionary"),
        ("struct_of_dictionary", "deeper in a struct"),
        ("struct_of_images", "deeper in a struct"),
        ("list", "is a list of images"),
        ("list_of_lists", "is a list of images"),
        ("map", "is a map of images"),
    ],
)
def test_column_of_images_that_is_not_read_is_refused_by_name(tmp_path, name, said):
    listing = listing_of(tmp_path, {"photo": UNCLEAR[name], "id": [1, 2, 3, 4]})
    with pytest.raises(ConfigError, match=f"'photo'.*{said}"):
        find_image(listing, Selection())
    with pytest.raises(ConfigError, match=f"'photo'.*{said}"):
        kept_schema(listing, Selection("photo"))


@pytest.mark.parametrize("name", ["dictionary", "list", "list_of_structs", "null"])
def test_images_beside_parquet_that_may_hold_images_are_a_question(tmp_path, name):
    pq.write_table(pa.table({"photo": UNCLEAR[name]}), tmp_path / "a.parquet")
    (tmp_path / "0.jpg").write_bytes(PHOTO)
    with pytest.raises(ConfigError, match="--format"):
        list_shards(str(tmp_path))
