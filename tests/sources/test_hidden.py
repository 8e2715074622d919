"""Files whose names begin with a dot are not read, and an image is not passed over in silence."""

import os
import tarfile

import pytest

from tests.makers import fill, jpeg, tar_of
from vqpipe.commands import encode
from vqpipe.errors import ConfigError
from vqpipe.rejections import Reason
from vqpipe.schema import Selection
from vqpipe.sources import HIDDEN, kept_schema, list_shards, members, read_shard


def paths(listing, base):
    return [file.uri.removeprefix(f"{base}/") for shard in listing.shards for file in shard.files]


DOTTED = ["...And Justice for All.jpg", ".5_percent.JPEG", "cat/.png", "x/y/.b.tar", ".c.parquet"]
BESIDE = ["._a.jpg", "cat/._.5_percent.jpg", ".DS_Store", ".a.jpg.Xa3f2", ".gitignore", ".a.txt"]


def test_list_shards_files_that_a_dot_hides_are_counted(base):
    fill(base, "a.jpg", *DOTTED, *BESIDE)
    listing = list_shards(base)
    assert paths(listing, base) == ["a.jpg"]
    assert listing.ignored == {HIDDEN: len(DOTTED)}
    assert listing.unsearched == ()


def test_list_shards_files_that_a_dot_or_an_underscore_hides_are_counted_together(base):
    fill(base, "a.parquet", "_delta_log/0.parquet", "_SUCCESS", ".a.parquet", "..b.parquet")
    assert list_shards(base).ignored == {HIDDEN: 4}


def test_list_shards_folders_that_a_dot_hides_are_named_and_not_searched(base, monkeypatch):
    fill(base, "a.jpg", ".thumbs/c.jpg", ".thumbs/.d.jpg", "x/.d/e/f.jpg", "x/b.jpg", "x/._e/g.jpg")
    searched = []
    monkeypatch.setattr(
        os, "scandir", lambda path, of=os.scandir: searched.append(path) or of(path)
    )
    listing = list_shards(base)
    assert paths(listing, base) == ["a.jpg", "x/b.jpg"]
    assert listing.ignored == {}
    assert listing.unsearched == (f"{base}/.thumbs", f"{base}/x/._e", f"{base}/x/.d")
    assert not any("/." in path.removeprefix(base) for path in searched)


def test_list_shards_links_that_a_dot_hides_are_what_they_lead_to(tmp_path):
    fill(tmp_path, "source/a.jpg", "beside/b.jpg")
    for name, target in {".c": "../beside", ".d.jpg": "a.jpg", ".e.jpg": "gone", ".f": "."}.items():
        (tmp_path / "source" / name).symlink_to(target)
    listing = list_shards(f"{tmp_path}/source")
    assert listing.ignored == {HIDDEN: 2}
    assert listing.unsearched == (f"{tmp_path}/source/.c", f"{tmp_path}/source/.f")
    assert listing.followed == ()


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("{a,.b}.jpg", [".b.jpg", "a.jpg"]),
        ("{x/c,x/.d,...e f}.jpg", ["...e f.jpg", "x/.d.jpg", "x/c.jpg"]),
        ("{.thumbs,x}/[fc].jpg", [".thumbs/f.jpg", "x/c.jpg"]),
        ("{.thumbs,x}", [".thumbs/f.jpg", "x/c.jpg"]),
        ("{.thumbs/f,a}.jpg", [".thumbs/f.jpg", "a.jpg"]),
        (".b.jpg", [".b.jpg"]),
        (".thumbs", [".thumbs/f.jpg"]),
        (".thumbs/*.jpg", [".thumbs/f.jpg"]),
    ],
)
def test_list_shards_hidden_name_that_is_spelled_out_is_taken(base, pattern, found):
    fill(base, "a.jpg", ".b.jpg", "x/c.jpg", "x/.d.jpg", "...e f.jpg", ".thumbs/f.jpg")
    listing = list_shards(f"{base}/{pattern}")
    root = f"{base}/.thumbs" if pattern.startswith(".thumbs") else base
    names = [
        f"{root}/{path.rpartition('/')[2]}" if root != base else f"{root}/{path}" for path in found
    ]
    assert [file.uri for shard in listing.shards for file in shard.files] == names


def test_list_shards_hidden_name_that_is_spelled_out_and_not_there_is_config_error(base):
    fill(base, "a.jpg", ".b.jpg")
    with pytest.raises(ConfigError, match=r"1 do not exist, first .*/\.c\.jpg"):
        list_shards(f"{base}/{{a,.b,.c}}.jpg")
    with pytest.raises(ConfigError, match=r"1 do not exist, first .*/\.x$|1 do not exist.*/\.x:"):
        list_shards(f"{base}/{{a.jpg,.x}}")


@pytest.mark.parametrize(
    ("pattern", "hidden", "folders"),
    [
        ("*.jpg", 1, []),
        ("*", 2, []),
        ("x/*", 1, []),
        ("*/*.jpg", 1, [".git"]),
        ("x/*/*.jpg", 0, ["x/.d"]),
        ("**/*.jpg", 2, [".git", "x/.d"]),
        ("**", 3, [".git", "x/.d"]),
        ("{x,y}", 1, ["x/.d"]),
        ("{a,.b}.jpg", 0, []),
        ("?.jpg", 0, []),
    ],
)
def test_list_shards_pattern_counts_what_it_would_match_without_the_dots(
    tmp_path, pattern, hidden, folders
):
    fill(tmp_path, "a.jpg", "x/b.jpg", "y/c.jpg", "x/z/d.jpg")
    fill(tmp_path, ".b.jpg", ".b.tar", "x/.b.jpg", ".git/x.jpg", "x/.d/e.jpg")
    listing = list_shards(f"{tmp_path}/{pattern}")
    assert listing.ignored.get(HIDDEN, 0) == hidden
    assert listing.unsearched == tuple(f"{tmp_path}/{folder}" for folder in folders)


def test_list_shards_nothing_but_hidden_files_says_so(base):
    fill(base, ".a.jpg", ".b.jpg", "_c.parquet")
    with pytest.raises(ConfigError, match=r"nothing to read.*found 3 hidden"):
        list_shards(base)


def test_introduction_names_what_is_hidden(tmp_path):
    fill(tmp_path, "a.jpg", ".b.jpg", ".cache/c.jpg")
    fields = dict(encode._describe_unread(list_shards(str(tmp_path))))
    assert "1 hidden" in fields["not read"]
    assert f"{tmp_path}/.cache" in fields["not searched"]


def read_tar(tmp_path, data, selection=Selection()):  # noqa: B008 (it is frozen)
    (tmp_path / "x.tar").write_bytes(data)
    listing = list_shards(f"{tmp_path}/x.tar")
    (shard,) = listing.shards
    return list(read_shard(shard, selection, kept_schema(listing, selection)))


def reasons(samples):
    return [(sample.key, sample.rejection and sample.rejection.reason) for sample in samples]


@pytest.mark.parametrize("until", ["first-dot", "last-dot"])
@pytest.mark.parametrize(
    "name",
    [
        "...And Justice for All.jpg",
        ".5_percent.JPG",
        "cat/.jpg",
        ".b.seg.png",
        "cat/..webp",
        "caf\udce9/.a.tiff",
    ],
)
def test_read_shard_hidden_image_in_a_tar_is_a_rejection_that_says_why(tmp_path, name, until):
    members_ = {"a.jpg": b"1", name: b"2", "a.txt": b"text", "b.jpg": b"3"}
    hidden, a, b = read_tar(
        tmp_path, tar_of(members_, tarfile.GNU_FORMAT), Selection(keep=("txt",), key_until=until)
    )
    assert hidden.key == name.replace("\udce9", "\\xe9")
    assert hidden.rejection.reason == Reason.NO_IMAGE
    assert "begins with a dot" in hidden.rejection.message
    assert "rename it" in hidden.rejection.message
    assert (a.key, a.data, a.kept["txt"].to_pylist()) == ("a", b"1", ["text"])
    assert (b.key, b.data) == ("b", b"3")
    assert [sample.row for sample in (hidden, a, b)] == [0, 1, 2]


def test_read_shard_what_tools_leave_in_a_tar_is_no_rejection(tmp_path):
    others = dict.fromkeys(["._a.jpg", "d/.DS_Store", ".a.txt", "__MACOSX/._a.jpg", ".a"], b"x")
    assert reasons(read_tar(tmp_path, tar_of({**others, "a.jpg": b"x"}))) == [("a", None)]


def test_read_shard_many_hidden_images_and_doubles_of_them_are_a_rejection_each(tmp_path):
    data = tar_of([(f".{i % 7}.jpg", b"x") for i in range(70)] + [("a.jpg", b"x")])
    samples = read_tar(tmp_path, data)
    assert len(samples) == 71
    assert {sample.rejection.reason for sample in samples[:-1]} == {Reason.NO_IMAGE}
    assert samples[-1].data == b"x"


def test_read_shard_hidden_name_that_is_the_named_image_is_a_rejection(tmp_path):
    data = tar_of({".a.data": b"x", "b.data": b"y", ".c.txt": b""})
    samples = read_tar(tmp_path, data, Selection(image="data"))
    assert reasons(samples) == [(".a.data", Reason.NO_IMAGE), ("b", None)]


def test_look_judges_keys_without_hidden_names(tmp_path):
    names = [f"{i}.{kind}" for i in range(9) for kind in ("jpg", "txt")]
    data = tar_of(dict.fromkeys([*names, ".5_a.jpg", ".5_b.jpg", ".5_c.jpg"], b"x"))
    (tmp_path / "x.tar").write_bytes(data)
    seen = members.look(list_shards(str(tmp_path)).shards, Selection())
    assert members.judge_keys(seen, Selection()) == "first-dot"


def link(name, kind=tarfile.SYMTYPE):
    header = tarfile.TarInfo(name)
    header.type, header.linkname = kind, "a.txt"
    return header, b""


@pytest.mark.parametrize(
    "members_",
    [
        [(".DS_Store", b"x"), ("._a.jpg", b"x")],
        [("d/._a.jpg", b"x")],
        [link("a.txt"), link("b.json", tarfile.LNKTYPE)],
    ],
)
def test_read_shard_tar_of_which_no_member_is_read_is_a_rejection(tmp_path, members_):
    (sample,) = read_tar(tmp_path, tar_of(members_))
    first = members_[0][0]
    assert sample.key == (first if isinstance(first, str) else first.name)
    assert sample.rejection.reason == Reason.NO_IMAGE
    assert "no member of this tar is read" in sample.rejection.message


def test_read_shard_tar_of_folders_alone_has_no_samples(tmp_path):
    assert (
        read_tar(tmp_path, tar_of([link("a", tarfile.DIRTYPE), link("b", tarfile.DIRTYPE)])) == []
    )
    assert read_tar(tmp_path, tar_of({"._a.jpg": b"", "b.jpg": jpeg()}))[0].data == jpeg()
