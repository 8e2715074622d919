"""What every kind of store can do, and which of them a URI is in.

A store is asked by path: what follows `://`. It says `FileNotFoundError` of an object that is not
there, and lets its client's errors fly: `vqpipe.storage.refusals` knows them.
"""

import functools
import importlib
import os
import threading
from typing import NamedTuple, Protocol, cast

from vqpipe.errors import ConfigError
from vqpipe.storage import uris
from vqpipe.storage.content import Content


class Found(NamedTuple):
    """What a store says of an object without being asked for its bytes."""

    size: int
    """Bytes."""
    version: str
    """Another one whenever the object is another: ETag, generation, or time of change."""


class VersionGoneError(Exception):
    """What is there now is not the version that was asked for."""


class Handle(Protocol):
    """An object that is open for reading."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Moves to a place; returns it."""

    def tell(self) -> int:
        """Returns the place."""

    def read(self, size: int, /) -> bytes:
        """Returns the next bytes; fewer only at the end or where the store cut them short.

        Raises:
            VersionGoneError, FileNotFoundError: If it is no longer what was opened.
        """

    def look(self) -> Found:
        """Returns what is open."""

    def close(self) -> None:
        """Lets it go."""


class Store(Protocol):
    """A kind of store."""

    def find(self, path: str) -> dict[str, Found]:
        """Returns the objects below a path, at any depth, by path."""

    def list_folder(self, path: str) -> dict[str, Found]:
        """Returns the objects of one folder, by path."""

    def look(self, path: str) -> Found:
        """Returns what there is of one object."""

    def read(self, path: str) -> bytes:
        """Returns a whole object."""

    def read_range(self, path: str, start: int, end: int, version: str) -> bytes:
        """Returns bytes `start` to `end` (exclusive), of that version where the store pins it."""

    def open(self, path: str, block: int) -> Handle:
        """Opens an object, to be read in requests of `block` bytes."""

    def create(self, path: str, data: Content) -> bool:
        """Makes an object visible in one step; returns False if one was there, which stays."""

    def replace(self, path: str, data: Content) -> None:
        """Makes an object visible in one step, in place of one that may be there."""

    def replace_if(self, path: str, data: Content, expected: Found) -> bool:
        """Makes an object visible in one step, in place of the expected one.

        Returns:
            False if another is there, or none (FileNotFoundError will do).
        """

    def delete(self, path: str) -> None:
        """Removes an object."""

    def creates_once(self, path: str, data: Content) -> bool:
        """Tells whether `create` can be relied on, by creating again what is there."""


_MODULES = {
    "file": ("vqpipe.storage.local", "Local", ""),
    "s3": ("vqpipe.storage.s3", "S3", "s3fs"),
    "gs": ("vqpipe.storage.gcs", "Gcs", "google-cloud-storage"),
    "az": ("vqpipe.storage.azure", "Azure", "azure-storage-blob azure-identity"),
}
_SAME = {"gcs": "gs", "abfs": "az", "abfss": "az"}


@functools.cache
def _store(kind: str) -> Store:
    module, name, packages = _MODULES[kind]
    try:
        return cast(Store, getattr(importlib.import_module(module), name)())
    except ImportError as error:
        raise ConfigError(
            f"{kind}:// needs {packages.replace(' ', ' and ')}, which this environment lacks: "
            f"pip install {packages}"
        ) from error


def find_store(uri: str) -> tuple[Store, str]:
    """Returns the store that an object is in, and its path there.

    Raises:
        ConfigError: If a package for that kind of store is not installed.
    """
    scheme, path = uris.split_uri(uri)
    with _making:  # clients, and the modules that they are in, by one thread
        return _store(_SAME.get(scheme, scheme)), path


def forget() -> None:
    """Has the next request make its client anew, from what the environment says then."""
    _store.cache_clear()


def _begin_anew() -> None:
    """Forgets what a forked process has of its parent's threads."""
    global _making  # noqa: PLW0603 (one of them may hold it)
    _making = threading.Lock()
    forget()


_making = threading.Lock()
os.register_at_fork(after_in_child=_begin_anew)  # clients have threads, which it lacks
