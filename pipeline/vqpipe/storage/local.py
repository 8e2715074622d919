"""Files of this machine's file systems, as a store: read here, made by `vqpipe.storage.disk`."""

import contextlib
import io
import os
from pathlib import Path
from typing import Any, cast

from fsspec.implementations.local import LocalFileSystem

from vqpipe.storage import disk, imprints
from vqpipe.storage.content import Content
from vqpipe.storage.served import Served
from vqpipe.storage.stores import Found


class Local(Served):
    """Disks: objects are files, and their version is when they were written."""

    def __init__(self) -> None:
        super().__init__(LocalFileSystem(use_listings_cache=False), _found)

    def find(self, path: str) -> dict[str, Found]:
        """Returns files at any depth; fsspec's own walk leaves out folders that it may not list."""

        def on_error(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError):  # `delete` removes empty folders
                raise error

        found = self._fs.find(path, detail=True, on_error=on_error)
        return {name: _found(info) for name, info in found.items()}

    def read(self, path: str) -> bytes:
        """Returns a whole file."""
        return Path(path).read_bytes()

    def read_range(self, path: str, start: int, end: int, version: str) -> bytes:  # noqa: ARG002
        """Returns bytes of a file, of whatever version."""
        with open(path, "rb", buffering=0) as file:
            return os.pread(file.fileno(), end - start, start)

    def open(self, path: str, block: int) -> "OpenFile":  # noqa: ARG002 (the kernel reads ahead)
        """Opens a file."""
        return OpenFile(path)

    def create(self, path: str, data: Content) -> bool:
        """Makes a file visible in one step, unless there is one."""
        return disk.publish(Path(path), data)

    def replace(self, path: str, data: Content) -> None:
        """Makes a file visible in one step."""
        disk.replace(Path(path), data)

    def replace_if(self, path: str, data: Content, expected: Found) -> bool:
        """Makes a file visible in one step, in place of the expected one."""

        def is_same() -> bool:
            try:
                return self.look(path) == expected
            except FileNotFoundError:
                return False

        return disk.replace_if(Path(path), data, is_same)

    def delete(self, path: str) -> None:
        """Removes a file, and its folder with the last one."""
        disk.delete(Path(path))

    def creates_once(self, path: str, data: Content) -> bool:
        """Tells whether `create` can be relied on."""
        return not disk.publish(Path(path), data) and disk.creates_once(Path(path).parent)


class OpenFile(io.FileIO):
    """A file may be written while it is read: what is said of it is said of now."""

    _imprint: str | None = None
    _changed_ns = 0

    def look(self) -> Found:
        """Returns size and time of change."""
        return found_of(os.fstat(self.fileno()))

    def look_closely(self) -> Found:
        """Returns the same with an imprint, taken anew whenever anything of the file changed."""
        state = os.fstat(self.fileno())
        if self._imprint is None or state.st_ctime_ns != self._changed_ns:
            self._imprint = imprints.take_imprint(self.fileno())
            self._changed_ns = state.st_ctime_ns
        return imprints.imprinted(found_of(state), self._imprint)


def found_of(state: os.stat_result) -> Found:
    """Returns what there is of a file in this state."""
    return Found(state.st_size, str(state.st_mtime))


def _found(info: dict[str, Any]) -> Found:
    return Found(int(info["size"]), str(_mtime(info)))


def _mtime(info: dict[str, Any]) -> float:
    """Returns when a file changed; of a symbolic link, when its target did."""
    if info.get("islink"):
        with contextlib.suppress(OSError):  # it leads nowhere: opening it will say so
            return os.stat(info["name"]).st_mtime
    return cast(float, info["mtime"])
