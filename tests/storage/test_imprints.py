"""Which changes of files on a disk are seen, and which are none."""

import os
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.makers import jpeg, tar_of
from vqpipe import storage
from vqpipe.errors import SourceChangedError
from vqpipe.schema import File, Shard
from vqpipe.sink.growth import Growth
from vqpipe.sink.plan import Plan
from vqpipe.sources import list_shards
from vqpipe.sources.versions import imprint_shards

KINDS = ["tar", "parquet", "folder"]


def content(kind, seed):
    """Returns files of one kind, whose sizes do not depend on the seed."""
    images = [jpeg(40, 30, seed=3 * seed + i).ljust(3_000, b"\0") for i in range(3)]
    if kind == "tar":
        return {"0.tar": tar_of({f"{i}.jpg": image for i, image in enumerate(images)})}
    if kind == "parquet":
        sink = pa.BufferOutputStream()
        table = pa.table({"jpg": images, "id": [str(i) for i in range(3)]})
        pq.write_table(table, sink, compression="none", use_dictionary=False)
        return {"0.parquet": sink.getvalue().to_pybytes()}
    return {f"{i}.jpg": image for i, image in enumerate(images)}


def write(folder, files):
    """Writes files of one and the same date, as tools do that are to build the same twice."""
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
        os.utime(folder / name, (0, 0))


def plan_of(folder):
    return Plan.of(list_shards(str(folder)).shards)


@pytest.mark.fault(16)
@pytest.mark.parametrize("kind", KINDS)
def test_source_replaced_with_size_and_time_kept_is_seen(tmp_path, kind):
    source = tmp_path / "source"
    write(source, content(kind, 0))
    before = plan_of(source)
    sizes = [file.size for file in before.shards()[0].files]
    write(source, content(kind, 1))
    after = plan_of(source)
    assert [file.size for file in after.shards()[0].files] == sizes
    with pytest.raises(SourceChangedError, match="1 changed"):
        before.grow(after, Growth(), "codes/")
    for file in before.shards()[0].files:
        with pytest.raises(SourceChangedError, match="changed since"):
            storage.open_file(file)


def chmod(folder):
    for path in folder.iterdir():
        path.chmod(0o600)


def link(folder):
    for path in folder.iterdir():
        os.link(path, folder.parent / path.name)


def move(folder):
    """As to another disk: other inodes, and other times of status change."""
    shutil.copytree(folder, folder.parent / "moved", copy_function=shutil.copy2)
    shutil.rmtree(folder)
    (folder.parent / "moved").rename(folder)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", [chmod, link, move])
def test_source_whose_content_stays_is_the_same(tmp_path, kind, change):
    source = tmp_path / "source"
    write(source, content(kind, 0))
    before = plan_of(source)
    change(source)
    assert before.grow(plan_of(source), Growth(), "codes/") is before
    for file in before.shards()[0].files:
        with storage.open_file(file) as opened:
            assert len(opened.read()) == file.size


@pytest.mark.fault(16)
def test_file_written_in_place_while_it_is_read_is_seen_with_its_time_kept(tmp_path):
    source = tmp_path / "source"
    write(source, {"0.tar": tar_of({"0.jpg": bytes(2**22)})})
    (file,) = plan_of(source).shards()[0].files
    with storage.open_file(file) as opened:
        opened.read(10)
        (source / "0.tar").chmod(0o600)
        opened.seek(2**21)
        opened.read(10)
        write(source, {"0.tar": tar_of({"1.jpg": bytes(2**22)})})
        opened.seek(0)
        with pytest.raises(SourceChangedError, match="changed since"):
            opened.read(10)


@pytest.mark.parametrize("size", [0, 1, 2**14, 2**14 + 1, 2**15, 2**15 + 1, 10**6])
def test_imprint_is_of_the_first_and_the_last_bytes(tmp_path, size):
    path = tmp_path / "a"
    data = bytes(size)
    path.write_bytes(data)
    plain = storage.stat(str(path))
    first = storage.imprint(plain)
    assert first.version.startswith(plain.version + "/")
    for place in {0, size - 1} & set(range(size)):
        path.write_bytes(data[:place] + b"x" + data[place + 1 :])
        assert storage.imprint(plain).version != first.version
    path.write_bytes(data)
    assert storage.imprint(plain) == first


def test_imprint_of_a_file_that_is_gone_or_in_a_store_leaves_it_as_it_is(tmp_path):
    (tmp_path / "a").write_bytes(b"x")
    file = storage.stat(str(tmp_path / "a"))
    (tmp_path / "a").unlink()
    assert storage.imprint(file) == file
    remote = File("s3://bucket/a", 1, "etag")
    assert storage.imprint(remote) == remote


def test_version_of_a_folder_shard_needs_few_of_its_images(tmp_path):
    """To open each of a million images is the work of the run itself."""
    write(tmp_path / "source", {f"{i:03}.jpg": jpeg(40, 30) for i in range(50)})
    (shard,) = list_shards(str(tmp_path / "source")).shards
    assert sum("/" in file.version for file in shard.files) == 8
    with storage.open_file(shard.files[0]) as opened:
        assert opened.read() == jpeg(40, 30)


def test_imprint_shards_opens_nothing_that_is_no_file(tmp_path):
    """A pipe would wait for a writer."""
    os.mkfifo(tmp_path / "0.tar")
    (listed,) = storage.list_source(str(tmp_path)).files
    shard = Shard("0", "webdataset", (listed,))
    assert imprint_shards([shard]) == [shard]
