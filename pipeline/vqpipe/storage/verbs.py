"""What the rest of the program asks of storage, by URI.

Where a URI points is a matter of its scheme (`uris`); who may go there is a matter of the
environment. Listings are always fresh. A failed request is a `StorageError`; only an answered
"there is no such object" is a `FileNotFoundError`. No reader ever gets fewer bytes than there are.
"""

import contextlib
import os
from pathlib import Path

from vqpipe.errors import SourceChangedError
from vqpipe.schema import File
from vqpipe.storage import disk, imprints, meter, retries, uris
from vqpipe.storage.content import Content, is_equal
from vqpipe.storage.reader import check_version, open_file, whole
from vqpipe.storage.refusals import ask
from vqpipe.storage.stores import Found, VersionGoneError, find_store
from vqpipe.storage.uris import plain_uri

_MAX_KEY_BYTES = 1_088
"""Most bytes of a path in a store: S3's keys have 1,024, and the names of its buckets 63."""


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
    return File(plain_uri(uri), *ask(uri, lambda: store.look(path)))


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
    data = ask(uri, lambda: store.read(path))
    meter.note_read(len(data))
    return data


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
            check_version(file, stat(file.uri))
        return whole(data, end - start)

    try:
        data = ask(file.uri, fetch)
    except VersionGoneError as error:
        raise SourceChangedError(f"{file.uri} changed since it was listed") from error
    meter.note_read(len(data))
    return data


def publish(uri: str, data: Content) -> bool:
    """Makes an object visible in one step; returns False if one was there already.

    What is there already stays as it is, where the store supports create-if-absent; a store that
    ignores it replaces the object, which is harmless for content that depends only on its name.
    """
    store, path = find_store(uri)
    is_new = ask(uri, lambda: store.create(path, data))
    meter.note_written(len(data) if is_new else 0)
    return is_new


def replace(uri: str, data: Content) -> None:
    """Makes an object visible in one step, in place of one that may be there."""
    store, path = find_store(uri)
    ask(uri, lambda: store.replace(path, data))
    meter.note_written(len(data))


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
    meter.note_written(len(data))
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
