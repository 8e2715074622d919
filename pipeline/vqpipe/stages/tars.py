"""Tars that are the same, byte for byte, for the same members."""

import io
import tarfile
from collections.abc import Iterable


def write_tar(members: Iterable[tuple[str, bytes]]) -> bytes:
    """Returns a tar of members in the order given, without times or owners.

    The format is POSIX.1-1988 (ustar), and GNU's for names that it has no room for.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()
