"""An object that is open for reading, of exactly the version that was listed."""

import functools
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

from vqpipe.errors import SourceChangedError
from vqpipe.schema import File
from vqpipe.storage import imprints, meter, retries
from vqpipe.storage.courier import Courier
from vqpipe.storage.local import OpenFile
from vqpipe.storage.refusals import ask
from vqpipe.storage.stores import Found, Handle, VersionGoneError, find_store

_READ_AHEAD_BYTES = 8 * 2**20
_BUFFER_BYTES = 2**20


def open_file(file: File) -> BinaryIO:
    """Returns a seekable reader of exactly the version that was listed.

    Raises:
        SourceChangedError: If the object is gone or is another one than `file` says.
    """
    store, path = find_store(file.uri)
    open_again = functools.partial(store.open, path, _READ_AHEAD_BYTES)
    try:
        handle = ask(file.uri, open_again)
    except FileNotFoundError:
        raise SourceChangedError(f"{file.uri} was planned and is gone now") from None
    reader = _Reader(file, handle, open_again)
    try:
        reader.check(handle)
    except SourceChangedError:
        reader.close()
        raise
    return io.BufferedReader(reader, _BUFFER_BYTES)


class _Reader(io.RawIOBase):
    """Reads one version of an object; the store's failures become `StorageError`s.

    A store says with every answer which version it is of. A file may be written while it is read:
    its time and size are looked at after every read, and at once, its imprint if anything moved.
    A read that stands still is abandoned together with its handle, and tried again with another.
    """

    def __init__(self, file: File, handle: Handle, open_again: Callable[[], Handle]) -> None:
        self._file = file
        self._handle: Handle | None = handle
        self._open_again = open_again
        self._courier = Courier()
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 (any writable buffer)
        start = self._place
        size: int = max(0, min(len(buffer), self._file.size - start))
        buffer[:size] = ask(self._file.uri, lambda: self._fetch(start, size))
        self._place += size
        meter.note_read(size)
        return size

    def _fetch(self, start: int, size: int) -> bytes:
        by = _By(self._handle, self._open_again)
        read = functools.partial(self._read, by, start, size)
        try:
            data = self._courier.fetch(read, max(size, _READ_AHEAD_BYTES), by.close)
        except retries.StalledError:
            by = _By(None, self._open_again)  # whoever holds the other may yet read on
            raise
        except (FileNotFoundError, VersionGoneError) as error:
            raise SourceChangedError(f"{self._file.uri} changed while it was read") from error
        finally:
            self._handle = by.handle
        return whole(data, size)

    def _read(self, by: "_By", start: int, size: int) -> bytes:
        handle = by.open()
        handle.seek(start)
        data = handle.read(size)
        self.check(handle)
        return data

    def check(self, handle: Handle) -> None:
        """Raises SourceChangedError if what is open is not what is wanted."""
        check_version(self._file, self._look(handle))

    def _look(self, handle: Handle) -> Found:
        if isinstance(handle, OpenFile) and imprints.is_imprinted(self._file.version):
            return handle.look_closely()
        return handle.look()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        starts = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._file.size}
        place = starts[whence] + offset
        if place < 0:
            raise ValueError(f"place {place} is before the first byte of {self._file.uri}")
        self._place = place
        return place

    def tell(self) -> int:
        return self._place

    def close(self) -> None:
        self._courier.close()
        if self._handle is not None:
            self._handle.close()
        super().close()


@dataclass
class _By:
    """What one read is done by."""

    handle: Handle | None
    open_again: Callable[[], Handle]

    def open(self) -> Handle:
        """Returns the handle; a new one if the last was left to a read that stands still."""
        self.handle = self.handle or self.open_again()
        return self.handle

    def close(self) -> None:
        """Lets it go."""
        if self.handle is not None:
            self.handle.close()


def whole(data: bytes, size: int) -> bytes:
    """Returns an answer that is as long as it was to be; one cut short is asked for again."""
    if len(data) != size:
        raise retries.ShortAnswerError(f"it sent {len(data)} bytes of {size}")
    return data


def check_version(file: File, found: File | Found) -> None:
    """Raises SourceChangedError if what was found is another version than `file`."""
    if (found.size, found.version) != (file.size, file.version):
        raise SourceChangedError(
            f"{file.uri} changed since the run was planned: it was {file.size} bytes, version "
            f"{file.version}, and is {found.size} bytes, version {found.version}; restore it, or "
            "take it in: vqpipe encode and decode do so with --replace-changed"
        )
