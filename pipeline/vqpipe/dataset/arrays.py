"""Columns of a segment's rows in files: written in pieces by any process, read by all.

Numbers lie in one file, row behind row, and are read through a memory map. What has no fixed length
lies in a heap, in whichever order it came, and a file of numbers says where.
"""

import fcntl
import itertools
import json
import math
import mmap
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vqpipe.dataset.columns import Column, Kind, Shape
from vqpipe.errors import ConfigError
from vqpipe.picks import hash_of
from vqpipe.texts import documents

Rows = npt.NDArray[np.int64]
_NONE = -1
"""Length of what is null."""
_MODE = 0o644
_ALIGNED = 8
"""Bytes of which each pool's array begins at a multiple."""


class Array(Protocol):
    """One column of all pools."""

    def write(self, pool: int, first: int, values: pa.ChunkedArray) -> None:
        """Writes values of rows from `first` on; the same ones may be written again."""

    def sync(self) -> None:
        """Has what was written outlive a machine that goes down."""

    def take(self, pool: int, rows: Rows) -> Any:  # noqa: ANN401 (an array, or a list of anything)
        """Returns the values of rows."""


class NumbersFile:
    """Numbers of a file: an array of each pool, one behind the other."""

    def __init__(self, path: Path, dtype: np.dtype[Any], shapes: Sequence[Shape]) -> None:
        """Opens the file, which is made, as long as it will be and empty, if it is not there.

        Args:
            path: Where it is.
            dtype: Of the numbers.
            shapes: Of each pool's array: (rows, ...).
        """
        self._itemsize = dtype.itemsize
        sizes = [-(-math.prod(shape) * dtype.itemsize // _ALIGNED) * _ALIGNED for shape in shapes]
        self._starts = [0, *itertools.accumulate(sizes)]
        self._file = open_sized(path, self._starts[-1])
        size = self._starts[-1]
        buffer = mmap.mmap(self._file, size, prot=mmap.PROT_READ) if size else b""
        self.arrays = [
            np.frombuffer(buffer, dtype, math.prod(shape), start).reshape(shape)
            if math.prod(shape)
            else np.empty(shape, dtype)
            for shape, start in zip(shapes, self._starts, strict=False)
        ]

    def write(self, pool: int, first: int, values: npt.NDArray[Any]) -> None:
        """Writes rows of a pool from `first` on."""
        row_bytes = math.prod(self.arrays[pool].shape[1:]) * self._itemsize
        place = self._starts[pool] + first * row_bytes
        write_all(self._file, np.ascontiguousarray(values).data, place)

    def sync(self) -> None:
        """Has what was written outlive a machine that goes down."""
        os.fdatasync(self._file)

    def take(self, pool: int, rows: Rows) -> npt.NDArray[Any]:
        """Returns rows of a pool: (n, ...)."""
        return self.arrays[pool].take(rows, axis=0)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if hasattr(self, "_file"):
            close(self._file)


def open_sized(path: Path, size: int) -> int:
    """Returns the descriptor of a file of a size; what is new of it is zeros that take no room."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE)
    if os.fstat(file).st_size < size:
        os.ftruncate(file, size)
    return file


def write_all(file: int, data: memoryview | bytes, place: int) -> None:
    """Writes all bytes at a place of a file."""
    left = memoryview(data).cast("B")
    while len(left):
        written = os.pwrite(file, left, place)
        left, place = left[written:], place + written


class NumbersColumn:
    """A column of numbers."""

    def __init__(
        self, folder: Path, column: Column, rows: Sequence[int], shapes: Sequence[Shape]
    ) -> None:
        """Opens it in a folder, made if it is not there; see `open_array`."""
        self._column = column
        path = folder / f"{_file_name(column.name)}.numbers"
        arrays = [(n, *column.numbers(shape)) for n, shape in zip(rows, shapes, strict=True)]
        self._file = NumbersFile(path, np.dtype(column.dtype), arrays)
        self.sync, self.take = self._file.sync, self._file.take

    def write(self, pool: int, first: int, values: pa.ChunkedArray) -> None:
        """Writes values of rows from `first` on.

        Raises:
            ConfigError: If a whole number or a truth is null: an array has no sign for it.
        """
        array, dtype = values.combine_chunks(), np.dtype(self._column.dtype)
        numbers = array.flatten() if self._column.is_list else array
        has_null_lists = self._column.is_list and array.null_count
        if has_null_lists or (numbers.null_count and dtype.kind != "f"):
            raise ConfigError(
                f"column {self._column.name!r} has nulls, which arrays of {dtype.name} cannot "
                f'hold: leave such rows out by filter="{self._column.name} is not None", or the '
                "column, by columns"
            )
        found = numbers.to_numpy(zero_copy_only=False).astype(dtype, copy=False)
        self._file.write(pool, first, found)


class HeapColumn:
    """A column of what has no fixed length."""

    def __init__(self, folder: Path, column: Column, rows: Sequence[int]) -> None:
        """Opens it in a folder, made if it is not there; pools have so many rows."""
        self._pack, self._unpack = _PACKINGS[column.kind]
        name = _file_name(column.name)
        pairs = [(n, 2) for n in rows]
        self._places = NumbersFile(folder / f"{name}.places", np.dtype("<i8"), pairs)
        self._heap = open_sized(folder / f"{name}.heap", 0)
        self._lock = threading.Lock()

    def write(self, pool: int, first: int, values: pa.ChunkedArray) -> None:
        """Puts values on the heap, each distinct one once, and says where each is."""
        packed = self._pack(values.combine_chunks())
        pieces = [value for value in dict.fromkeys(packed) if value is not None]
        end = self._append(b"".join(pieces))
        sizes = np.array([len(each) for each in pieces], np.int64)
        starts = end - sizes[::-1].cumsum()[::-1]
        places = dict(zip(pieces, zip(starts.tolist(), sizes.tolist(), strict=True), strict=True))
        found = [(0, _NONE) if value is None else places[value] for value in packed]
        self._places.write(pool, first, np.array(found, np.int64).reshape(-1, 2))

    def _append(self, data: bytes) -> int:
        """Returns where on the heap data end that no other writer's are in between of."""
        with self._lock:  # of threads; the other of processes
            fcntl.flock(self._heap, fcntl.LOCK_EX)
            try:
                start = os.fstat(self._heap).st_size
                write_all(self._heap, data, start)
            finally:
                fcntl.flock(self._heap, fcntl.LOCK_UN)
        return start + len(data)

    def sync(self) -> None:
        """Has what was written outlive a machine that goes down."""
        os.fdatasync(self._heap)
        self._places.sync()

    def take(self, pool: int, rows: Rows) -> list[Any]:
        """Returns the values of rows."""
        return [
            None if size == _NONE else self._unpack(os.pread(self._heap, size, start))
            for start, size in self._places.take(pool, rows).tolist()
        ]

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if hasattr(self, "_heap"):
            close(self._heap)


class HashColumn:
    """A hash of each key."""

    def __init__(self, folder: Path, rows: Sequence[int]) -> None:
        """Opens it in a folder, made if it is not there; pools have so many rows."""
        shapes = [(n,) for n in rows]
        self._file = NumbersFile(folder / "keys.hashes", np.dtype("<u8"), shapes)
        self.sync, self.take = self._file.sync, self._file.take

    def write(self, pool: int, first: int, values: pa.ChunkedArray) -> None:
        """Writes hashes of keys."""
        data = b"".join(hash_of(key or "") for key in values.to_pylist())
        self._file.write(pool, first, np.frombuffer(data, "<u8"))


def open_array(folder: Path, column: Column, rows: Sequence[int], shapes: Sequence[Shape]) -> Array:
    """Returns a column in a folder; its files are made if they are not there.

    Args:
        folder: Where they are.
        column: Which one.
        rows: Of each pool.
        shapes: Of the codes of an image, of each pool.
    """
    if column.kind == "numbers":
        return NumbersColumn(folder, column, rows, shapes)
    return HeapColumn(folder, column, rows)


def _pack_bytes(values: pa.Array) -> list[bytes | None]:
    return list(values.cast(pa.large_binary()).to_pylist())


def _pack_documents(values: pa.Array) -> list[bytes | None]:
    return [None if each is None else json.dumps(each).encode() for each in documents(values)]


_Pack = Callable[[pa.Array], list[bytes | None]]
_PACKINGS: dict[Kind, tuple[_Pack, Callable[[bytes], Any]]] = {
    "text": (_pack_bytes, bytes.decode),
    "bytes": (_pack_bytes, bytes),
    "document": (_pack_documents, json.loads),
}


def _file_name(name: str) -> str:
    """Returns what a column's files are called, whatever is in its name."""
    return hash_of(name, what_for=b"column ").hex()
