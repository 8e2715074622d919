"""An object that is open for reading, of exactly the version that was listed."""

import io
from typing import Any, BinaryIO

from vqpipe.errors import SourceChangedError
from vqpipe.schema import File
from vqpipe.storage import imprints, retries
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
    try:
        handle = ask(file.uri, lambda: store.open(path, _READ_AHEAD_BYTES))
    except FileNotFoundError:
        raise SourceChangedError(f"{file.uri} was planned and is gone now") from None
    reader = _Reader(file, handle)
    try:
        reader.check()
    except SourceChangedError:
        reader.close()
        raise
    return io.BufferedReader(reader, _BUFFER_BYTES)


class _Reader(io.RawIOBase):
    """Reads one version of an object; the store's failures become `StorageError`s.

    A store says with every answer which version it is of. A file may be written while it is read:
    its time and size are looked at after every read, and at once, its imprint if anything moved.
    """

    def __init__(self, file: File, handle: Handle) -> None:
        self._file = file
        self._handle = handle

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 (any writable buffer)
        start = self._handle.tell()
        size: int = max(0, min(len(buffer), self._file.size - start))
        buffer[:size] = ask(self._file.uri, lambda: self._read(start, size))
        return size

    def _read(self, start: int, size: int) -> bytes:
        self._handle.seek(start)
        try:
            data = self._handle.read(size)
        except (FileNotFoundError, VersionGoneError) as error:
            raise SourceChangedError(f"{self._file.uri} changed while it was read") from error
        self.check()
        return whole(data, size)

    def check(self) -> None:
        """Raises SourceChangedError if what is open is not what is wanted."""
        check_version(self._file, self._look())

    def _look(self) -> Found:
        if isinstance(self._handle, OpenFile) and imprints.is_imprinted(self._file.version):
            return self._handle.look_closely()
        return self._handle.look()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._handle.seek(offset, whence)

    def tell(self) -> int:
        return self._handle.tell()

    def close(self) -> None:
        self._handle.close()
        super().close()


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
