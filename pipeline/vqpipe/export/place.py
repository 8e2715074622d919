"""Where everything is in the place that an export writes to.

    export.json             what is exported, and how: written before all else, never changed
    _SUCCESS                totals, written last
    .export/done/<shard>    a mark for each shard that is done: what was written for it
    .export/parts/<file>/   pieces of a file that is to be joined, one a shard
    <all else>              of the format

What lies in `.export/` is gone once `_SUCCESS` is there. A shard is named there by its place in the
snapshot, which `export.json` holds fast.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict

from vqpipe import storage
from vqpipe.export.format import Made
from vqpipe.schema import File
from vqpipe.storage.ahead import do_all, map_ahead

AT_ONCE = 32
"""Requests for small objects that are made at a time."""


def identity_uri(out: str) -> str:
    """Returns where it says what is exported."""
    return storage.join_uri(out, "export.json")


def success_uri(out: str) -> str:
    """Returns where the totals are, once all is written."""
    return storage.join_uri(out, "_SUCCESS")


def piece_uri(out: str, name: str, index: int) -> str:
    """Returns where a shard's piece of a file is."""
    return storage.join_uri(pieces_uri(out, name), f"{index:08d}")


def pieces_uri(out: str, name: str) -> str:
    """Returns the folder of the pieces of a file."""
    return storage.join_uri(_work_uri(out), "parts", name)


def _work_uri(out: str) -> str:
    return storage.join_uri(out, ".export")


def _marks_uri(out: str) -> str:
    return storage.join_uri(_work_uri(out), "done")


def mark(out: str, index: int, made: Made) -> None:
    """Marks a shard as done."""
    uri = storage.join_uri(_marks_uri(out), f"{index:08d}.json")
    storage.publish(uri, json.dumps(asdict(made)).encode())


def list_marks(out: str) -> dict[int, File]:
    """Returns the marks of shards that are done, by their places, freshly listed."""
    files = storage.list_files(_marks_uri(out), recursive=False)
    return {_place(file): file for file in files}


def _place(file: File) -> int:
    return int(file.uri.rpartition("/")[2].partition(".")[0])


def read_marks(files: Iterable[File]) -> Made:
    """Returns all that was written for shards, by their marks."""
    said = map_ahead(lambda file: json.loads(storage.read(file.uri)), files, AT_ONCE)
    return sum((Made(**each) for each in said), Made())


def list_made(out: str) -> list[File]:
    """Returns the files of the format, freshly listed."""
    own = {identity_uri(out), success_uri(out)}
    work = _work_uri(out) + "/"
    return [f for f in storage.list_files(out) if f.uri not in own and not f.uri.startswith(work)]


def sweep(out: str) -> None:
    """Removes marks and pieces: all is written."""
    files = storage.list_files(_work_uri(out))
    do_all(lambda file: storage.delete(file.uri), files, AT_ONCE)
    storage.sweep(out)
