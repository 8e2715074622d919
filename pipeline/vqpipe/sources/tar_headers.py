"""Headers of tar members, parsed so that damage and malice become errors and nothing else.

`tarfile` trusts extended headers: it searches them with a pattern that takes quadratic time (some
seconds for 64 KiB of digits; CVE-2024-6232), keeps global ones for ever, and gathers the map of a
sparse member without end. A gzip of a few hundred bytes is enough for any of these.
"""

import tarfile
from typing import Any, Self, cast

_MAX_EXTENDED_BYTES = 2**16
_MAX_SPARSE_BLOCKS = 2**12  # of 21 holes each
_MAX_LENGTH_DIGITS = 6
_EXTENDED = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
_METADATA = (*_EXTENDED, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)


class NoHeaderError(tarfile.ReadError):
    """Bytes that are no header stand where one should be."""

    def __init__(self, message: str, block: bytes) -> None:
        super().__init__(message)
        self.block = block


_MAGIC_AT, _PREFIX_AT = slice(257, 265), slice(345, 500)
"""Where ustar has its magic and the folders that a name begins with; GNU's own format has another
magic and the times of access and change there, which `tarfile` takes for folders all the same:
https://www.gnu.org/software/tar/manual/html_node/Standard.html, `struct oldgnu_header`."""
_WITHOUT_PREFIX = cast(Any, tarfile).GNU_TYPES

_EMPTY, _ZEROS = cast(Any, tarfile).EmptyHeaderError, cast(Any, tarfile).EOFHeaderError
_RECORD_BYTES = 10_240  # in which tars are written as a rule; its rest may be anything
_MOST_ZEROS = 2**22  # the longest records that writers know of
_MAGIC = b"ustar"


class TarFile(tarfile.TarFile):
    """A tar whose end is looked at; made with `tarinfo=Header` and `ignore_zeros`."""

    zeros = 0
    """Bytes of zeros since the last header."""

    @property
    def has_ended(self) -> bool:
        """Tells whether an end mark, or a part of one, has been read since the last member."""
        return self.zeros > 0


class Header(tarfile.TarInfo):
    """A member's header; `tarfile` calls the methods here by their names."""

    @classmethod
    def fromtarfile(cls, tar: Any) -> Self:  # noqa: ANN401 (tarfile's parts are private)
        """Returns the next header; at the end of the archive, one of tarfile's own errors.

        Raises:
            tarfile.ReadError: If it is damaged, or there is no end mark.
        """
        try:
            header = super().fromtarfile(tar)
        except _EMPTY:
            if not tar.zeros:
                raise tarfile.ReadError(
                    "it ends without an end mark, so that it may be cut between two members"
                ) from None
            raise
        except _ZEROS:
            if tar.zeros >= _MOST_ZEROS:
                raise tarfile.ReadError(
                    f"more than {_MOST_ZEROS:,} bytes of zeros follow, as in a file that was made "
                    "at its full size and never filled"
                ) from None
            tar.zeros += tarfile.BLOCKSIZE
            raise
        except NoHeaderError as error:
            raise _end_or(error, tar) from None
        tar.zeros = 0
        return header

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Returns the header in a block; refuses a bad one, where tarfile sees the end."""
        if not any(buf):
            return super().frombuf(buf, encoding, errors)  # raises: the end of the archive
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            raise NoHeaderError(f"no valid header: {error}", bytes(buf)) from error
        if header.type in _METADATA and header.size > _MAX_EXTENDED_BYTES:
            raise tarfile.ReadError(f"an extended header claims {header.size} bytes")
        if buf[_MAGIC_AT] == tarfile.GNU_MAGIC and header.type not in _WITHOUT_PREFIX:
            times = cast(Any, tarfile).nts(buf[_PREFIX_AT], encoding, errors)
            header.name = header.name.removeprefix(f"{times}/") if times else header.name
        return header

    def _block(self, count: int) -> int:
        """Rounds a size up to whole blocks; refuses negative ones.

        They make tarfile loop for ever (CVE-2025-8194; CPython fixed it in the same way in 2025:
        https://github.com/python/cpython/issues/130577).
        """
        if count < 0:
            raise tarfile.ReadError(f"a header claims {count} bytes")
        return -(-count // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE

    def _proc_pax(self, tar: Any) -> "Header":  # noqa: ANN401 (tarfile's parts are private)
        """Returns the next header with what an extended one says of it: name and size.

        Global ones are passed over: nothing that they may say of every member matters here.
        """
        body = tar.fileobj.read(self._block(self.size))[: self.size]
        try:
            member = cast(Header, cast(Any, self).fromtarfile(tar))
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"no member follows an extended header: {error}") from error
        if self.type != tarfile.XGLTYPE:
            member.take(_parse_records(body), tar)
            member.offset = self.offset
        return member

    def take(self, records: dict[bytes, bytes], tar: Any) -> None:  # noqa: ANN401 (as above)
        """Replaces name and size by those of an extended header."""
        name = records.get(b"GNU.sparse.name", records.get(b"path"))
        if name is not None:
            self.name = name.decode(tar.encoding, tar.errors).rstrip("/")
        if b"size" in records:
            self.size = int(records[b"size"])
            if self.isreg() or self.type not in tarfile.SUPPORTED_TYPES:
                tar.offset = self.offset_data + self._block(self.size)
        if any(keyword.startswith(b"GNU.sparse.") for keyword in records):
            self.sparse = cast(Any, [])  # `issparse`: what is stored is not the file

    def _proc_sparse(self, tar: Any) -> "Header":  # noqa: ANN401 (as above)
        """Returns a sparse member's header; passes over its map, as such members are not read."""
        _, has_more, size = cast(Any, self)._sparse_structs  # noqa: SLF001 (its own)
        for _ in range(_MAX_SPARSE_BLOCKS):
            if not has_more:
                break
            has_more = tar.fileobj.read(tarfile.BLOCKSIZE)[504]
        else:
            raise tarfile.ReadError("the map of a sparse member does not end")
        self.offset_data = tar.fileobj.tell()
        tar.offset = self.offset_data + self._block(self.size)
        self.size, self.sparse = size, cast(Any, [])
        return self


def _end_or(error: NoHeaderError, tar: Any) -> tarfile.TarError:  # noqa: ANN401 (as above)
    """Returns what bytes that are no header are: the end of the archive, or damage."""
    if not tar.zeros:
        return error
    rest = error.block + tar.fileobj.read(_RECORD_BYTES)
    if len(rest) <= _RECORD_BYTES and _MAGIC not in rest:
        return cast(tarfile.TarError, cast(Any, tarfile).TruncatedHeaderError("the end"))
    return tarfile.ReadError("what follows the end mark is no member of a tar")


def _parse_records(body: bytes) -> dict[bytes, bytes]:
    """Returns the records of an extended header: `length keyword=value`, each ending in a newline.

    POSIX.1-2008, pax, "pax Extended Header".
    """
    records = {}
    start = 0
    while start < len(body):
        digits, _, _ = body[start : start + _MAX_LENGTH_DIGITS + 1].partition(b" ")
        end = start + int(digits)
        keyword, equals, value = body[start + len(digits) + 1 : end].partition(b"=")
        if not equals or value[-1:] != b"\n" or end > len(body):
            raise tarfile.ReadError("an extended header is damaged")
        records[keyword] = value[:-1]
        start = end
    return records
