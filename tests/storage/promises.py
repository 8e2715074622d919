"""What any store must do, whatever happens to its requests; held against a truth of its own.

A truth reads and writes objects by other means than ours: `read(uri)`, `write(uri, data)`.
"""

import functools
from dataclasses import replace

import numpy as np
import pytest

from tests.sink import runs
from tests.storage.fault_proxy import Faults
from vqpipe import storage
from vqpipe.errors import StorageError
from vqpipe.sink.commit import commit_rows
from vqpipe.storage import reader, retries

READ_AHEAD_BYTES = 2**18
SHORT = [("tail", "cut"), ("tail", "shorten"), ("open", "cut"), ("open", "shorten")]
SHORT += [("whole", "cut")]
"""Ways to read, and what may happen to a body."""
VERBS = {
    "list": storage.list_files,
    "list one": functools.partial(storage.list_files, recursive=False),
    "stat": storage.stat,
    "read": storage.read,
    "publish": functools.partial(storage.publish, data=b"x"),
    "replace": functools.partial(storage.replace, data=b"x"),
    "delete": storage.delete,
}
"""Whatever asks a store for something, by name."""


def large(read_aheads):
    """Returns bytes that take more than so many requests where reads are small."""
    return np.random.default_rng(0).bytes(read_aheads * READ_AHEAD_BYTES + 12345)


def make_reads_small(patch):
    """Makes what is read here large: none of it comes by a single request."""
    patch.setattr(reader, "_READ_AHEAD_BYTES", READ_AHEAD_BYTES)
    patch.setattr(reader, "_BUFFER_BYTES", 2**14)


def check_every_verb(base, truth, names, data):
    """Uses every verb and holds what it says and does against the truth; `names` lists it."""
    uri = f"{base}/folder/a b#é.tar"
    storage.publish(uri, data)
    assert truth.read(uri) == data
    assert storage.publish(uri, b"another") is False
    assert truth.read(uri) == data
    file = storage.stat(uri)
    assert file.size == len(data)
    check_reads(base, file, data)
    storage.replace(uri, b"other")
    assert truth.read(uri) == b"other"
    assert storage.replace_if(file, b"late") is False
    assert storage.replace_if(storage.stat(uri), b"third") is True
    assert truth.read(uri) == b"third"
    storage.delete(uri)
    storage.delete(uri)
    assert names() == []
    for call in (storage.read, storage.stat):
        with pytest.raises(FileNotFoundError):
            call(uri)


def check_reads(base, file, data):
    """Lists and reads the only object of a place in every way."""
    assert storage.list_files(base) == [file] == storage.list_files(f"{base}/folder")
    assert storage.list_files(f"{base}/folder", recursive=False) == [file]
    assert storage.list_files(base, recursive=False) == []
    assert storage.read(file.uri) == data
    assert storage.read_tail(file, 1000) == data[-1000:]
    with storage.open_file(file) as opened:
        assert opened.read(2000) == data[:2000]
        assert opened.read() == data[2000:]
        opened.seek(len(data) // 3)
        assert opened.read() == data[len(data) // 3 :]


def check_lost_answer_of_replace_if(uri, truth, proxy):
    """Loses the answer to a replacement, which is none of another writer's."""
    truth.write(uri, b"first")
    file = storage.stat(uri)
    proxy.faults = Faults(first="lose")
    assert storage.replace_if(file, b"second") is True
    assert truth.read(uri) == b"second"
    assert storage.replace_if(file, b"third") is False
    assert truth.read(uri) == b"second"


def check_short_body(uri, proxy, read, done, patch):
    """Reads an object whose body is always short, which is an error and never data."""
    file = storage.stat(uri)
    patch.setattr(retries, "PATIENCE_S", 0.4)
    opened = storage.open_file(file) if read == "open" else None
    proxy.faults = Faults(always=done)
    call = {
        "tail": lambda: storage.read_tail(file, 1000),
        "open": opened and opened.read,
        "whole": lambda: storage.read(file.uri),
    }[read]
    with pytest.raises(StorageError, match="no good answer"):
        call()


def commit_two_shards(sink):
    """Commits one shard of nine rows at once and one piece by piece; returns the writer."""
    writer = runs.start(sink, names=("a", "b"))
    commit_rows(runs.encoded_rows(writer, 0, 9, rejected=(3,)), writer)
    for numbers in ([0, 1, 2], [6, 7, 8], [2, 3, 4, 5]):
        commit_rows(runs.encoded_rows(writer, 1, 9, numbers, rejected=(3,)), writer)
    return writer


def check_two_shards(writer, folder):
    """Checks a copy of what `commit_two_shards` has put into a sink."""
    copied = replace(writer, sink=replace(writer.sink, uri=str(folder)))
    runs.check_committed(copied, [9, 9], rejected=(3,))
    assert runs.visible(folder, "staging") == []
