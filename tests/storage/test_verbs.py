import contextlib
import errno
import fcntl
import functools
import os
import signal
import subprocess
import sys
import threading

import pytest

from vqpipe import storage
from vqpipe.errors import ConfigError, SourceChangedError, StorageError
from vqpipe.storage import reader

LARGE = bytes(range(256)) * 2**14
S3 = pytest.param("bucket", marks=pytest.mark.s3)


@pytest.fixture(params=["local", S3])
def base(request, tmp_path):
    """URI of an empty place, in a folder and in a bucket."""
    if request.param == "local":
        return str(tmp_path / "store")
    return request.getfixturevalue("bucket") + "/store"


def names(base, **options):
    return [file.uri.removeprefix(base + "/") for file in storage.list_files(base, **options)]


def test_publish_new_object_makes_it_readable(base):
    assert storage.publish(f"{base}/a/b.bin", b"content") is True
    assert storage.read(f"{base}/a/b.bin") == b"content"
    assert storage.stat(f"{base}/a/b.bin").size == 7


def test_publish_existing_object_keeps_the_first(base):
    storage.publish(f"{base}/a", b"first")
    assert storage.publish(f"{base}/a", b"second") is False
    assert storage.read(f"{base}/a") == b"first"


ODD = [
    "q?versionId=1",
    "q?versionId=",
    "50%25",
    "a+b c",
    "br[1]{2}*",
    "hash#1",
    "semi;colon:@",
    "é~^",
]


@pytest.mark.parametrize("odd", ODD)
def test_every_verb_takes_a_name_as_it_is_spelled(base, odd):
    for name in (odd, f"{odd}/below", "q", "q?versionId"):
        storage.publish(f"{base}/x/{name}.bin", name.encode())
        storage.replace(f"{base}/x/{name}.bin", name.encode())
    for name in (odd, f"{odd}/below"):
        uri = f"{base}/x/{name}.bin"
        file = storage.stat(uri)
        assert file in storage.list_files(f"{base}/x")
        assert file in storage.list_source(f"{base}/x").files
        assert storage.read(uri) == storage.read_tail(file, 99) == name.encode()
        with storage.open_file(file) as opened:
            assert opened.read() == name.encode()
        assert storage.publish(uri, b"other") is False
        assert storage.replace_if(file, b"another") is True
        assert storage.read(uri) == b"another"
        storage.delete(uri)
    assert names(f"{base}/x") == ["q.bin", "q?versionId.bin"]


def test_publish_racing_threads_exactly_one_wins(base):
    start = threading.Barrier(4)
    results = {}

    def publish(content):
        start.wait()
        results[content] = storage.publish(f"{base}/deep/er/object", content)

    threads = [threading.Thread(target=publish, args=(b"%d" % i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [content for content, won in results.items() if won]
    assert len(results) == 4
    assert storage.read(f"{base}/deep/er/object") == winner


@pytest.mark.fault(13)
def test_publish_local_interrupted_leaves_nothing(tmp_path):
    with pytest.raises(AttributeError):
        storage.publish(str(tmp_path / "object"), "text, which is neither bytes nor a file")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault(31)
def test_publish_below_a_file_is_storage_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError):
        storage.publish(f"{tmp_path}/file/object", b"content")


@pytest.mark.s3
@pytest.mark.fault(13)
def test_publish_s3_interrupted_leaves_nothing(bucket):
    with pytest.raises(TypeError):
        storage.publish(f"{bucket}/object", object())
    assert storage.list_files(bucket) == []


def test_replace_existing_object_shows_the_new_one(base):
    storage.replace(f"{base}/a", b"first")
    storage.replace(f"{base}/a", b"second")
    assert storage.read(f"{base}/a") == b"second"
    assert names(base) == ["a"]


def test_replace_if_same_version_shows_the_new_one(base):
    storage.publish(f"{base}/a", b"first")
    assert storage.replace_if(storage.stat(f"{base}/a"), b"second") is True
    assert storage.read(f"{base}/a") == b"second"
    (listed,) = storage.list_files(base)
    assert storage.replace_if(listed, b"third") is True
    assert storage.read(f"{base}/a") == b"third"
    assert names(base) == ["a"]


@pytest.mark.parametrize("change", [functools.partial(storage.replace, data=b"x"), storage.delete])
def test_replace_if_other_version_changes_nothing(base, change):
    storage.publish(f"{base}/a", b"first")
    before = storage.stat(f"{base}/a")
    change(f"{base}/a")
    there = [storage.read(file.uri) for file in storage.list_files(base)]
    assert storage.replace_if(before, b"second") is False
    assert [storage.read(file.uri) for file in storage.list_files(base)] == there


def test_replace_if_racing_threads_exactly_one_of_each_round_wins(base):
    """Each adds its name to what is there; none of them may be lost."""
    storage.publish(f"{base}/a", b"")
    won = []

    def add(name):
        for _ in range(8):
            file = storage.stat(f"{base}/a")
            if storage.replace_if(file, storage.read(file.uri) + name):
                won.append(name)

    threads = [threading.Thread(target=add, args=(name,)) for name in (b"a", b"b", b"c", b"d")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(b"".join(won)) == sorted(storage.read(f"{base}/a"))
    assert len(won) >= 8


def test_delete_missing_object_is_fine(base):
    storage.publish(f"{base}/a", b"1")
    storage.delete(f"{base}/a")
    storage.delete(f"{base}/a")
    assert storage.list_files(base) == []


def test_list_files_is_sorted_and_without_hidden_ones(base):
    for name in ["b/2", "b/1", "a", ".hidden", "b/.tmp/3", "c.d"]:
        storage.publish(f"{base}/{name}", b"x")
    assert names(base) == ["a", "b/1", "b/2", "c.d"]
    assert names(base, recursive=False) == ["a", "c.d"]


def test_list_files_after_changes_is_fresh(base):
    assert storage.list_files(base) == []
    storage.publish(f"{base}/a", b"x")
    assert names(base) == ["a"]
    storage.publish(f"{base}/b", b"x")
    assert names(base) == ["a", "b"]
    storage.delete(f"{base}/a")
    assert names(base) == ["b"]


def test_list_files_of_prefix_leaves_out_its_namesakes(base):
    for name in ["run/a", "run2/b", "run.json"]:
        storage.publish(f"{base}/{name}", b"x")
    assert names(f"{base}/run") == ["a"]


def test_list_files_gives_what_stat_gives(base):
    storage.publish(f"{base}/a", b"12345")
    assert storage.list_files(base) == [storage.stat(f"{base}/a")]


@pytest.mark.parametrize("call", [storage.stat, storage.read])
def test_stat_and_read_missing_object_is_file_not_found(base, call):
    storage.publish(f"{base}/folder/a", b"x")
    with pytest.raises(FileNotFoundError):
        call(f"{base}/missing")


def test_stat_folder_is_file_not_found(base):
    storage.publish(f"{base}/folder/a", b"x")
    with pytest.raises(FileNotFoundError):
        storage.stat(f"{base}/folder")


@pytest.mark.parametrize(("size", "tail"), [(3, b"789"), (100, b"0123456789")])
def test_read_tail_returns_the_last_bytes(base, size, tail):
    storage.publish(f"{base}/a", b"0123456789")
    assert storage.read_tail(storage.stat(f"{base}/a"), size) == tail


def test_open_file_reads_and_seeks(base):
    content = bytes(range(256)) * 1000
    storage.publish(f"{base}/a", content)
    with storage.open_file(storage.stat(f"{base}/a")) as file:
        assert file.read(1000) == content[:1000]
        file.seek(-5, 2)
        assert file.read() == content[-5:]
        file.seek(0)
        assert file.read() == content
        file.seek(10**9)
        assert file.read() == b""


@pytest.mark.fault(16)
def test_open_file_replaced_since_listing_is_source_changed(base):
    storage.publish(f"{base}/a", b"old content")
    planned = storage.stat(f"{base}/a")
    storage.replace(f"{base}/a", b"new content")
    with pytest.raises(SourceChangedError, match="changed since"):
        storage.open_file(planned)


@pytest.mark.fault(16)
def test_open_file_vanished_since_listing_is_source_changed(base):
    storage.publish(f"{base}/a", b"content")
    planned = storage.stat(f"{base}/a")
    storage.delete(f"{base}/a")
    with pytest.raises(SourceChangedError, match="gone"):
        storage.open_file(planned)


@pytest.mark.s3
@pytest.mark.fault(16)
@pytest.mark.parametrize("change", [functools.partial(storage.replace, data=b"x"), storage.delete])
def test_open_file_changed_while_reading_is_source_changed(bucket, change):
    size = 3 * reader._READ_AHEAD_BYTES
    storage.publish(f"{bucket}/a", bytes(size))
    with storage.open_file(storage.stat(f"{bucket}/a")) as file:
        file.read(10)
        change(f"{bucket}/a")
        with pytest.raises(SourceChangedError, match="changed while"):
            file.read()


def overwrite(path):
    path.write_bytes(bytes(path.stat().st_size))


def cut(path):
    os.truncate(path, 100)


@pytest.mark.fault(16)
@pytest.mark.parametrize("change", [overwrite, cut])
def test_open_file_local_written_while_reading_is_source_changed(tmp_path, change):
    path = tmp_path / "a"
    path.write_bytes(LARGE)
    os.utime(path, (0, 0))
    with storage.open_file(storage.stat(str(path))) as file:
        assert file.read(10) == LARGE[:10]
        change(path)
        with pytest.raises(SourceChangedError, match=f"{path} changed"):
            file.read()


@pytest.mark.fault(16)
def test_open_file_local_replaced_while_reading_gives_what_was_planned(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(LARGE)
    with storage.open_file(storage.stat(str(path))) as file:
        storage.replace(str(path), LARGE[::-1])
        assert file.read() == LARGE


@pytest.mark.fault(16)
def test_open_file_symbolic_link_is_as_old_as_its_target(tmp_path):
    (tmp_path / "target").write_bytes(b"content")
    os.utime(tmp_path / "target", (0, 0))
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "a").symlink_to(tmp_path / "target")
    (planned,) = storage.list_files(f"{tmp_path}/links")
    assert planned == storage.stat(f"{tmp_path}/links/a")
    with storage.open_file(planned) as file:
        assert file.read() == b"content"
    (tmp_path / "target").write_bytes(b"another")
    with pytest.raises(SourceChangedError, match="changed since"):
        storage.open_file(planned)


@pytest.mark.fault(14)
@pytest.mark.parametrize("write", [storage.publish, storage.replace])
def test_write_full_disk_is_an_error_that_names_it_and_leaves_nothing(small_disk, write):
    storage.publish(f"{small_disk}/folder/before", b"content")
    with pytest.raises(StorageError, match=f"disk is full.*make room on {small_disk}, "):
        write(f"{small_disk}/folder/a", bytes(2**21))
    assert [path.name for path in (small_disk / "folder").iterdir()] == ["before"]
    write(f"{small_disk}/folder/a", bytes(2**10))
    assert (small_disk / "folder" / "a").read_bytes() == bytes(2**10)


DIES = """
import os, signal, sys
from vqpipe import storage

def stop(*_):
    os.kill(os.getpid(), {signal})

os.{call} = stop
storage.{verb}(sys.argv[1], b"content")
"""


def start_dying(uri, verb, call, number):
    script = DIES.format(verb=verb, call=call, signal=int(number))
    return subprocess.Popen([sys.executable, "-c", script, uri])


@pytest.mark.fault(13)
@pytest.mark.parametrize(
    ("verb", "call"), [("publish", "fsync"), ("publish", "link"), ("replace", "replace")]
)
def test_sweep_after_a_killed_writer_leaves_nothing(tmp_path, verb, call):
    uri = f"{tmp_path}/sink/folder/a"
    assert start_dying(uri, verb, call, signal.SIGKILL).wait() == -signal.SIGKILL
    assert len(list((tmp_path / "sink" / "folder").iterdir())) == 1
    assert storage.list_files(f"{tmp_path}/sink") == []
    storage.sweep(f"{tmp_path}/sink")
    assert list((tmp_path / "sink").iterdir()) == []


@pytest.mark.fault(13)
def test_replace_if_after_a_killed_one_takes_its_turn_and_sweep_leaves_nothing(tmp_path):
    uri = f"{tmp_path}/sink/a"
    storage.publish(uri, b"first")
    script = DIES.format(
        verb="replace_if(storage.stat(sys.argv[1]), b'second') or storage.stat",
        call="replace",
        signal=int(signal.SIGKILL),
    ).replace(', b"content")', ")")
    assert subprocess.run([sys.executable, "-c", script, uri]).returncode == -signal.SIGKILL
    left = sorted(path.suffix for path in (tmp_path / "sink").glob(".*"))
    assert left == [".lock", ".tmp"]
    assert storage.replace_if(storage.stat(uri), b"third")
    assert storage.read(uri) == b"third"
    storage.sweep(f"{tmp_path}/sink")
    assert [path.name for path in (tmp_path / "sink").iterdir()] == ["a"]


@pytest.mark.fault(13)
def test_sweep_while_a_writer_is_at_work_leaves_its_file(tmp_path):
    uri = f"{tmp_path}/sink/folder/a"
    (tmp_path / "sink").mkdir()
    (tmp_path / "sink" / ".mine.tmp").write_bytes(b"of somebody else")
    writer = start_dying(uri, "publish", "link", signal.SIGSTOP)
    try:
        os.waitid(os.P_PID, writer.pid, os.WSTOPPED)
        (temporary,) = (tmp_path / "sink" / "folder").iterdir()
        storage.sweep(f"{tmp_path}/sink")
        assert temporary.read_bytes() == b"content"
    finally:
        writer.kill()
        writer.wait()
    storage.sweep(f"{tmp_path}/sink")
    assert [path.name for path in (tmp_path / "sink").iterdir()] == [".mine.tmp"]


LINKS = [errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK]
"""What exFAT, FUSE and SMB say to a hard link."""


def answering(number):
    """Returns a system call that a file system does not have."""

    def call(*_, **__):
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.fault(15)
@pytest.mark.parametrize("number", LINKS)
def test_publish_on_a_disk_without_hard_links_keeps_the_first(tmp_path, monkeypatch, number):
    monkeypatch.setattr(os, "link", answering(number))
    uri = f"{tmp_path}/folder/a"
    assert storage.publish(uri, b"first") is True
    assert storage.publish(uri, b"second") is False
    assert storage.creates_once(uri, b"first")
    assert storage.read(uri) == b"first"
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["a"]


@pytest.mark.fault(15)
def test_publish_racing_threads_on_a_disk_without_hard_links_exactly_one_wins(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(os, "link", answering(errno.EPERM))
    for turn in range(20):
        test_publish_racing_threads_exactly_one_wins(f"{tmp_path}/{turn}")


@pytest.mark.fault(15)
def test_disk_without_links_and_locks_is_said_to_be_for_one_command(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", answering(errno.EPERM))
    monkeypatch.setattr(fcntl, "flock", answering(errno.ENOLCK))
    uri = f"{tmp_path}/folder/a"
    assert storage.publish(uri, b"first") is True
    assert storage.publish(uri, b"second") is False
    assert storage.replace_if(storage.stat(uri), b"third") is True
    assert not storage.creates_once(uri, b"third")
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["a"]


@pytest.mark.fault(13)
def test_sweep_on_a_disk_without_locks_takes_what_is_older_than_a_day(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", answering(errno.ENOLCK))
    old, new = (tmp_path / f".{letter * 32}.tmp" for letter in "ab")
    for path in (old, new):
        path.write_bytes(b"of a writer")
    os.utime(old, (0, 0))
    storage.sweep(str(tmp_path))
    assert [path for path in (old, new) if path.exists()] == [new]


@pytest.mark.fault(31)
def test_bucket_that_is_mounted_as_a_disk_is_told_from_one(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", answering(errno.ENOSYS))
    with pytest.raises(StorageError, match="own address"):
        storage.replace(f"{tmp_path}/a", b"content")


@pytest.fixture
def swept(tmp_path, monkeypatch):
    """Has files that are being written removed, so many times: the last before they get through.

    As on a network file system that does not show others the locks, where a sweep takes any file.
    """
    fsync, left = os.fsync, []

    def sweep_and_fsync(descriptor):
        fsync(descriptor)
        if left:
            left.pop()
            for path in tmp_path.rglob(".*.tmp"):
                path.unlink()

    monkeypatch.setattr(os, "fsync", sweep_and_fsync)
    return left


@pytest.mark.parametrize("write", [storage.publish, storage.replace])
def test_write_that_is_swept_gets_through(tmp_path, swept, write):
    swept += range(5)
    write(f"{tmp_path}/folder/a", b"content")
    assert swept == []
    assert (tmp_path / "folder" / "a").read_bytes() == b"content"
    assert len(list((tmp_path / "folder").iterdir())) == 1


@pytest.mark.parametrize("write", [storage.publish, storage.replace])
def test_write_that_is_always_swept_is_storage_error(tmp_path, swept, write):
    swept += range(10_000)
    with pytest.raises(StorageError, match="removing"):
        write(f"{tmp_path}/folder/a", b"content")
    assert list((tmp_path / "folder").iterdir()) == []


@pytest.mark.s3
@pytest.mark.parametrize(
    "call",
    [
        functools.partial(storage.publish, data=b"x"),
        functools.partial(storage.replace, data=b"x"),
        storage.list_files,
        functools.partial(storage.list_files, recursive=False),
        storage.stat,
        storage.read,
    ],
)
@pytest.mark.usefixtures("s3_server")
def test_missing_bucket_is_storage_error(call):
    with pytest.raises(StorageError, match="no-such-bucket-here"):
        call("s3://no-such-bucket-here/a")


@pytest.mark.fault(32)
@pytest.mark.parametrize("uri", ["http://host/a", "ftp://host/a", "hdfs://host/a"])
def test_normalise_uri_unknown_scheme_is_config_error(uri):
    with pytest.raises(ConfigError, match="not supported"):
        storage.normalise_uri(uri)


@pytest.mark.fault(32)
def test_normalise_uri_with_credentials_is_refused_without_repeating_them():
    with pytest.raises(ConfigError) as caught:
        storage.normalise_uri("s3://user:canary-secret@bucket/a")
    assert "canary" not in str(caught.value)


def test_normalise_uri_relative_path_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert storage.normalise_uri("a/b/") == f"{tmp_path}/a/b"
    assert storage.normalise_uri(f"file://{tmp_path}/a") == f"{tmp_path}/a"
    assert storage.normalise_uri("s3://bucket/a/") == "s3://bucket/a"


def test_delete_and_publish_racing_in_one_folder_both_succeed(tmp_path):
    def churn(name):
        for _ in range(50):
            storage.publish(f"{tmp_path}/shard/{name}", b"x")
            storage.delete(f"{tmp_path}/shard/{name}")

    errors = []

    def guarded(name):
        try:
            churn(name)
        except Exception as error:  # noqa: BLE001 (a thread's failure must reach the test)
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with contextlib.suppress(FileNotFoundError):
        assert list((tmp_path / "shard").iterdir()) == []


@pytest.mark.parametrize("recursive", [True, False])
def test_list_files_refused_by_the_file_system_is_storage_error(tmp_path, recursive):
    with pytest.raises(StorageError):
        storage.list_files(f"{tmp_path}/{'x' * 300}", recursive=recursive)


@pytest.mark.s3
def test_s3_without_keys_is_read_as_nobody_when_told_so(s3_server, bucket, monkeypatch):
    """As `FSSPEC_S3_ANON=true` in the environment has fsspec do."""
    import boto3
    import fsspec.config

    objects = boto3.client("s3", endpoint_url=s3_server)
    public = {"Bucket": bucket.removeprefix("s3://"), "Key": "a", "ACL": "public-read"}
    objects.put_object(**public, Body=b"content")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    storage.forget()
    with pytest.raises(StorageError, match="credentials"):
        storage.read(f"{bucket}/a")
    monkeypatch.setattr(fsspec.config, "conf", {})
    settings = {"FSSPEC_S3_ANON": "true", "FSSPEC_S3_REQUESTER_PAYS": "true"}
    fsspec.config.set_conf_env(fsspec.config.conf, settings)
    storage.forget()
    assert storage.read(f"{bucket}/a") == b"content"
    storage.forget()
