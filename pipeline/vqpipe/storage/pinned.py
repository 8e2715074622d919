"""An object of a store that gives ranges of one version of it, as a file that is open."""

import os
from typing import Protocol

from vqpipe.storage.stores import Found


class _Source(Protocol):
    """A store that pins what it reads to a version."""

    def read_range(self, path: str, start: int, end: int, version: str) -> bytes:
        """Returns bytes `start` to `end` (exclusive) of that version."""


class Ranges:
    """Reads one version of an object in requests of so many bytes, the last one kept."""

    def __init__(self, store: _Source, path: str, found: Found, block: int) -> None:
        self._store = store
        self._path = path
        self._found = found
        self._block = block
        self._place = 0
        self._kept, self._start = b"", 0

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Moves to a place; returns it."""
        starts = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._found.size}
        self._place = starts[whence] + offset
        return self._place

    def tell(self) -> int:
        """Returns the place."""
        return self._place

    def read(self, size: int, /) -> bytes:
        """Returns the next bytes; fewer where the store cut them short."""
        end = min(self._place + size, self._found.size)
        if self._place >= end:
            return b""
        if not self._start <= self._place <= end <= self._start + len(self._kept):
            self._fetch(max(end, min(self._place + self._block, self._found.size)))
        data = self._kept[self._place - self._start : end - self._start]
        self._place += len(data)
        return data

    def _fetch(self, end: int) -> None:
        self._kept, self._start = b"", self._place
        self._kept = self._store.read_range(self._path, self._place, end, self._found.version)

    def look(self) -> Found:
        """Returns what was there when it was opened: nothing else is read."""
        return self._found

    def close(self) -> None:
        """Lets go of what is kept."""
        self._kept = b""
