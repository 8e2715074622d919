"""What is looked at of a file on a disk to tell whether it is still the same one.

Size and time of change are for free, and most changes show in them; `cp -p`, `rsync -t` and tools
that set all times to one date keep both. So a version has an imprint too: a digest of the first and
the last bytes, where a tar has its first sample and Parquet its footer. Owner, mode, inode and time
of status change are not looked at: `chmod`, hard links, a move to another disk and copies on the
disks of several machines change those, and change nothing.
"""

import hashlib
import os

from vqpipe.storage.stores import Found

_EDGE_BYTES = 2**14
_MARK = "/"


def is_imprinted(version: str) -> bool:
    """Tells whether a version of a file on a disk has an imprint."""
    return _MARK in version


def imprinted(found: Found, imprint: str) -> Found:
    """Returns what there is of a file, with the imprint in its version."""
    return Found(found.size, f"{found.version}{_MARK}{imprint}")


def take_imprint(descriptor: int) -> str:
    """Returns a digest of the first and the last bytes of an open file."""
    size = os.fstat(descriptor).st_size
    head = os.pread(descriptor, _EDGE_BYTES, 0)
    tail = os.pread(descriptor, _EDGE_BYTES, max(_EDGE_BYTES, size - _EDGE_BYTES))
    return hashlib.blake2b(head + tail, digest_size=8).hexdigest()
