"""Names of members, as GNU tar itself lists them."""

import io
import os
import subprocess
import tarfile

import pytest

from tests.makers import jpeg
from vqpipe.rejections import Reason
from vqpipe.schema import Selection
from vqpipe.sources import kept_schema, list_shards, read_shard
from vqpipe.sources.archive import Archive

LONG = "a/" + "folder/" * 16 + "0001.jpg"
MAGIC = slice(257, 265)


def listed(tar):
    """Returns the names that GNU tar lists, without those of folders."""
    found = subprocess.run(
        ["tar", "--quoting-style=literal", "-tf", tar], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return [name for name in found if not name.endswith("/")]


def names(tar):
    with open(tar, "rb") as file, Archive(file) as archive:
        return [member.name for member in archive.members() if member.isreg()]


def fill(folder, *paths):
    for number, path in enumerate(paths):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(jpeg(seed=number) if path.endswith("jpg") else path.encode())
        os.utime(folder / path, (1_700_000_000 + 10**7 * number, 1_600_000_000))


@pytest.mark.parametrize(
    "options",
    [
        ["--format=gnu", "-g", "snar"],
        ["--format=gnu", "-G"],
        ["--format=gnu", "-G", "--sparse"],
        ["--format=gnu", "-G", "-V", "photos.jpg"],
        ["--format=oldgnu", "-G"],
        ["--format=gnu"],
        ["--format=ustar"],
        ["--format=posix"],
        ["--format=v7"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("deep", [[], [LONG, LONG.replace("jpg", "txt")]], ids=["short", "long"])
def test_names_of_members_are_those_that_gnu_tar_lists(tmp_path, options, deep):
    if deep and "v7" in str(options):
        pytest.skip("v7 has no longer names")
    source, tar = tmp_path / "source", tmp_path / "o" / "x.tar"
    tar.parent.mkdir()
    fill(source, "0001.jpg", "0001.txt", "b/0002.jpg", "b/0002.txt", *deep)
    command = ["tar", *options, "--sort=name", "-cf", tar, "-C", source, "."]
    subprocess.run(command, check=True, cwd=tmp_path)
    expected = [name for name in listed(tar) if name != "photos.jpg"]
    assert names(tar) == expected
    listing = list_shards(str(tmp_path / "o"))
    selection = Selection(keep=("txt",))
    samples = list(read_shard(listing.shards[0], selection, kept_schema(listing, selection)))
    images = [name for name in expected if name.endswith("jpg")]
    assert [f"./{sample.key}.jpg" for sample in samples] == images
    for sample in samples:
        assert sample.data == (source / f"{sample.key}.jpg").read_bytes()
        assert sample.kept["txt"].to_pylist() == [f"{sample.key}.txt"]


def with_times(block, times, magic=b"ustar  \0"):
    """Returns a header with bytes where ustar has its prefix, and a correct checksum."""
    block = block[:257] + magic + block[265:345] + times + block[345 + len(times) :]
    block = block[:148] + b" " * 8 + block[156:]
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


@pytest.mark.parametrize(
    "times",
    [b"14544400200\0", b"14544400200\0" * 2, b"\x80" + bytes(7) + b"\x65\x53\xf1\x00", b" " * 12],
    ids=["access", "both", "base_256", "blanks"],
)
@pytest.mark.parametrize("name", ["0001.jpg", "14544400200/0001.jpg", "x/./y.jpg"])
def test_times_in_a_header_of_gnus_own_format_are_no_folder(tmp_path, times, name):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        member = tarfile.TarInfo(name)
        member.size = 3
        tar.addfile(member, io.BytesIO(b"abc"))
    data = buffer.getvalue()
    (tmp_path / "x.tar").write_bytes(with_times(data[:512], times) + data[512:])
    assert names(tmp_path / "x.tar") == listed(tmp_path / "x.tar") == [name]
    (tmp_path / "y.tar").write_bytes(
        with_times(data[:512], b"folder", magic=b"ustar\x0000") + data[512:]
    )
    assert names(tmp_path / "y.tar") == listed(tmp_path / "y.tar") == [f"folder/{name}"]


def test_sparse_member_with_times_keeps_its_map_and_what_follows_it(tmp_path):
    source, tar = tmp_path / "source", tmp_path / "x.tar"
    fill(source, "b.jpg")
    with (source / "a.bmp").open("wb") as file:
        for place in range(0, 40 * 2**16, 2**16):  # more holes than a header has room for
            file.seek(place)
            file.write(b"x" * 4096)
        file.truncate(2**23)
    options = ["--format=gnu", "-G", "-S", "--hole-detection=raw"]
    subprocess.run(["tar", *options, "-cf", tar, "-C", source, "a.bmp", "b.jpg"], check=True)
    (shard,) = list_shards(str(tar)).shards
    sparse, whole = read_shard(shard, Selection(), kept_schema(list_shards(str(tar)), Selection()))
    assert (sparse.key, sparse.rejection.reason) == ("a", Reason.CORRUPT)
    assert str(2**23) in sparse.rejection.message
    assert (whole.key, whole.data) == ("b", (source / "b.jpg").read_bytes())
