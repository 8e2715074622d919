"""The shards of a snapshot as they are read: their rows, which columns these have, how large.

What is read is the object that the snapshot was taken of, or it is refused by name.
"""

import contextlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vqpipe import storage
from vqpipe.errors import IncompleteError, MismatchError
from vqpipe.sink import seal
from vqpipe.sink.footer import read_tail
from vqpipe.sink.objects import CODES, OpenObject, open_sealed_now
from vqpipe.sink.snapshot import Part, Snapshot


def read_part(
    snapshot: Snapshot, index: int, columns: list[str] | None = None
) -> Iterator[pa.Table]:
    """Yields the rows of one shard, by row groups, in order of row and view.

    What was yielded is only to be relied on once all of it was: codes are counted on the way and
    held against the object's histogram at the end; its bytes are held against its seal before.

    Args:
        snapshot: Which object it is to be.
        index: The shard's place in it.
        columns: Which to read; None is all.

    Raises:
        MismatchError: If another object is there now, or none.
        StorageError: If the store does not give it.
        DamagedError: If it is not as it was written.
    """
    with _open_part(snapshot.part(index)) as opened:
        yield from opened.read_groups(columns)


@contextlib.contextmanager
def open_part(snapshot: Snapshot, index: int, columns: list[str]) -> Iterator[Iterator[pa.Table]]:
    """Yields what yields the rows of one shard, of which all has been checked by then.

    The object is fetched once, and its codes are decoded once more than by `read_part`: who acts on
    rows one by one need not wait for the last of them. As that, else.

    Raises:
        MismatchError: If another object is there now, or none.
        StorageError: If the store does not give it.
        DamagedError: If it is not as it was written.
    """
    with _open_part(snapshot.part(index)) as opened:
        if CODES in pq.read_schema(opened.file).names:
            for _ in opened.read_groups([CODES]):
                pass
        yield opened.read_groups(columns)


@contextlib.contextmanager
def _open_part(part: Part) -> Iterator[OpenObject]:
    with contextlib.ExitStack() as stack:
        with _there(part):
            opened = stack.enter_context(open_sealed_now(part.uri))
        _check_same(part, opened.seal)
        yield opened


@contextlib.contextmanager
def _there(part: Part) -> Iterator[None]:
    """Explains that an object is not there any more."""
    try:
        yield
    except FileNotFoundError:
        raise MismatchError(f"{part.uri} is gone; restore it from a copy") from None


def _check_same(part: Part, found: bytes) -> None:
    if found != part.seal:
        raise MismatchError(
            f"{part.uri} is not the object that it was when this reader began: its shard was "
            "made again since. Begin anew, with what is there now"
        )


def data_types(snapshot: Snapshot) -> pa.Schema:
    """Returns the columns of its rows, as its first object has them.

    Raises:
        IncompleteError: If it has none.
        MismatchError: As `read_part`.
    """
    if not len(snapshot):
        raise IncompleteError(f"{snapshot.uri} has no shard yet: there is nothing to read")
    return pq.read_schema(pa.BufferReader(_read_tail(snapshot.part(0))))


def column_bytes(snapshot: Snapshot) -> dict[str, float]:
    """Returns about how many bytes a row has of each column, as its first shard with rows says.

    Texts that are there many times are counted as often as Parquet stores them.
    """
    for index in np.flatnonzero(snapshot.rows)[:1].tolist():
        return _column_bytes(pq.read_metadata(pa.BufferReader(_read_tail(snapshot.part(index)))))
    return {}


def _read_tail(part: Part) -> bytes:
    """Returns the last bytes of an object, its Parquet footer among them."""
    with _there(part):
        _, _, tail = read_tail(storage.stat(part.uri))
    _check_same(part, seal.body_digest(tail))
    return tail


def _column_bytes(metadata: pq.FileMetaData) -> dict[str, float]:
    found: dict[str, float] = {}
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            name = column.path_in_schema.partition(".")[0]
            found[name] = found.get(name, 0.0) + column.total_uncompressed_size / metadata.num_rows
    return found
