import os
import random
import subprocess

import pytest

from tests.makers import jpeg, tar_of
from vqpipe import storage
from vqpipe.errors import ConfigError, StorageError
from vqpipe.rejections import Reason
from vqpipe.schema import Selection
from vqpipe.sink.plan import Plan
from vqpipe.sources import codes, kept_schema, list_shards, read_shard


def paths(listing, root):
    """Returns the files of a listing, relative to a folder."""
    return [file.uri[len(f"{root}/") :] for shard in listing.shards for file in shard.files]


def fill(folder, *names):
    for name in names:
        storage.publish(f"{folder}/{name}", b"x")


def read(listing):
    return [
        sample
        for shard in listing.shards
        for sample in read_shard(shard, Selection(), kept_schema(listing, Selection()))
    ]


@pytest.mark.parametrize("kind", [".jpg", ".tar", ".parquet"])
def test_list_shards_linked_folder_is_read_under_the_path_in_the_source(tmp_path, kind):
    fill(tmp_path, f"source/dog/0{kind}", f"elsewhere/cat/1{kind}", f"elsewhere/cat/deep/2{kind}")
    (tmp_path / "source" / "cat").symlink_to("../elsewhere/cat")
    listing = list_shards(f"{tmp_path}/source")
    assert paths(listing, tmp_path / "source") == [
        f"cat/1{kind}",
        f"cat/deep/2{kind}",
        f"dog/0{kind}",
    ]
    assert listing.followed == (f"{tmp_path}/source/cat",)
    assert listing.repeated == ()
    assert listing.ignored == {}


def test_list_shards_loops_end_and_a_real_folder_counts_before_a_link_to_it(tmp_path):
    fill(tmp_path, "photos/b/0.jpg", "photos/b/c/1.jpg", "beside/2.jpg")
    for name, target in {
        "a": "b",  # comes before what it leads to
        "b/up": "..",
        "b/c/self": ".",
        "z": "../beside",
        "zz": "../beside",
        "zzz": "..",  # holds photos and beside, which are read already
    }.items():
        (tmp_path / "photos" / name).symlink_to(target)
    listing = list_shards(f"{tmp_path}/photos")
    assert paths(listing, tmp_path / "photos") == ["b/0.jpg", "b/c/1.jpg", "z/2.jpg"]
    assert listing.followed == (f"{tmp_path}/photos/z", f"{tmp_path}/photos/zzz")
    repeated = {uri.removeprefix(f"{tmp_path}/photos/") for uri in listing.repeated}
    assert repeated == {"a", "b/up", "b/c/self", "zz", "zzz/photos", "zzz/beside"}


@pytest.mark.parametrize("seed", range(40))
def test_list_shards_random_links_give_every_file_that_find_reaches_each_once(tmp_path, seed):
    draw = random.Random(seed)
    folders = [tmp_path / "source", tmp_path / "other"]
    for _ in range(6):
        folders.append(draw.choice(folders) / f"d{len(folders)}")
    for number, folder in enumerate(folders):
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.jpg").write_bytes(b"x")
    for number in range(6):
        target = draw.choice(folders)
        (draw.choice(folders) / f"l{number}").symlink_to(target, target_is_directory=True)
    reached = subprocess.run(
        ["find", "-L", tmp_path / "source", "-name", "*.jpg"], capture_output=True, text=True
    ).stdout.split()
    listed = paths(list_shards(f"{tmp_path}/source"), tmp_path / "source")
    real = [os.path.realpath(tmp_path / "source" / path) for path in listed]
    assert sorted(real) == sorted({os.path.realpath(path) for path in reached})


@pytest.mark.parametrize("pattern", ["*/*.jpg", "l/*.jpg", "{l,d}/0.jpg", "**/0.jpg", "[dl]/*.jpg"])
def test_list_shards_pattern_reads_through_a_linked_folder(tmp_path, pattern):
    fill(tmp_path, "source/d/0.jpg", "beside/0.jpg")
    (tmp_path / "source" / "l").symlink_to("../beside")
    (tmp_path / "source" / "l" / "up").symlink_to(tmp_path / "source")
    found = paths(list_shards(f"{tmp_path}/source/{pattern}"), tmp_path / "source")
    assert found[-1] == "l/0.jpg"
    assert len(found) == (1 if pattern.startswith("l/") else 2)


def test_read_shard_link_that_leads_nowhere_is_one_rejection_that_says_so(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg())
    (tmp_path / "b.jpg").symlink_to("../gone/b.jpg")
    (tmp_path / "c.jpg").symlink_to("c.jpg")  # to itself
    os.mkfifo(tmp_path / "d.jpg")  # opening it would wait for a writer
    listing = list_shards(str(tmp_path))
    good, *bad = read(listing)
    assert (good.key, good.data) == ("a.jpg", jpeg())
    assert [sample.key for sample in bad] == ["b.jpg", "c.jpg", "d.jpg"]
    assert {sample.rejection.reason for sample in bad} == {Reason.NO_IMAGE}
    assert "'../gone/b.jpg', which is not there" in bad[0].rejection.message


def test_list_shards_link_that_led_nowhere_is_a_change_once_it_leads_somewhere(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.jpg").symlink_to("../a.jpg")
    before = list_shards(f"{tmp_path}/source")
    assert (
        Plan.of(before.shards).sha256()
        == Plan.of(list_shards(f"{tmp_path}/source").shards).sha256()
    )
    (tmp_path / "a.jpg").write_bytes(jpeg())
    after = list_shards(f"{tmp_path}/source", planned=before.shards)
    assert Plan.of(before.shards).sha256() != Plan.of(after.shards).sha256()
    assert [sample.data for sample in read(after)] == [jpeg()]


@pytest.mark.parametrize(
    ("beside", "link"),
    [
        ("a.tar", "b.tar"),
        ("a.parquet", "b.parquet"),
        ("a.tar", "b"),
        ("a.jpg", "b"),
        ("a.jpg", "b.parquet"),
        ("a.jpg", "b.tar"),
    ],
)
@pytest.mark.parametrize("pattern", ["", "/*", "/**"])
def test_list_shards_link_that_may_stand_for_many_images_is_config_error(
    tmp_path, beside, link, pattern
):
    fill(tmp_path, beside)
    (tmp_path / link).symlink_to("gone")
    with pytest.raises(ConfigError, match=f"{link} is a link to 'gone', which is not there"):
        list_shards(f"{tmp_path}{pattern}")


@pytest.mark.parametrize("pattern", ["*/*.jpg", "{cat,dog}/*.jpg", "**/*.jpg", "?at/0.jpg"])
def test_list_shards_link_to_no_folder_where_a_pattern_goes_through_is_config_error(
    tmp_path, pattern
):
    fill(tmp_path, "dog/0.jpg", "bat/0.jpg")
    (tmp_path / "cat").symlink_to("gone")
    with pytest.raises(ConfigError, match=r"cat.*not"):
        list_shards(f"{tmp_path}/{pattern}")


@pytest.mark.parametrize("link", ["b", "b.parquet"])
def test_list_shards_of_codes_with_a_link_that_leads_nowhere_is_config_error(tmp_path, link):
    fill(tmp_path, "a.parquet")
    (tmp_path / link).symlink_to("gone")
    with pytest.raises(ConfigError, match="which is not there"):
        codes.list_shards(str(tmp_path), "codes")


def test_list_shards_other_links_that_lead_nowhere_are_counted(tmp_path):
    fill(tmp_path, "a.jpg")
    (tmp_path / "notes.txt").symlink_to("gone")
    (tmp_path / ".hidden").symlink_to("gone")
    assert list(list_shards(str(tmp_path)).ignored.values()) == [1]


def test_list_shards_linked_folder_that_may_not_be_listed_is_storage_error(tmp_path, monkeypatch):
    fill(tmp_path, "source/a.jpg", "secret/b.jpg")
    (tmp_path / "source" / "l").symlink_to(tmp_path / "secret")

    def refuse(path, scandir=os.scandir):
        if os.path.realpath(path) == f"{tmp_path}/secret":  # root may list anything
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(StorageError, match="Permission denied"):
        list_shards(f"{tmp_path}/source")


def test_list_files_of_a_sink_follows_no_links(tmp_path):
    fill(tmp_path, "sink/data/a", "beside/b")
    (tmp_path / "sink" / "data" / "l").symlink_to(tmp_path / "beside")
    names = [
        file.uri.removeprefix(f"{tmp_path}/") for file in storage.list_files(f"{tmp_path}/sink")
    ]
    assert "sink/data/l/b" not in names


def test_read_shard_tars_behind_a_link_have_the_names_that_the_source_shows(tmp_path):
    storage.publish(f"{tmp_path}/elsewhere/a.tar", tar_of({"x.jpg": b"image"}))
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "train").symlink_to("../elsewhere")
    listing = list_shards(f"{tmp_path}/source")
    assert [shard.name for shard in listing.shards] == ["train/a"]
    assert [(sample.key, sample.data) for sample in read(listing)] == [("x", b"image")]
