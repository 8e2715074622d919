"""Versions of a source's files that tell more of them apart than their sizes and times do."""

import heapq
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import replace

from vqpipe import storage
from vqpipe.schema import File, Shard
from vqpipe.sources.names import relative_path
from vqpipe.storage.ahead import map_ahead

_THREADS = 16
_IMAGES = 8


def imprint_shards(shards: Sequence[Shard]) -> list[Shard]:
    """Returns shards of a disk with imprints in their versions; those of a store as they are.

    Every tar and Parquet file has one. Of a shard of single images, some have, always the same
    ones: to open each is the work of the run itself, and data that is replaced is so as a whole.
    """
    picked = {file.uri: file for shard in shards for file in _pick(shard)}
    if not any(storage.is_on_disk(uri) for uri in picked):
        return list(shards)
    new = map_ahead(storage.imprint, picked.values(), _THREADS)
    done = dict(zip(picked, new, strict=True))
    return [
        replace(shard, files=tuple(done.get(file.uri, file) for file in shard.files))
        for shard in shards
    ]


def imprint_files(files: Iterable[File]) -> list[File]:
    """Returns files of a disk with imprints in their versions; those of a store as they are."""
    return list(map_ahead(storage.imprint, iter(files), _THREADS))


def _pick(shard: Shard) -> Sequence[File]:
    there = [file for file in shard.files if not file.obstacle]
    if not shard.root:
        return there
    return heapq.nsmallest(_IMAGES, there, key=lambda file: _number(shard.root, file))


def _number(root: str, file: File) -> int:
    return zlib.crc32(relative_path(root, file.uri).encode("utf-8", "surrogatepass"))
