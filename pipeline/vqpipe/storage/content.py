"""What is to be stored: bytes in memory, or those of a file that does not fit there."""

import io
import shutil
from typing import IO, Any, BinaryIO, cast, overload

BLOCK_BYTES = 8 * 2**20


class FileContent(io.RawIOBase):
    """All bytes of an open file: read like a file, measured and cut like bytes.

    The stores' clients want the one or the other; none of them may read it into memory whole.
    """

    def __init__(self, file: BinaryIO) -> None:
        """Begins at the start of a file, which stays open."""
        self._file = file
        self._size = file.seek(0, 2)
        file.seek(0)

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, cut: slice) -> bytes: ...
    @overload
    def __getitem__(self, cut: int) -> int: ...
    def __getitem__(self, cut: slice | int) -> bytes | int:
        """Returns bytes of it, side by side."""
        start, end, _ = cut.indices(self._size) if isinstance(cut, slice) else (cut, cut + 1, 1)
        self._file.seek(start)
        data = self._file.read(end - start)
        return data if isinstance(cut, slice) else data[0]

    def readable(self) -> bool:
        """Tells that it can be read."""
        return True

    def seekable(self) -> bool:
        """Tells that its place can be chosen."""
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 (any writable buffer)
        """Fills a buffer as far as it goes; returns how far."""
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Moves to a place; returns it."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Returns the place."""
        return self._file.tell()


Content = bytes | FileContent


def rewind(content: Content) -> Content:
    """Returns a content that is read from its start, whoever has read it before."""
    if isinstance(content, FileContent):
        content.seek(0)
    return content


def as_file(content: Content) -> IO[bytes]:
    """Returns a content as a file that stands at its start."""
    rewind(content)
    return io.BytesIO(content) if isinstance(content, bytes) else cast(IO[bytes], content)


def copy_to(file: BinaryIO, content: Content) -> None:
    """Writes all of a content into a file."""
    if isinstance(content, bytes):
        file.write(content)
    else:
        shutil.copyfileobj(as_file(content), file, BLOCK_BYTES)


def is_equal(file: BinaryIO, content: Content) -> bool:
    """Tells whether what a file holds, from where it stands, is a content."""
    other = as_file(content)
    while True:
        block = file.read(BLOCK_BYTES)
        if block != other.read(len(block) or 1):
            return False
        if not block:
            return True
