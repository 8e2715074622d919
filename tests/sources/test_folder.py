import pytest

from tests.makers import jpeg
from vqpipe import storage
from vqpipe.errors import ConfigError, SourceChangedError
from vqpipe.rejections import Reason
from vqpipe.schema import Selection
from vqpipe.sources import folder, kept_schema, list_shards, read_shard


def read(listing):
    schema = kept_schema(listing, Selection())
    return [sample for shard in listing.shards for sample in read_shard(shard, Selection(), schema)]


def test_read_shard_folder_gives_relative_paths_in_order(base):
    names = ["b/2.png", "a.JPG", "b/1.jpg", "b/c/d.webp"]
    for name in [*names, "notes.txt", "._a.JPG", ".DS_Store"]:
        storage.publish(f"{base}/images/{name}", name.encode())
    listing = list_shards(f"{base}/images")
    samples = read(listing)
    assert listing.format == "folder"
    assert listing.ignored == {".txt": 1}
    assert [sample.key for sample in samples] == sorted(names)
    assert [sample.data for sample in samples] == [name.encode() for name in sorted(names)]
    assert [sample.row for sample in samples] == [0, 1, 2, 3]


def test_list_shards_folder_of_many_is_cut_into_thousands(tmp_path):
    for i in range(2_001):
        (tmp_path / f"{i:05d}.jpg").write_bytes(b"")
    shards = list_shards(str(tmp_path)).shards
    assert [shard.name for shard in shards] == [f"images-{i:06d}" for i in range(3)]
    assert [len(shard.files) for shard in shards] == [1_000, 1_000, 1]
    assert shards[1].files[0].uri == str(tmp_path / "01000.jpg")


@pytest.mark.parametrize("pattern", ["*/*.jpg", "{x,y}", "{x,y}/?.jpg", "**/[ab].jpg"])
def test_list_shards_pattern_of_images_keeps_their_folders_in_the_keys(tmp_path, pattern):
    for name in ["x/a.jpg", "y/b.jpg"]:
        storage.publish(f"{tmp_path}/{name}", jpeg())
    samples = read(list_shards(f"{tmp_path}/{pattern}"))
    assert [sample.key for sample in samples] == ["x/a.jpg", "y/b.jpg"]


def test_list_shards_single_image_is_a_source(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"content")
    (sample,) = read(list_shards(str(tmp_path / "a.jpg")))
    assert (sample.key, sample.data) == ("a.jpg", b"content")


def test_read_shard_oversized_file_is_rejected_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "MAX_IMAGE_BYTES", 10)
    (tmp_path / "a.jpg").write_bytes(bytes(11))
    (tmp_path / "b.jpg").write_bytes(bytes(10))
    large, small = read(list_shards(str(tmp_path)))
    assert large.rejection.reason == Reason.CORRUPT
    assert small.data == bytes(10)


@pytest.mark.parametrize("change", [storage.delete, lambda uri: storage.replace(uri, b"other")])
def test_read_shard_changed_file_flies(base, change):
    storage.publish(f"{base}/a.jpg", b"content")
    listing = list_shards(base)
    change(f"{base}/a.jpg")
    with pytest.raises(SourceChangedError):
        read(listing)


@pytest.mark.parametrize(
    "selection", [Selection(keep=("txt",)), Selection(key="id"), Selection(image="png")]
)
def test_kept_schema_folder_with_a_selection_is_config_error(tmp_path, selection):
    (tmp_path / "a.jpg").write_bytes(b"x")
    with pytest.raises(ConfigError):
        kept_schema(list_shards(str(tmp_path)), selection)


def test_list_shards_of_a_planned_folder_keep_their_images_and_new_ones_come_behind(tmp_path):
    for name in ("b.jpg", "c.jpg", "d.jpg"):
        (tmp_path / name).write_bytes(b"x")
    planned = list_shards(str(tmp_path)).shards
    for name in ("a.jpg", "e.jpg"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "c.jpg").write_bytes(b"changed")
    (tmp_path / "d.jpg").unlink()
    old, new = list_shards(str(tmp_path), planned=planned).shards
    assert [file.uri.rpartition("/")[2] for file in old.files] == ["b.jpg", "c.jpg"]
    assert [file.size for file in old.files] == [1, 7]
    assert old.name == planned[0].name == "images-000000"
    assert [file.uri.rpartition("/")[2] for file in new.files] == ["a.jpg", "e.jpg"]
    assert new.name == "images-000001"
