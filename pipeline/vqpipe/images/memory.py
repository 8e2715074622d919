"""Memory without a name that two processes share, and that stays while its pixels are in use."""

import fcntl
import mmap
import os
import tempfile
import weakref
from typing import Any, BinaryIO, cast

from vqpipe.images import Pixels


class Memory:
    """Memory that parent and child both see; it has no name, and goes with the last of them."""

    def __init__(self, size: int) -> None:
        self.file = _create_file(size)
        self.map = mmap.mmap(self.file.fileno(), size)
        self.size = size
        self._lent: weakref.ref[Any] | None = None

    def __del__(self) -> None:
        self.file.close()

    def lend(self, pixels: Pixels) -> None:
        """Notes that pixels in this memory are referred to elsewhere."""
        # Whatever array or buffer is made of them refers to the object at the base of them all.
        self._lent = weakref.ref(pixels.base)

    @property
    def is_free(self) -> bool:
        """Whether nobody refers to pixels in it any more."""
        return self._lent is None or self._lent() is None


def _create_file(size: int) -> BinaryIO:
    """Returns a file without a name; on Linux a child cannot change its size.

    Whoever reads memory that is cut off meanwhile would end by SIGBUS.
    """
    if not hasattr(os, "memfd_create"):
        file = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 (closed with its memory)
        file.truncate(size)
        return file
    file = os.fdopen(os.memfd_create("vqpipe", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "r+b")
    file.truncate(size)
    fcntl.fcntl(
        file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    )
    return file
