"""Several images of a sample: a row each, in columns, in lists and in tars."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.makers import jpeg, tar_of
from vqpipe.errors import ConfigError
from vqpipe.rejections import Loss, Reason
from vqpipe.schema import Selection
from vqpipe.sources import count_rows, find_image, kept_schema, list_shards, read_shard

L, R = jpeg(seed=1), jpeg(seed=2)
FEATURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def structs(values):
    return values and [each and {"bytes": each, "path": "a.jpg"} for each in values]


def write(folder, **columns):
    pq.write_table(pa.table(columns), folder / "a.parquet", row_group_size=2)
    return list_shards(str(folder))


def read(listing, *images, **selected):
    """Returns samples as (row, key, image, data or reason), read as the images that are named."""
    image = images if len(images) > 1 else images[0]
    selection = find_image(listing, Selection(image, **selected))
    kept = kept_schema(listing, selection)
    (shard,) = listing.shards
    samples = list(read_shard(shard, selection, kept))
    claimed = count_rows(shard, selection)
    assert claimed in {None, len(samples)}
    found = [
        (each.row, each.key, image_of(each), each.data or each.rejection.reason) for each in samples
    ]
    return found, samples


def image_of(sample):
    return sample.kept["image"][0].as_py() if "image" in sample.kept else None


def test_columns_are_rows_side_by_side_in_the_order_given(tmp_path):
    listing = write(tmp_path, left=[L, None, L], id=["a", "b", "a"], right=structs([R, R, R]))
    found, samples = read(listing, "right", "left", key="id", keep=("id",))
    assert found == [
        (0, "a", "right", R),
        (1, "a", "left", L),
        (2, "b", "right", R),
        (3, "b", "left", Reason.NO_IMAGE),
        (4, "a", "right", Reason.DUPLICATE_KEY),
        (5, "a", "left", Reason.DUPLICATE_KEY),
    ]
    assert samples[3].rejection.message == "image 'left': the image is null"
    assert samples[3].rejection.loss is None
    assert [each.kept["id"].to_pylist() for each in samples] == [["a"]] * 2 + [["b"]] * 2 + [
        ["a"]
    ] * 2
    assert count_rows(listing.shards[0], Selection(("right", "left"))) == 6


LISTS = {
    "list": pa.list_(pa.binary()),
    "large_list": pa.large_list(pa.large_binary()),
    "fixed": pa.list_(pa.binary(), 2),
    "structs": pa.list_(FEATURE),
    "large_structs": pa.large_list(FEATURE),
    "fixed_structs": pa.list_(FEATURE, 2),
}


@pytest.mark.parametrize("kind", LISTS.values(), ids=LISTS.keys())
def test_entries_of_a_list_are_rows_named_by_their_places(tmp_path, kind):
    values = [[L, R], [None, R], None]
    if not pa.types.is_fixed_size_list(kind):
        values.append([])
    if pa.types.is_struct(kind.value_type):
        values = list(map(structs, values))
    listing = write(tmp_path, pages=pa.array(values, kind))
    found, samples = read(listing, "pages")
    assert found[:5] == [
        (0, "a/00000000", "pages[0]", L),
        (1, "a/00000000", "pages[1]", R),
        (2, "a/00000001", "pages[0]", Reason.NO_IMAGE),
        (3, "a/00000001", "pages[1]", R),
        (4, "a/00000002", "pages", Reason.NO_IMAGE),
    ]
    said = [each.rejection.message for each in samples[4:]]
    assert said == ["image 'pages': the list of images is null"] + [
        "image 'pages': the list has no image"
    ] * (len(values) - 3)
    assert count_rows(listing.shards[0], Selection(("pages",))) is None


def test_lists_stand_among_several_images(tmp_path):
    listing = write(tmp_path, cover=[L, L], pages=[[R, R], []])
    found, _ = read(listing, "cover", "pages")
    assert [each[2:] for each in found] == [
        ("cover", L),
        ("pages[0]", R),
        ("pages[1]", R),
        ("cover", L),
        ("pages", Reason.NO_IMAGE),
    ]


def test_bad_metadata_costs_all_images_of_its_row_and_no_other(tmp_path):
    text = pa.array([b"a", b"\xff", b"c"]).view(pa.string())
    listing = write(tmp_path, left=[L] * 3, pages=[[R, R]] * 3, text=text)
    found, _ = read(listing, "left", "pages", keep=("text",))
    assert [each[3] for each in found] == [L, R, R, *[Reason.BAD_METADATA] * 3, L, R, R]


def test_row_groups_keep_the_keys_of_their_rows(tmp_path):
    write(tmp_path, left=[L] * 5, right=[R] * 5)
    listing = list_shards(str(tmp_path), max_shard_bytes=1)
    selection = find_image(listing, Selection(("left", "right")))
    kept = kept_schema(listing, selection)
    keys = [each.key for shard in listing.shards for each in read_shard(shard, selection, kept)]
    assert keys == [f"a/{row:08d}" for row in range(5) for _ in range(2)]


def test_damaged_file_loses_all_images_of_its_rows(tmp_path):
    listing = write(tmp_path, left=[L] * 6, right=[R] * 6)
    path = tmp_path / "a.parquet"
    data = bytearray(path.read_bytes())
    start = pq.read_metadata(path).row_group(1).column(0).data_page_offset
    data[start : start + 40] = b"\xff" * 40
    path.write_bytes(data)
    listing = list_shards(str(tmp_path))
    selection = Selection(("left", "right"))
    *_, last = read_shard(listing.shards[0], selection, kept_schema(listing, selection))
    assert last.rejection.reason == Reason.SHARD_DAMAGED
    assert last.rejection.loss == Loss(12 - last.row, "known")


def test_list_alone_is_asked_for_by_name(tmp_path):
    listing = write(tmp_path, pages=[[L]], id=[1])
    with pytest.raises(ConfigError, match="'pages' is a list of images: name it with --image pag"):
        find_image(listing, Selection())
    assert find_image(listing, Selection("pages")) == Selection(("pages",))


def test_list_of_other_bytes_beside_images_asks_nothing(tmp_path):
    listing = write(tmp_path, image=[L], hashes=[[b"1234", b"5678"]])
    assert find_image(listing, Selection()) == Selection("image")


def test_list_in_a_later_file_only_is_refused_by_name(tmp_path):
    write(tmp_path, photo=[L])
    pq.write_table(pa.table({"photo": [[L]]}), tmp_path / "b.parquet")
    listing = list_shards(str(tmp_path))
    with pytest.raises(ConfigError, match=r"b\.parquet: column 'photo' is a list of images"):
        kept_schema(listing, find_image(listing, Selection("photo")))


def test_kept_column_of_our_own_name_is_refused(tmp_path):
    listing = write(tmp_path, left=[L], right=[R], image=["x"])
    assert kept_schema(listing, Selection("left", keep=("image",))).names == ["image"]
    with pytest.raises(ConfigError, match="'image', which the output has already"):
        kept_schema(listing, Selection(("left", "right"), keep=("image",)))


def tar(folder, *members):
    (folder / "a.tar").write_bytes(tar_of(members))
    return list_shards(str(folder))


def test_members_are_rows_side_by_side_whatever_their_order(tmp_path):
    members = [("0.r.png", R), ("0.l.png", L), ("0.x.png", L), ("0.txt", b"t"), ("1.l.png", L)]
    listing = tar(tmp_path, *members, ("2.txt", b"u"), ("1.r.png", R))
    found, samples = read(listing, "l.png", "r.png", keep=("txt",))
    assert found == [
        (0, "0", "l.png", L),
        (1, "0", "r.png", R),
        (2, "1", "l.png", L),
        (3, "1", "r.png", Reason.NO_IMAGE),
        (4, "2", "l.png", Reason.NO_IMAGE),
        (5, "2", "r.png", Reason.NO_IMAGE),
        (6, "1", "l.png", Reason.DUPLICATE_KEY),
        (7, "1", "r.png", Reason.DUPLICATE_KEY),
    ]
    assert [each.passed_over for each in samples] == [1, *[0] * 7]
    assert "image 'r.png': no member is this one; there is .l.png" in samples[3].rejection.message
    assert [each.kept["txt"].to_pylist() for each in samples[:2]] == [["t"], ["t"]]


def test_image_too_large_costs_itself_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("vqpipe.sources.webdataset.MAX_IMAGE_BYTES", len(L))
    listing = tar(tmp_path, ("0.l.png", L), ("0.r.png", bytes(len(L) + 1)))
    found, _ = read(listing, "l.png", "r.png")
    assert [each[3] for each in found] == [L, Reason.CORRUPT]


def test_cut_tar_keeps_the_samples_that_are_whole(tmp_path):
    members = [(f"{i}.{side}.png", L) for i in range(3) for side in "lr"]
    data = tar_of(members)
    (tmp_path / "a.tar").write_bytes(data[: 5 * (len(data) // 7)])
    found, samples = read(list_shards(str(tmp_path)), "l.png", "r.png")
    assert [each[:3] for each in found[:4]] == [
        (0, "0", "l.png"),
        (1, "0", "r.png"),
        (2, "1", "l.png"),
        (3, "1", "r.png"),
    ]
    assert samples[-1].rejection.reason == Reason.SHARD_DAMAGED
    assert len(samples) == samples[-1].row + 1
