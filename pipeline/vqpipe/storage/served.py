"""What stores have in common that fsspec serves: how one folder is listed, and one object."""

from collections.abc import Callable
from typing import Any

from fsspec import AbstractFileSystem

from vqpipe.storage.stores import Found


class Served:
    """A store that fsspec serves, as far as it is asked in the same words whatever it is."""

    def __init__(self, fs: AbstractFileSystem, found_of: Callable[[dict[str, Any]], Found]) -> None:
        """Asks a file system.

        Args:
            fs: The file system.
            found_of: Tells what there is of an object, given what the file system says of it.
        """
        self._fs, self._found_of = fs, found_of

    def list_folder(self, path: str) -> dict[str, Found]:
        """Returns the objects of one folder.

        `find(maxdepth=1)` takes a listing that is refused for an empty one.
        """
        found = self._fs.ls(path, detail=True)
        return {info["name"]: self._found_of(info) for info in found if info["type"] != "directory"}

    def look(self, path: str) -> Found:
        """Returns what there is of one object."""
        info = self._fs.info(path)
        if info["type"] == "directory":
            raise FileNotFoundError(path)
        return self._found_of(info)
