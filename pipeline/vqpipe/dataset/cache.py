"""A folder for what was decoded: below a cap, shared by all processes of a machine.

    <cache>/lock            who makes room
    <cache>/<key>.counts    what was counted (`kept`), and .lock, who counts
    <cache>/<key>/use       locked, shared, by who reads; the older, the sooner it goes
    <cache>/<key>/...       a segment (`segment`)

What nobody reads may go at any time, and is decoded again. Locks are the kernel's and end with
their process, however it ends.
"""

import contextlib
import fcntl
import io
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from vqpipe import storage
from vqpipe.errors import ConfigError

_GONE = ".gone-"


@dataclass(frozen=True)
class Cache:
    """A folder with a cap."""

    folder: Path
    most_bytes: int
    """Of all that is in it."""

    def open(self, key: str, size: int) -> "Place":
        """Returns the folder of a segment, made if it is not there, which stays while it is held.

        Args:
            key: The segment's.
            size: About how many bytes it will have.

        Raises:
            ConfigError: If there is no room for it.
        """
        while True:
            self._make(key, size)
            with contextlib.suppress(FileNotFoundError):
                place = Place(self.folder / key)
                if place.is_there():
                    return place

    def kept(self, key: str, make: Callable[[], npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
        """Returns numbers that are made once on this machine.

        Args:
            key: What they are called.
            make: Makes them, in the one process that comes first.
        """
        path = self.folder / f"{key}.counts"
        with self._alone(f"{key}.lock"):
            with contextlib.suppress(FileNotFoundError, EOFError, ValueError):  # or damaged
                found: npt.NDArray[np.int64] = np.load(path, allow_pickle=False)
                return found
            numbers, buffer = make(), io.BytesIO()
            np.save(buffer, numbers, allow_pickle=False)
            storage.replace(str(path), buffer.getvalue())
        return numbers

    def check(self, size: int) -> None:
        """Checks that so many bytes fit below the cap, whatever is there now.

        Raises:
            ConfigError: If they do not.
        """
        if size > self.most_bytes:
            self._refuse(size, "")

    def _make(self, key: str, size: int) -> None:
        with self._alone("lock"):
            path = self.folder / key
            if not path.exists():
                self._make_room(size)
                path.mkdir()

    @contextlib.contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = os.open(self.folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ConfigError(
                f"the reader's cache {self.folder} cannot be made: {error.strerror}. Name another "
                "folder by cache, or by VQPIPE_CACHE"
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)

    def _make_room(self, size: int) -> None:
        """Removes what was not used for longest until there is room for so many bytes."""
        others = {path: _bytes_of(path) for path in self._segments()}
        total = sum(others.values())
        for path in sorted(others, key=_last_used):
            if total + size <= self.most_bytes and size <= self._free():
                return
            if _remove(path):
                total -= others[path]
        self._check_room(size, total)

    def _check_room(self, size: int, total: int) -> None:
        if total + size > self.most_bytes:
            used = f", {_gigabytes(total)} of which others are reading" if total else ""
            self._refuse(size, used)
        if size > self._free():
            raise ConfigError(
                f"{_gigabytes(size)} are needed for the reader's cache {self.folder}, whose disk "
                f"has {_gigabytes(self._free())} left: name another by cache, or read in windows "
                "of fewer samples by window"
            )

    def _refuse(self, size: int, used: str) -> NoReturn:
        raise ConfigError(
            f"the reader's cache {self.folder} may have {_gigabytes(self.most_bytes)}{used}, and "
            f"{_gigabytes(size)} are needed: give more by cache_bytes, or read in windows of fewer "
            "samples by window"
        )

    def _free(self) -> int:
        return shutil.disk_usage(self.folder).free

    def _segments(self) -> list[Path]:
        found = [path for path in self.folder.iterdir() if path.is_dir()]
        for path in found:
            if path.name.startswith(_GONE):  # of a process that was killed while it removed it
                shutil.rmtree(path, ignore_errors=True)
        return [path for path in found if not path.name.startswith(".")]


class Place:
    """The folder of a segment, which nobody removes while this is held."""

    def __init__(self, path: Path) -> None:
        """Takes hold of a folder.

        Raises:
            FileNotFoundError: If it is not there.
        """
        self.path = path
        self._use = os.open(path / "use", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(self._use, fcntl.LOCK_SH)
        os.utime(self._use)

    def is_there(self) -> bool:
        """Tells whether it was not removed while it was being taken hold of."""
        try:
            return os.path.samestat(os.stat(self.path / "use"), os.fstat(self._use))
        except FileNotFoundError:
            return False

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if hasattr(self, "_use"):
            close(self._use)


def _remove(path: Path) -> bool:
    """Removes a segment unless somebody reads it; tells whether it did."""
    gone = path.with_name(f"{_GONE}{path.name}")
    with contextlib.suppress(FileNotFoundError, BlockingIOError):
        use = os.open(path / "use", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(use, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.rename(gone)
        finally:
            os.close(use)
        shutil.rmtree(gone, ignore_errors=True)
        return True
    return False


def _last_used(path: Path) -> float:
    try:
        return (path / "use").stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _bytes_of(path: Path) -> int:
    """Returns the bytes of a folder's files, which are as long as they will be."""
    sizes = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                sizes += os.stat(Path(folder, name)).st_size
    return sizes


def _gigabytes(size: int) -> str:
    return f"{size / 10**9:,.1f} GB" if size >= 10**8 else f"{size / 10**6:,.1f} MB"


def default_folder() -> Path:
    """Returns where the cache is by default: `VQPIPE_CACHE`, or in a user's folder for caches."""
    said = os.environ.get("VQPIPE_CACHE")
    if said:
        return Path(said)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "vqpipe" / "codes"
