"""One tar, plain or gzipped, read forward once: its members, its end, and where it is in its file.

A tar ends in blocks of zeros; one of them is enough. What ends without may be cut between two
members, which nothing else would show. What follows the end mark decides: more members are read,
as in tars that were joined (`cat a.tar b.tar`); a few bytes that are none, a newline say, or what
a buffer held, are passed over; more of them, or many zeros, as a download leaves that did not come
to its end, are damage.
"""

import gzip
import sys
import tarfile
from collections.abc import Iterator
from types import TracebackType
from typing import IO, BinaryIO, Self, cast

from vqpipe.sources.growth import check_growth, most_bytes
from vqpipe.sources.tar_headers import Header, TarFile

_GZIP_MAGIC = b"\x1f\x8b"


class Archive:
    """The members of one tar, in order.

    Mode `r:` on a seekable file rather than the stream mode `r|`, which reads on and on past the
    end for an absurd size, ignores the second part of a gzip file and checks no checksum of it.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.size = file.seek(0, 2)
        """Bytes of the file, as it is stored."""
        file.seek(0)
        self._is_gzip = file.read(2) == _GZIP_MAGIC
        file.seek(0)
        self._file = file
        self._plain = cast("IO[bytes]", gzip.GzipFile(fileobj=file)) if self._is_gzip else file
        self._most = most_bytes(self.size) if self._is_gzip else sys.maxsize
        self.tar: TarFile | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._is_gzip:
            self._plain.close()

    def members(self) -> Iterator[tarfile.TarInfo]:
        """Yields the members.

        Raises:
            tarfile.TarError: If the file is damaged, or ends without an end mark.
            OSError, EOFError, ValueError, zlib.error: The same.
        """
        if not self.size:
            raise tarfile.ReadError("it is empty: zero bytes")
        self.tar = TarFile.open(
            fileobj=self._plain,
            mode="r:",
            tarinfo=Header,
            ignore_zeros=True,
            encoding="utf-8",
            errors="surrogateescape",
        )
        while (member := self._next(self.tar)) is not None:
            self.tar.members = []  # type: ignore[attr-defined]  # else it grows with the archive
            check_growth(self.tar.offset, self._most)  # before what stands there is skipped
            yield member

    def _next(self, tar: TarFile) -> tarfile.TarInfo | None:
        try:
            return tar.next()
        except gzip.BadGzipFile as error:
            if tar.has_ended and str(error).startswith("Not a gzipped file"):
                return None  # bytes that follow a whole gzip, as gzip itself has it
            raise

    @property
    def has_ended(self) -> bool:
        """Tells whether an end mark is the last that was read."""
        return self.tar is not None and self.tar.has_ended

    def place(self, member: tarfile.TarInfo) -> int:
        """Returns where a member begins, in bytes of the file as it is stored; of a gzip, about."""
        return self._file.tell() if self._is_gzip else member.offset

    def read(self, member: tarfile.TarInfo) -> bytes:
        """Returns the content of a regular member, the last one that was given."""
        return self.open(member).read()

    def open(self, member: tarfile.TarInfo) -> IO[bytes]:
        """Returns the content of a regular member, the last one that was given, as a file."""
        assert self.tar is not None, "there was a member"
        reader = self.tar.extractfile(member)
        assert reader is not None, "only regular members are read"
        return reader

    @property
    def end(self) -> int:
        """Where the last member ends, in bytes of the file as it is stored; of a gzip, about.

        Its header may claim more than the file has.
        """
        assert self.tar is not None, "there was a member"
        return self._file.tell() if self._is_gzip else self.tar.offset - self.tar.zeros

    @property
    def is_at_end(self) -> bool:
        """Tells whether no byte of the file is left to read."""
        at = self._file.tell()
        return at >= self.size or (self.tar is not None and self.tar.offset > self.size > at)


class Headers(Archive):
    """The same of a tar whose contents do not matter: those of a plain one are passed over.

    What a file ends before is damage here too. A gzip is read anyway, whatever is made of it.
    """

    def read(self, member: tarfile.TarInfo) -> bytes:
        """Returns the content of a regular member of a gzip, and nothing of another's."""
        if self._is_gzip:
            return super().read(member)
        if member.offset_data + member.size > self.size:
            raise tarfile.ReadError("unexpected end of data")
        return b""
