"""Objects of a sink: how each one is written, and the only way in which rows of one are taken over.

    rows of data/, rejected/, left_out/ or staging/ | asides | seal | footer: origin, histogram

An object is read to its end and held against its seal (`vqpipe.sink.seal`) before any row of it is
used. Samples of a shard that have no row lie in its object too (`sink.asides`), so that `data/`
alone decides what was encoded, rejected or left out; but before the footer, which has to stay small
however many they are.
"""

import contextlib
import hashlib
import io
import json
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Self, TypeVar, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from vqpipe import storage
from vqpipe.errors import DamagedError, SourceChangedError, StorageError
from vqpipe.schema import GRID, REJECTED, VIEW, File, flat_of
from vqpipe.sink import seal
from vqpipe.sink.asides import rejected_of
from vqpipe.sink.footer import ORIGIN, REJECTIONS_BYTES, Footer, parse_footer, read_tail
from vqpipe.sink.seal import SealError, Sealing
from vqpipe.storage.content import BLOCK_BYTES
from vqpipe.vector_layout import COLUMNS

CODES = "codes"
OWN_COLUMNS = {"key", "row", CODES, *COLUMNS, *(each.name for each in (*VIEW, *GRID))}
"""Columns that a sink of codes may have of its own: all others were kept."""

_GROUP_ROWS, _GROUP_BYTES = 2**20, 128 * 2**20
"""Most of a row group, by rows and by bytes before compression."""
_REJECTED_ROWS = 2**17
SPOOL_BYTES = 64 * 2**20
"""Larger objects are read and written in files of `TMPDIR`, not in memory."""
_ATTEMPTS = 5
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, zlib.error)  # pyarrow's are among them


_T = TypeVar("_T")


class ObjectWriter:
    """Writes an object into a file, by row groups that a reader has memory for."""

    def __init__(self, file: BinaryIO, kind: pa.Schema) -> None:
        """Begins an object of a schema in an empty, seekable file."""
        self._file = file
        self._sink = Sealing(file)
        self._rows = pq.ParquetWriter(
            self._sink, kind, compression="zstd", write_page_checksum=True
        )
        self._waiting = [kind.empty_table()]
        self._count, self._bytes = 0, 0  # of the rows that wait

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._rows.close()  # of an object that was given up; its file is still open

    def write(self, table: pa.Table) -> None:
        """Adds rows."""
        self._waiting.append(table)
        self._count, self._bytes = self._count + len(table), self._bytes + table.nbytes
        if self._count >= _GROUP_ROWS or self._bytes >= _GROUP_BYTES:
            rest = self._write_groups()
            self._waiting, self._count, self._bytes = [rest], len(rest), rest.nbytes

    def _write_groups(self) -> pa.Table:
        """Writes whole row groups of what waits; returns the rows that are left, in new memory."""
        rows = pa.concat_tables(self._waiting)
        size = _rows_of_group(rows)
        full = len(rows) // size * size
        for start in range(0, full, size):
            self._rows.write_table(rows.slice(start, size).combine_chunks())
        return rows.slice(full).combine_chunks()

    def finish(self, footer: dict[str, str], asides: bytes = b"") -> None:
        """Ends the object with what its footer says, and what lies before the footer."""
        rest = self._write_groups()
        if len(rest):
            self._rows.write_table(rest)
        self._rows.add_key_value_metadata(footer)
        self._sink.write(asides)
        self._sink.end_body()
        start = self._file.tell()
        self._rows.close()
        self._sink.end_footer(start)


def _rows_of_group(table: pa.Table) -> int:
    """Returns how many rows a row group has, so that a reader needs no memory for a whole shard."""
    row_bytes = max(1, int(table.nbytes) // max(1, len(table)))
    return max(1, min(_GROUP_ROWS, _GROUP_BYTES // row_bytes))


def pack_object(table: pa.Table, footer: dict[str, str], asides: bytes = b"") -> bytes:
    """Returns an object: Parquet, dictionary-encoded and zstd-compressed, sealed."""
    buffer = io.BytesIO()
    with ObjectWriter(buffer, table.schema) as writer:
        writer.write(table)
        writer.finish(footer, asides)
    return buffer.getvalue()


def pack_aside(rows: pa.Table, origin: Mapping[str, Any]) -> bytes:
    """Returns an object of `rejected/` or `left_out/`, which has samples of a shard as rows.

    Args:
        rows: Those (`asides.AREAS`).
        origin: What the shard's object in `data/` says of itself.
    """
    return pack_object(rows, {ORIGIN: json.dumps({**origin, REJECTIONS_BYTES: 0})})


def pack_asides(asides: pa.Table) -> bytes:
    """Returns samples without a row as they lie in an object of `data/`; nothing for none."""
    if not len(asides):
        return b""
    buffer = io.BytesIO()
    options = {"compression": "zstd", "row_group_size": _REJECTED_ROWS}
    pq.write_table(asides.combine_chunks(), buffer, **options)
    return buffer.getvalue()


def _unpack_asides(data: bytes) -> pa.Table:
    return pq.read_table(io.BytesIO(data)).cast(REJECTED) if data else REJECTED.empty_table()


@dataclass(frozen=True)
class Object:
    """A whole object, as it was written."""

    table: pa.Table
    footer: Footer
    asides: pa.Table
    """Samples without a row (`schema.REJECTED`), those left out among them; empty but for data
    objects."""


def read_object(uri: str, columns: list[str] | None = None) -> Object:
    """Returns what an object holds, after all of its bytes were held against its seal.

    Args:
        uri: Where it is.
        columns: Which columns to return; None is all.

    Raises:
        FileNotFoundError: If there is none.
        StorageError: If the store does not give it.
        DamagedError: If it is not as it was written, or not one of ours.
    """
    return parse_object(uri, storage.read(uri), columns)


def parse_object(uri: str, data: bytes, columns: list[str] | None = None) -> Object:
    """Returns what the bytes of an object hold; as `read_object`."""
    with _naming(uri):
        seal.check_file(io.BytesIO(data))
        file = pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True)
        footer = parse_footer(file.metadata.metadata or {})
        end = len(data) - seal.tail_bytes(data)
        asides = data[end - footer.origin.get(REJECTIONS_BYTES, 0) : end]
        return Object(file.read(columns), footer, _unpack_asides(asides))


def read_whole(uri: str, columns: list[str]) -> pa.Table:
    """Returns columns of a data object that has to be there and whole; codes are counted.

    Raises:
        StorageError: If it is not, or the store does not give it.
    """
    try:
        found = read_object(uri, columns)
    except FileNotFoundError:
        raise StorageError(f"{uri} was there and is gone; run the same command again") from None
    if CODES in columns:
        _check_counts(uri, count_codes(found.table, len(found.footer.histogram)), found.footer)
    return found.table


@dataclass(frozen=True)
class OpenObject:
    """A data object as a local file, all bytes of which have been held against its seal."""

    uri: str
    file: BinaryIO
    """At its start."""
    footer: Footer
    seal: bytes
    """SHA-256 of all that lies before the footer."""

    def read_groups(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """Yields its rows, a row group at a time.

        Codes, where they are among the columns, are counted on the way, and held against its
        histogram at the end: what was yielded can be relied on once all of it was.

        Args:
            columns: Which to read; None is all.

        Raises:
            DamagedError: If it is not as it was written.
        """
        counts = np.zeros(len(self.footer.histogram), np.int64)
        with _naming(self.uri):
            parquet = pq.ParquetFile(self.file, page_checksum_verification=True)
            names = parquet.schema_arrow.names if columns is None else columns
        has_codes = CODES in names
        for group in range(parquet.num_row_groups):
            with _naming(self.uri):
                table = parquet.read_row_group(group, columns)
                counts = _add(counts, count_codes(table, len(counts))) if has_codes else counts
            yield table
        if has_codes:
            _check_counts(self.uri, counts, self.footer)


def _add(counts: npt.NDArray[np.int64], more: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Returns sums; codes that are too high make them longer."""
    return np.pad(counts, (0, len(more) - len(counts))) + more


@contextlib.contextmanager
def open_sealed(file: File) -> Iterator[OpenObject]:
    """Yields a data object as a local file, after all its bytes were held against its seal.

    Raises:
        SourceChangedError: If it is gone, or another one than was listed.
        StorageError: If the store does not give it.
        DamagedError: If it is not as it was written.
    """
    with tempfile.SpooledTemporaryFile(SPOOL_BYTES) as spooled:
        copy = cast(BinaryIO, spooled)
        with storage.open_file(file) as stored:
            shutil.copyfileobj(stored, copy, BLOCK_BYTES)
        with _naming(file.uri):
            found = seal.check_file(copy)
            footer = parse_footer(pq.ParquetFile(copy).metadata.metadata or {})
        copy.seek(0)
        yield OpenObject(file.uri, copy, footer, found)


@contextlib.contextmanager
def open_object(file: File) -> Iterator[tuple[BinaryIO, Footer]]:
    """Yields a data object as a local file, and its footer, after all of it has been checked.

    Its bytes against its seal, and its codes, if it has any, against its histogram, a row group at
    a time.

    Raises:
        SourceChangedError: If it is gone, or another one than was listed.
        StorageError: If the store does not give it.
        DamagedError: If it is not as it was written.
    """
    with open_sealed(file) as opened:
        with _naming(file.uri):
            has_codes = CODES in pq.read_schema(opened.file).names
        for _ in opened.read_groups([CODES]) if has_codes else ():
            pass
        opened.file.seek(0)
        yield opened.file, opened.footer


def open_current(uri: str) -> contextlib.AbstractContextManager[tuple[BinaryIO, Footer]]:
    """Yields a data object as `open_object` does, whichever is there now.

    Raises:
        FileNotFoundError: If there is none.
    """
    return _current(uri, open_object)


def open_sealed_now(uri: str) -> contextlib.AbstractContextManager[OpenObject]:
    """Yields a data object as `open_sealed` does, whichever is there now.

    Raises:
        FileNotFoundError: If there is none.
    """
    return _current(uri, open_sealed)


@contextlib.contextmanager
def _current(
    uri: str, opening: Callable[[File], contextlib.AbstractContextManager[_T]]
) -> Iterator[_T]:
    with contextlib.ExitStack() as stack:
        for attempt in range(_ATTEMPTS):
            found = storage.stat(uri)
            try:
                opened = stack.enter_context(opening(found))
            except SourceChangedError:  # another command has just replaced it
                if attempt == _ATTEMPTS - 1:
                    raise
            else:
                break
        yield opened


@contextlib.contextmanager
def _naming(uri: str) -> Iterator[None]:
    """Makes of what a damaged object causes an error that names it."""
    try:
        yield
    except _UNREADABLE as error:
        said = error if isinstance(error, SealError) else f"{type(error).__name__}: {error}"
        raise DamagedError(
            f"{uri} is damaged, or not of vqpipe's making: {said}. Restore it from a copy, or "
            "remove it and run the command that made it again, which makes just this one anew"
        ) from error


def read_asides(file: File) -> tuple[Footer, pa.Table]:
    """Returns footer and samples without a row of a data object, by one request as a rule.

    Raises:
        FileNotFoundError: If it has been removed since it was listed.
        DamagedError: If they are not as they were written.
    """
    footer, found, tail = read_tail(file)
    size = footer.origin.get(REJECTIONS_BYTES, 0)
    needed = size + seal.tail_bytes(tail)
    if len(tail) < needed:
        tail = storage.read_tail(found, needed)
    start = len(tail) - needed
    data = tail[start : start + size]
    with _naming(file.uri):
        if digest(data) != footer.origin.get("rejections", digest(b"")):
            raise SealError("its rejections are not those that were written")
        return footer, _unpack_asides(data)


def settled_rows(footer: Footer, asides: pa.Table) -> npt.NDArray[np.integer]:
    """Returns the numbers of a shard's samples that were not rejected, in order.

    Args:
        footer: Of its object in `data/`.
        asides: Samples without a row.
    """
    rejected = rejected_of(asides)["row"].to_numpy()
    return np.setdiff1d(np.arange(footer.origin["seen"]), rejected, assume_unique=True)


def digest(asides: bytes) -> str:
    """Returns what tells packed samples without a row from others."""
    return hashlib.sha256(asides).hexdigest()


def count_codes(table: pa.Table, bins: int) -> npt.NDArray[np.int64]:
    """Returns how often each code occurs in a table, of (bins,) or more if some are too high."""
    return np.bincount(flat_of(table[CODES]), minlength=bins)


def _check_counts(uri: str, found: npt.NDArray[np.int64], footer: Footer) -> None:
    if not np.array_equal(np.minimum(found, np.iinfo(np.uint32).max), footer.histogram):
        with _naming(uri):
            raise SealError("its codes are not those that its histogram counts")
