import os

import pytest

from tests.makers import fill
from vqpipe import storage
from vqpipe.errors import ConfigError
from vqpipe.sources import HIDDEN, list_shards


def shard_names(source, fmt=None):
    return [shard.name for shard in list_shards(source, fmt).shards]


def test_list_shards_folder_is_searched_at_any_depth_and_sorted(base):
    fill(base, "train/0002.tar", "train/0001.tar", "val/0001.tar", ".tmp/0003.tar", "0.tar")
    listing = list_shards(base)
    assert listing.format == "webdataset"
    assert [shard.name for shard in listing.shards] == [
        "0",
        "train/0001",
        "train/0002",
        "val/0001",
    ]
    there = storage.imprint(storage.stat(f"{base}/train/0001.tar"))
    assert listing.shards[1].files == (there,)
    assert listing.ignored == {}


def test_list_shards_tars_win_over_the_metadata_beside_them(base):
    fill(base, *(f"{i}{kind}" for i in range(3) for kind in (".tar", ".parquet", "_stats.json")))
    fill(base, "README")
    listing = list_shards(base)
    assert listing.format == "webdataset"
    assert [shard.name for shard in listing.shards] == ["0", "1", "2"]
    assert listing.ignored == {".parquet": 3, ".json": 3, "(no extension)": 1}


def test_list_shards_names_that_begin_with_an_underscore_are_hidden_and_counted(base):
    fill(base, "a.parquet", "x/b.parquet", "_delta_log/0.checkpoint.parquet", "_SUCCESS")
    fill(base, "x/_temporary/0/c.parquet", "_metadata", "x/_common_metadata.parquet")
    listing = list_shards(base)
    assert [shard.name for shard in listing.shards] == ["a", "x/b"]
    assert listing.ignored == {HIDDEN: 5}
    assert shard_names(f"{base}/x/_common_metadata.parquet") == ["_common_metadata"]


def test_list_shards_photos_may_begin_with_an_underscore(base):
    fill(base, "_MG_0001.JPG", "_album/a.jpg", "_list.txt")
    listing = list_shards(base)
    assert [file.uri for file in listing.shards[0].files] == [
        f"{base}/_MG_0001.JPG",
        f"{base}/_album/a.jpg",
    ]
    assert listing.ignored == {HIDDEN: 1}


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["a.tgz"], "webdataset"),
        (["a.TAR.GZ", "b.txt"], "webdataset"),
        (["a.parquet", "b.txt"], "parquet"),
        (["a.jpeg", "b.txt"], "folder"),
    ],
)
def test_list_shards_format_is_found_from_extensions(tmp_path, names, found):
    fill(tmp_path, *names)
    assert list_shards(str(tmp_path)).format == found


def test_list_shards_format_that_is_set_wins(tmp_path):
    fill(tmp_path, "a.tar", "a.parquet", "a.jpg")
    listing = list_shards(str(tmp_path), "parquet")
    assert (listing.format, [shard.name for shard in listing.shards]) == ("parquet", ["a"])
    assert listing.ignored == {".tar": 1, ".jpg": 1}


def test_list_shards_unknown_format_is_config_error(tmp_path):
    fill(tmp_path, "a.tar")
    with pytest.raises(ConfigError, match="'tfrecord' is not known"):
        list_shards(str(tmp_path), "tfrecord")


def test_list_shards_single_file_is_named_by_its_stem(base):
    fill(base, "train/0001.tar.gz", "train/0002.tar")
    assert shard_names(f"{base}/train/0001.tar.gz") == ["0001"]


def test_list_shards_names_that_collide_keep_their_extensions(tmp_path):
    fill(tmp_path, "a.tar", "a.tar.gz", "b.tgz", "x/a.tar")
    assert shard_names(str(tmp_path)) == ["a.tar", "a.tar.gz", "b", "x/a"]


def test_list_shards_names_that_still_collide_are_config_error(tmp_path):
    fill(tmp_path, "a.tar", "a.tar.gz", "a.tar.tar")
    with pytest.raises(ConfigError, match=r"'a\.tar'.*rename"):
        list_shards(str(tmp_path))


@pytest.mark.fault(26)
@pytest.mark.s3
@pytest.mark.parametrize("name", ["a/../b.tar", "a//b.tar", "./b.tar"])
def test_list_shards_object_name_that_is_no_safe_path_is_never_a_shard_name(bucket, name):
    import boto3

    boto3.client("s3").put_object(Bucket=bucket.removeprefix("s3://"), Key=name, Body=b"x")
    with pytest.raises(ConfigError):
        list_shards(bucket)


@pytest.mark.fault(26)
def test_list_shards_file_name_that_is_not_utf8_is_config_error(tmp_path):
    with open(os.fsencode(tmp_path) + b"/caf\xe9.tar", "wb"):
        pass
    with pytest.raises(ConfigError, match="UTF-8"):
        list_shards(str(tmp_path))


def test_list_shards_name_that_is_too_long_with_what_a_sink_adds_is_config_error(tmp_path):
    fill(tmp_path, f"{'a' * 220}.tar", "x/b.tar")
    assert len(shard_names(str(tmp_path))) == 2
    fill(tmp_path, f"{'é' * 111}.tar")
    with pytest.raises(ConfigError, match=r"éé\.tar.*222 bytes.*rename"):
        list_shards(str(tmp_path))


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("train/{000..002}.tar", ["000", "001", "002"]),
        ("train/*.tar", ["000", "001", "002", "003"]),
        ("train/00[0-1].tar", ["000", "001"]),
        ("train/00?.tar", ["000", "001", "002", "003"]),
        ("{train,val}/000.tar", ["train/000", "val/000"]),
        ("{train,val}/*.tar", ["train/000", "train/001", "train/002", "train/003", "val/000"]),
        ("{val,deep}", ["deep/er/000", "val/000"]),
        ("*/000.tar", ["train/000", "val/000"]),
        ("**/000.tar", ["deep/er/000", "train/000", "val/000"]),
        ("train/{000,00*}.tar", ["000", "001", "002", "003"]),
    ],
)
def test_list_shards_pattern_names_are_relative_to_the_constant_folder(base, pattern, names):
    fill(base, *(f"train/{i:03d}.tar" for i in range(4)), "train/notes.txt")
    fill(base, "val/000.tar", "deep/er/000.tar")
    assert shard_names(f"{base}/{pattern}") == names


ODD = ["photos [2019]", "what?", "a{b,c}d", "*", "[!x]", "q?versionId=1", "50%25", "a+b #1"]


@pytest.mark.parametrize("odd", ODD)
def test_list_shards_path_that_exists_is_no_pattern(base, odd):
    fill(base, f"{odd}/x.tar", f"{odd}.tar", "photos 2/x.tar", "whats/x.tar", "y/deep/z.tar")
    assert shard_names(f"{base}/{odd}") == ["x"]
    assert shard_names(f"{base}/{odd}/x.tar") == ["x"]
    assert shard_names(f"{base}/{odd}/*.tar") == ["x"]
    assert shard_names(f"{base}/{odd}/{{x,x}}.tar") == ["x"]
    assert shard_names(f"{base}/{odd}.tar") == [odd]


def test_list_shards_path_that_exists_wins_over_what_its_pattern_would_match(base):
    fill(base, "br[1].tar", "br1.tar", "d[1]/a.tar", "d1/b.tar")
    assert shard_names(f"{base}/br[1].tar") == ["br[1]"]
    assert shard_names(f"{base}/d[1]/*.tar") == ["a"]
    assert shard_names(f"{base}/br[[]1].tar") == ["br[1]"]
    assert shard_names(f"{base}/br[0-9].tar") == ["br1"]


def test_list_shards_pattern_longer_than_a_name_may_be_is_a_pattern(base):
    fill(base, "a.tar")
    assert shard_names(f"{base}/{{{','.join(['a'] * 600)}}}.tar") == ["a"]


def test_list_shards_braces_beyond_bracex_own_limit_expand(tmp_path):
    fill(tmp_path, *(f"{i:04d}.tar" for i in range(1_200)))
    assert len(shard_names(f"{tmp_path}/{{0000..1199}}.tar")) == 1_200


def test_list_shards_braces_without_bound_are_config_error(tmp_path):
    with pytest.raises(ConfigError, match="more than 1,000,000"):
        list_shards(f"{tmp_path}/{{0..99999999}}.tar")


@pytest.mark.fault(31)
def test_list_shards_missing_files_of_braces_are_named_and_counted(base):
    fill(base, "000.tar", "003.tar")
    with pytest.raises(ConfigError, match=r"3 do not exist, first .*/001\.tar"):
        list_shards(f"{base}/{{000..004}}.tar")


@pytest.mark.fault(31)
@pytest.mark.parametrize(
    "source", ["", "/missing", "/missing/*.tar", "/missing/a.tar", "/*.parquet"]
)
def test_list_shards_nothing_there_is_config_error(base, source):
    fill(base, "a/b.txt")
    with pytest.raises(ConfigError, match=r"nothing to read|do not exist"):
        list_shards(base + source)


@pytest.mark.fault(31)
def test_list_shards_nothing_to_read_says_what_was_found(tmp_path):
    fill(tmp_path, "a.zip", "b.zip", "c.txt")
    with pytest.raises(ConfigError, match=r"looked for .*\.tar.*found 2 \.zip, 1 \.txt"):
        list_shards(str(tmp_path))
    with pytest.raises(ConfigError, match=r"looked for \.parquet, found"):
        list_shards(str(tmp_path), "parquet")


@pytest.mark.fault(31)
@pytest.mark.parametrize("source", ["", "  "])
def test_list_shards_empty_source_is_config_error(source):
    with pytest.raises(ConfigError, match="empty"):
        list_shards(source)


@pytest.mark.parametrize("source", ["s3://{a,b}/x.tar", "s3://*/x.tar", "s3://a[b]/x.tar"])
def test_list_shards_pattern_in_the_bucket_is_config_error(source):
    with pytest.raises(ConfigError, match=r"bucket|not valid"):
        list_shards(source)


def test_list_shards_source_with_dots_in_its_path_is_fine(tmp_path, monkeypatch):
    fill(tmp_path, "data/a.tar", "other/b.txt")
    monkeypatch.chdir(tmp_path / "other")
    assert shard_names("../data") == ["a"]
    assert shard_names("../data/*.tar") == ["a"]
    assert shard_names("file://" + str(tmp_path / "data")) == ["a"]
