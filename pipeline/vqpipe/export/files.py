"""Files that a shard becomes: one for each of its images, or one that grows with its rows."""

import tempfile
from collections.abc import Iterable
from typing import BinaryIO, cast

from vqpipe import storage
from vqpipe.export.format import Made
from vqpipe.export.place import AT_ONCE
from vqpipe.sink.objects import SPOOL_BYTES
from vqpipe.storage.ahead import map_ahead


def write_files(files: Iterable[tuple[str, bytes]]) -> Made:
    """Writes small files, many at a time; what is held of them is bounded, however many there are.

    Args:
        files: URI and content of each.

    Returns:
        Files and bytes; no rows.
    """
    sizes = map_ahead(lambda file: _replace(*file), files, AT_ONCE)
    return sum((Made(files=1, bytes=size) for size in sizes), Made())


def _replace(uri: str, data: bytes) -> int:
    storage.replace(uri, data)
    return len(data)


def spool() -> BinaryIO:
    """Returns an empty file, in memory while it is small."""
    return cast(BinaryIO, tempfile.SpooledTemporaryFile(SPOOL_BYTES))


def publish_file(uri: str, file: BinaryIO) -> int:
    """Writes what is in a file, in one step; returns its bytes."""
    content = storage.FileContent(file)
    storage.publish(uri, content)
    return len(content)
