"""Digests over every byte of an object, so that one flipped bit anywhere in it is found.

    PAR1 | row groups | what else there is | MARK, body's digest, footer's digest | footer | PAR1

Parquet's page checksums leave out page headers and the footer, which says where pages are and what
is counted. The digests lie where no reader of Parquet looks: row groups are found by their offsets,
and the footer from the end. The footer has one of its own, so that it can be read alone.
"""

import hashlib
from typing import BinaryIO

_MARK = b"VQPSEAL1"
_DIGEST_BYTES = hashlib.sha256().digest_size
SEAL_BYTES = len(_MARK) + 2 * _DIGEST_BYTES
_END_BYTES = 8  # footer length (uint32, little-endian) and the magic PAR1
_BLOCK_BYTES = 2**20


class SealError(ValueError):
    """Bytes are not those that were sealed, or were never sealed."""


class Sealing:
    """What a `ParquetWriter` writes to: passes all on to a file, and hashes it on its way."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        """Begins at the start of a file, which has to be empty and seekable."""
        self._file = file
        self._hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        """Writes bytes that lie before the footer, or are the footer's."""
        self._hash.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        """Does nothing: the file's owner knows when it is done."""

    def end_body(self) -> None:
        """Seals all before the footer, which has to come next."""
        self._file.write(_MARK + self._hash.digest() + bytes(_DIGEST_BYTES))
        self._hash = hashlib.sha256()

    def end_footer(self, start: int) -> None:
        """Seals the footer, which begins at byte `start` and ends the file."""
        self._file.seek(start - _DIGEST_BYTES)
        self._file.write(self._hash.digest())
        self._file.seek(0, 2)


def tail_bytes(end: bytes) -> int:
    """Returns the bytes of footer and seal of an object, by its last bytes, eight or more."""
    return int.from_bytes(end[-_END_BYTES:-4], "little") + _END_BYTES + SEAL_BYTES


def check_footer(tail: bytes) -> None:
    """Checks the footer of an object, by its last bytes.

    Args:
        tail: `tail_bytes` or more of them.

    Raises:
        SealError: If the footer is not as it was sealed.
    """
    footer = memoryview(tail)[max(0, len(tail) - tail_bytes(tail)) :]
    if bytes(footer[: len(_MARK)]) != _MARK:
        raise SealError("it does not carry the digests that vqpipe puts into its objects")
    digest = hashlib.sha256(footer[SEAL_BYTES:]).digest()
    if digest != footer[SEAL_BYTES - _DIGEST_BYTES : SEAL_BYTES]:
        raise SealError("its footer is not the one that was written: its SHA-256 is another one")


def body_digest(tail: bytes) -> bytes:
    """Returns the SHA-256 of all before the seal, as the last bytes of an object say it.

    Args:
        tail: `tail_bytes` or more of them, of which the footer has been checked.
    """
    start = len(tail) - tail_bytes(tail) + len(_MARK)
    return tail[start : start + _DIGEST_BYTES]


def check_file(file: BinaryIO) -> bytes:
    """Checks all bytes of an object, and leaves the file at its start.

    Returns:
        The SHA-256 of all before the seal.

    Raises:
        SealError: If it is not as it was sealed.
    """
    size = file.seek(0, 2)
    file.seek(max(0, size - _END_BYTES))
    body = size - tail_bytes(file.read(_END_BYTES).rjust(_END_BYTES))
    if body < 0:
        raise SealError("its end is missing, or it is no Parquet file")
    file.seek(body)
    tail = file.read()
    check_footer(tail)
    file.seek(0)
    found = _hash(file, body)
    if found != body_digest(tail):
        raise SealError("it is not what was written: its SHA-256 is another one")
    file.seek(0)
    return found


def _hash(file: BinaryIO, size: int) -> bytes:
    found = hashlib.sha256()
    while size:
        block = file.read(min(size, _BLOCK_BYTES))
        if not block:
            raise SealError("it ends early")
        found.update(block)
        size -= len(block)
    return found.digest()
