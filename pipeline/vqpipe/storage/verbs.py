"""What the rest of the program asks of storage, by URI.

Where a URI points is a matter of its scheme (`uris`); who may go there is a matter of the
environment. Listings are always fresh. A failed request is a `StorageError`; only an answered
"there is no such object" is a `FileNotFoundError`. No reader ever gets fewer bytes than there are.
"""

import contextlib
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from vqpipe.errors import SourceChangedError
from vqpipe.schema import NO_FILE, File
from vqpipe.storage import disk, imprints, retries, tree, uris
from vqpipe.storage.content import Content, is_equal
from vqpipe.storage.local import OpenFile, found_of
from vqpipe.storage.refusals import ask
from vqpipe.storage.stores import Found, Handle, VersionGoneError, find_store
from vqpipe.storage.uris import join_uri

_READ_AHEAD_BYTES = 8 * 2**20
_BUFFER_BYTES = 2**20
_MAX_KEY_BYTES = 1_088
"""Most bytes of a path in a store: S3's keys have 1,024, and the names of its buckets 63."""


def list_files(uri: str, *, recursive: bool = True) -> list[File]:
    """Returns the objects below a prefix, sorted by URI, without hidden ones (`.name`).

    A prefix that does not exist is an empty list: object stores cannot tell the two apart.
    """
    return _list(uri, recursive=recursive).files


def _list(uri: str, *, recursive: bool) -> "Listing":
    store, path = find_store(uri)
    look = store.find if recursive else store.list_folder
    try:
        found = ask(uri, lambda: look(path))
    except FileNotFoundError:
        return Listing([])
    below, base = path.rstrip("/") + "/", _plain(uri).rstrip("/") + "/"
    names = {name[len(below) :]: each for name, each in found.items() if name.startswith(below)}
    files = [File(base + name, *each) for name, each in names.items() if not uris.is_hidden(name)]
    hidden, folders = uris.hidden_among(names) if len(files) < len(names) else ([], set())
    return Listing(
        sorted(files, key=lambda file: file.uri),
        hidden=tuple(sorted(base + name for name in hidden)),
        unsearched=tuple(sorted(base + name for name in folders)),
    )


@dataclass(frozen=True)
class Listing:
    """What is below a prefix of a source."""

    files: list[File]
    """Sorted by URI; `File.obstacle` says of which of them nothing can be read."""
    followed: tuple[str, ...] = ()
    """URIs of links to folders that were followed."""
    repeated: tuple[str, ...] = ()
    """URIs of folders, linked or behind a link, that were listed under another name."""
    hidden: tuple[str, ...] = ()
    """URIs of files whose names begin with a dot (not macOS' own, `._name`), sorted."""
    unsearched: tuple[str, ...] = ()
    """URIs of folders whose names begin with a dot, sorted: what is below them is not listed."""


def list_source(uri: str, depth: int | None = None) -> Listing:
    """Returns what is below a prefix; on a disk, links to folders are followed.

    Args:
        uri: The prefix; one that does not exist holds nothing.
        depth: Levels to list, as for `tree.walk`; stores may list more. None lists all of them.
    """
    scheme, path = uris.split_uri(uri)
    if scheme != "file":
        return _list(uri, recursive=depth != 1)
    try:
        found = ask(uri, lambda: tree.walk(path, depth))
    except FileNotFoundError:
        return Listing([])
    files = [_linked_file(join_uri(path, name), state) for name, state in found.files.items()]
    others = (found.followed, found.repeated, found.hidden, found.unsearched)
    uris_of = (tuple(sorted(join_uri(path, name) for name in names)) for names in others)
    return Listing(sorted(files, key=lambda file: file.uri), *uris_of)


def _linked_file(path: str, state: tree.State) -> File:
    return (
        File(path, 0, NO_FILE + state) if isinstance(state, str) else File(path, *found_of(state))
    )


def may_exist(uri: str) -> bool:
    """Tells whether something can have that very name; for certain only of a disk."""
    scheme, path = uris.split_uri(uri)
    if scheme == "file":
        return os.path.lexists(path)
    return len(path.encode("utf-8", "surrogatepass")) <= _MAX_KEY_BYTES


def stat(uri: str) -> File:
    """Returns size and version of one object.

    Raises:
        FileNotFoundError: If the store answers that there is none.
    """
    store, path = find_store(uri)
    return File(_plain(uri), *ask(uri, lambda: store.look(path)))


def is_on_disk(uri: str) -> bool:
    """Tells whether something is a file of this machine's file systems, and in no store."""
    return uris.split_uri(uri)[0] == "file"


def imprint(file: File) -> File:
    """Returns a file of a disk with an imprint in its version (`vqpipe.storage.imprints`).

    One that is gone, or in a store, is returned as it is.
    """
    path = Path(uris.split_uri(file.uri)[1])

    def take() -> str:
        with path.open("rb", buffering=0) as opened:
            return imprints.take_imprint(opened.fileno())

    if not is_on_disk(file.uri):
        return file
    try:
        found = imprints.imprinted(Found(file.size, file.version), ask(file.uri, take))
    except FileNotFoundError:
        return file
    return File(file.uri, *found)


def read(uri: str) -> bytes:
    """Returns a whole object.

    Raises:
        FileNotFoundError: If the store answers that there is none.
    """
    store, path = find_store(uri)
    return ask(uri, lambda: store.read(path))


def read_tail(file: File, size: int) -> bytes:
    """Returns the last `size` bytes of an object, or all of a smaller one.

    Raises:
        SourceChangedError: If it is another one than `file` says, as far as that shows.
    """
    if not file.size:
        return b""
    store, path = find_store(file.uri)
    start, end = max(0, file.size - size), file.size

    def fetch() -> bytes:
        data = store.read_range(path, start, end, file.version)
        if len(data) < end - start:  # cut short on its way, or another object by now
            _check_version(file, stat(file.uri))
        return _whole(data, end - start)

    try:
        return ask(file.uri, fetch)
    except VersionGoneError as error:
        raise SourceChangedError(f"{file.uri} changed since it was listed") from error


def open_file(file: File) -> BinaryIO:
    """Returns a seekable reader of exactly the version that was listed.

    Raises:
        SourceChangedError: If the object is gone or is another one than `file` says.
    """
    store, path = find_store(file.uri)
    try:
        handle = ask(file.uri, lambda: store.open(path, _READ_AHEAD_BYTES))
    except FileNotFoundError:
        raise SourceChangedError(f"{file.uri} was planned and is gone now") from None
    reader = _Reader(file, handle)
    try:
        reader.check()
    except SourceChangedError:
        reader.close()
        raise
    return io.BufferedReader(reader, _BUFFER_BYTES)


class _Reader(io.RawIOBase):
    """Reads one version of an object; the store's failures become `StorageError`s.

    A store says with every answer which version it is of. A file may be written while it is read:
    its time and size are looked at after every read, and at once, its imprint if anything moved.
    """

    def __init__(self, file: File, handle: Handle) -> None:
        self._file = file
        self._handle = handle

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 (any writable buffer)
        start = self._handle.tell()
        size: int = max(0, min(len(buffer), self._file.size - start))
        buffer[:size] = ask(self._file.uri, lambda: self._read(start, size))
        return size

    def _read(self, start: int, size: int) -> bytes:
        self._handle.seek(start)
        try:
            data = self._handle.read(size)
        except (FileNotFoundError, VersionGoneError) as error:
            raise SourceChangedError(f"{self._file.uri} changed while it was read") from error
        self.check()
        return _whole(data, size)

    def check(self) -> None:
        """Raises SourceChangedError if what is open is not what is wanted."""
        _check_version(self._file, self._look())

    def _look(self) -> Found:
        if isinstance(self._handle, OpenFile) and imprints.is_imprinted(self._file.version):
            return self._handle.look_closely()
        return self._handle.look()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._handle.seek(offset, whence)

    def tell(self) -> int:
        return self._handle.tell()

    def close(self) -> None:
        self._handle.close()
        super().close()


def _whole(data: bytes, size: int) -> bytes:
    if len(data) != size:
        raise retries.ShortAnswerError(f"it sent {len(data)} bytes of {size}")
    return data


def publish(uri: str, data: Content) -> bool:
    """Makes an object visible in one step; returns False if one was there already.

    What is there already stays as it is, where the store supports create-if-absent; a store that
    ignores it replaces the object, which is harmless for content that depends only on its name.
    """
    store, path = find_store(uri)
    return ask(uri, lambda: store.create(path, data))


def replace(uri: str, data: Content) -> None:
    """Makes an object visible in one step, in place of one that may be there."""
    store, path = find_store(uri)
    ask(uri, lambda: store.replace(path, data))


def replace_if(file: File, data: Content) -> bool:
    """Makes an object visible in one step, in place of exactly the version that was looked at.

    Where a store cannot tell versions apart when it replaces an object, the look and the
    replacement are two requests, and another writer's may come between them.

    Returns:
        False if another version is there, or none; nothing was changed then.
    """
    store, path = find_store(file.uri)
    expected = Found(file.size, file.version)
    try:
        is_done = ask(file.uri, lambda: store.replace_if(path, data, expected))
    except FileNotFoundError:
        return False
    return is_done or _holds(file.uri, data)


def _holds(uri: str, data: Content) -> bool:
    """Tells whether an object is what was to be written: by a request whose answer was lost."""
    try:
        found = stat(uri)
        if found.size != len(data):
            return False
        with open_file(found) as file:
            return is_equal(file, data)
    except (FileNotFoundError, SourceChangedError):
        return False


def delete(uri: str) -> None:
    """Removes an object; one that is not there is fine."""
    store, path = find_store(uri)
    with contextlib.suppress(FileNotFoundError):
        ask(uri, lambda: store.delete(path))


def creates_once(uri: str, data: bytes) -> bool:
    """Tells whether `publish` keeps what is there, by publishing the same once more."""
    store, path = find_store(uri)
    return ask(uri, lambda: store.creates_once(path, data))


def hurry() -> None:
    """Has this process give up within seconds, not minutes, on a store that never answers it."""
    retries.hurry()


def sweep(uri: str) -> None:
    """Removes what killed writers have left below a folder; a bucket has nothing of the kind."""
    scheme, path = uris.split_uri(uri)
    if scheme == "file":
        ask(uri, lambda: disk.sweep(Path(path)))


def _plain(uri: str) -> str:
    """Returns how a URI stands in a `File`."""
    scheme, path = uris.split_uri(uri)
    return path if scheme == "file" else f"{scheme}://{path}"


def _check_version(file: File, found: File | Found) -> None:
    if (found.size, found.version) != (file.size, file.version):
        raise SourceChangedError(
            f"{file.uri} changed since the run was planned: it was {file.size} bytes, version "
            f"{file.version}, and is {found.size} bytes, version {found.version}; restore it, or "
            "take it in: vqpipe encode and decode do so with --replace-changed"
        )
