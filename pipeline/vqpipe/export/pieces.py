"""Files that are joined of pieces, one a shard: shards are written in any order, and at once.

Memory holds some blocks of a file, however large it is. On a disk the pieces are read as the file
is written; for a store, which takes an object as a whole, they are put together in a file of
`TMPDIR` first.
"""

import io
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, cast

from vqpipe import storage
from vqpipe.errors import IncompleteError, StorageError
from vqpipe.export import place
from vqpipe.export.format import Made
from vqpipe.schema import File
from vqpipe.sink.objects import SPOOL_BYTES
from vqpipe.storage.ahead import map_ahead
from vqpipe.storage.content import BLOCK_BYTES

_AHEAD = 8
"""Small pieces that are read at a time."""


def join_pieces(
    out: str, name: str, shards: int, head: bytes = b"", tail: bytes = b"", uri: str | None = None
) -> Made:
    """Makes a file of its pieces, unless an earlier attempt has done so; they stay where they are.

    Args:
        out: Where the export is.
        name: Of the pieces (`place.piece_uri`).
        shards: How many there are, a piece each.
        head: What stands before them.
        tail: What stands behind them.
        uri: Of the file; by default `name` below `out`.

    Returns:
        Its bytes, and that it is one file.

    Raises:
        IncompleteError: If pieces are not there.
        StorageError: If something else is in its place.
    """
    uri = uri or storage.join_uri(out, name)
    pieces = _list_pieces(out, name, shards)
    size = len(head) + sum(piece.size for piece in pieces) + len(tail)
    if not _is_there(uri, size):
        _publish(uri, _Joined(lambda: _blocks(head, pieces, tail), size))
        if not _is_there(uri, size):
            raise StorageError(f"{uri} was removed while it was written; run the same again")
    return Made(files=1, bytes=size)


def read_pieces(out: str, name: str, shards: int) -> Iterator[bytes]:
    """Yields pieces that are small, in order of their shards.

    Raises:
        IncompleteError: If some are not there.
    """
    found = _list_pieces(out, name, shards)
    yield from map_ahead(lambda file: storage.read(file.uri), found, _AHEAD)


def _list_pieces(out: str, name: str, shards: int) -> list[File]:
    base = place.pieces_uri(out, name)
    found = {file.uri: file for file in storage.list_files(base, recursive=False)}
    uris = [place.piece_uri(out, name, index) for index in range(shards)]
    missing = [uri for uri in uris if uri not in found]
    if missing:
        raise IncompleteError(
            f"{missing[0]}, a piece of {name}, was written and is gone: something has removed it. "
            f"Remove {out} and run the same command again"
        )
    return [found[uri] for uri in uris]


def _is_there(uri: str, size: int) -> bool:
    try:
        found = storage.stat(uri)
    except FileNotFoundError:
        return False
    if found.size != size:
        raise StorageError(
            f"{uri} has {found.size:,} bytes and should have {size:,}: something else has written "
            "it. Remove it and run the same command again"
        )
    return True


def _publish(uri: str, joined: "_Joined") -> None:
    source = cast(BinaryIO, joined)
    if storage.is_on_disk(uri):
        storage.publish(uri, storage.FileContent(source))
        return
    with tempfile.SpooledTemporaryFile(SPOOL_BYTES) as spooled:
        copy = cast(BinaryIO, spooled)
        shutil.copyfileobj(source, copy, BLOCK_BYTES)
        storage.publish(uri, storage.FileContent(copy))


def _blocks(head: bytes, pieces: list[File], tail: bytes) -> Iterator[bytes]:
    """Yields all bytes of a file in order."""
    yield head
    for file, data in zip(pieces, map_ahead(_read_small, pieces, _AHEAD), strict=True):
        if data is None:
            with storage.open_file(file) as opened:
                yield from iter(lambda: opened.read(BLOCK_BYTES), b"")
        else:
            yield data
    yield tail


def _read_small(file: File) -> bytes | None:
    """Returns the bytes of a piece; None of one that is better read in blocks."""
    return storage.read(file.uri) if file.size <= BLOCK_BYTES else None


class _Joined(io.RawIOBase):
    """Blocks as a file, which is read from its start to its end, as often as one likes."""

    def __init__(self, begin: Callable[[], Iterator[bytes]], size: int) -> None:
        self._begin, self._size = begin, size
        self._blocks, self._left = begin(), memoryview(b"")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence == io.SEEK_END:
            return self._size
        if offset:
            raise io.UnsupportedOperation("only from its start")
        self._blocks, self._left = self._begin(), memoryview(b"")
        return 0

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 (any writable buffer)
        while not self._left:
            block = next(self._blocks, None)
            if block is None:
                return 0
            self._left = memoryview(block)
        size = min(len(buffer), len(self._left))
        buffer[:size], self._left = self._left[:size], self._left[size:]
        return size
