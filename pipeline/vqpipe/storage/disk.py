"""Objects on a file system: whole or not there, whatever dies at whatever moment.

An object is written to a hidden file beside its place, made durable, and moved there in one step.
Its writer holds a lock on the hidden file, which the kernel lets go of when the writer dies: what a
killed writer leaves behind can be told from what others are writing, and swept. Those who replace
an object only if it is still what they have looked at take turns by the lock of another such file,
and so do all who create one where there are no hard links (exFAT, SMB, FUSE). Where there are no
locks either, writers cannot be told from one another (`creates_once`), and what killed ones leave
behind goes after a day.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from vqpipe.storage.content import Content, copy_to

_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.(tmp|lock)")
_ATTEMPTS = 100
"""Folders vanish under a writer: others `delete` what was the last object of them."""
_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.EINVAL}
"""What disks say that know no hard links."""
_AT_WORK = {errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES}
"""What `flock` says of a lock that another has; anything else is of a disk without locks."""
_DEAD_S = 86_400


def publish(path: Path, data: Content) -> bool:
    """Makes an object visible in one step; returns False, and changes nothing, if one is there."""
    try:
        _place(path, data, _move_new)
    except FileExistsError:
        return False
    return True


def _move_new(temporary: Path, path: Path) -> None:
    """Moves a file to where none is, and fails if one is there: in one step, or in turns."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with _turn(path):
            if os.path.lexists(path):
                raise FileExistsError(path) from None
            os.replace(temporary, path)


def creates_once(folder: Path) -> bool:
    """Tells whether of several that `publish` one object at once in a folder only one succeeds."""
    names = [folder / f".{uuid.uuid4().hex}.tmp" for _ in range(2)]
    try:
        with _create(names[0]) as file:
            try:
                os.link(*names)
            except OSError:
                _lock(file)
    except OSError:
        return False
    finally:
        for name in names:
            name.unlink(missing_ok=True)
    return True


def replace(path: Path, data: Content) -> None:
    """Makes an object visible in one step, in place of one that may be there."""
    _place(path, data, os.replace)


class _ChangedError(Exception):
    """What is there is not what was looked at."""


def replace_if(path: Path, data: Content, is_same: Callable[[], bool]) -> bool:
    """Makes an object visible in one step, in place of one that is still the same.

    Args:
        path: Where it is.
        data: What is to be there.
        is_same: Looks at what is there; no other call of this function replaces it meanwhile.

    Returns:
        False if it was not the same; nothing was changed then.
    """

    def move(temporary: Path, place: Path) -> None:
        with _turn(place):
            if not is_same():
                raise _ChangedError
            os.replace(temporary, place)

    try:
        _place(path, data, move)
    except _ChangedError:
        return False
    return True


def delete(path: Path) -> None:
    """Removes an object, and its folder with the last one."""
    path.unlink()
    with contextlib.suppress(OSError):  # the folder holds more, or is gone
        path.parent.rmdir()


def sweep(folder: Path) -> None:
    """Removes what writers that were killed have left below a folder, and nothing of live ones."""
    for parent, _, names in os.walk(folder):
        for name in filter(_TEMPORARY.fullmatch, names):
            with contextlib.suppress(OSError):  # it is gone, or its writer is at work
                _remove_unlocked(Path(parent, name))


def _remove_unlocked(path: Path) -> None:
    with path.open("r+b") as file:  # NFS locks no file that is open for reading only
        try:
            _lock(file)
        except OSError as error:
            if error.errno in _AT_WORK or time.time() - path.stat().st_mtime < _DEAD_S:
                raise
        if _is_at(file, path):  # not one that took the place of what was opened
            delete(path)


@contextlib.contextmanager
def _turn(path: Path) -> Iterator[None]:
    """Waits until no other process is in such a block for the same object."""
    name = hashlib.blake2b(path.name.encode(errors="surrogateescape"), digest_size=16).hexdigest()
    lock = path.with_name(f".{name}.lock")
    with _open_locked(lock):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _open_locked(path: Path) -> BinaryIO:
    """Returns a locked file that lies at `path`; the one before it goes as its lock does."""
    for _ in range(_ATTEMPTS):
        file = path.open("ab")
        with contextlib.suppress(OSError):  # some network file systems lock nothing
            fcntl.flock(file, fcntl.LOCK_EX)
        if _is_at(file, path):
            break
        file.close()
    else:
        raise OSError(errno.ESTALE, "something keeps removing what is locked")
    return file


def _is_at(file: BinaryIO, path: Path) -> bool:
    """Tells whether an open file is the one at `path`."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _lock(file: BinaryIO) -> None:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _place(path: Path, data: Content, move: Callable[[Path, Path], None]) -> None:
    """Writes a durable file beside `path` and moves it there; leaves nothing if that fails."""
    for attempt in range(_ATTEMPTS):
        temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
        try:
            with _create(temporary) as file:
                _write(file, data)
                move(temporary, path)
        except FileNotFoundError as error:  # its folder went, or a sweep was there before the lock
            if attempt == _ATTEMPTS - 1:
                raise OSError(errno.ESTALE, "something keeps removing what is written") from error
        else:
            break
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
    _fsync_folder(path.parent)


def _create(path: Path) -> BinaryIO:
    """Creates a file, and the folders that it needs."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError:  # mkdir says so of a file, and of a folder that went while it looked
        if path.parent.is_file():
            raise NotADirectoryError(f"{path.parent} is a file, not a folder") from None
        raise FileNotFoundError(path.parent) from None
    return path.open("xb")


def _write(file: BinaryIO, data: Content) -> None:
    with contextlib.suppress(OSError):  # some network file systems lock nothing: nor does a sweep
        _lock(file)
    copy_to(file, data)
    file.flush()
    os.fsync(file.fileno())


def _fsync_folder(path: Path) -> None:
    with contextlib.suppress(OSError):  # some network file systems refuse to sync a folder
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
