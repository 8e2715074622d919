"""fsspec behind six verbs: list, stat, read, publish, replace, delete: the only door to a store.

Where a URI points is a matter of its scheme; who may go there is a matter of the environment (for
`s3://`: the standard AWS variables, profiles, config files and roles, endpoint included).
Listings are always fresh. A failed request is a `StorageError`; only an answered "there is no such
object" is a `FileNotFoundError`. No reader ever gets fewer bytes than there are. Behind this door:
`pipeline.disk` makes files, `pipeline.retries` asks again, `pipeline.refusals` says what failed.
"""

import contextlib
import functools
import io
import os
import time
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

import fsspec
from fsspec import AbstractFileSystem

from pipeline import disk, refusals, retries
from pipeline.errors import ConfigError, SourceChangedError
from pipeline.refusals import ask
from pipeline.schema import File

SCHEMES = {"file": "", "s3": "", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure"}
"""Allowed schemes, and the extra of this package that brings each."""

_READ_AHEAD_BYTES = 8 * 2**20
_BUFFER_BYTES = 2**20
_PUT_BYTES = 5 * 2**30
"""Larger objects go up in parts, whose leftovers nobody sees and everybody pays; S3's own limit."""
_EXISTS = {"PreconditionFailed", "412"}  # S3's answers to a create of what is there
_CONFLICT = {
    "ConditionalRequestConflict",  # another create is under way
    "409",
    "NoSuchUpload",  # parts were put together, and the answer was lost
}
_CONFLICT_ATTEMPTS = 6
_UNKNOWN = {"NotImplemented", "501"}
"""Answers to a condition that a store does not know."""


def normalise_uri(uri: str) -> str:
    """Returns the URI without a trailing slash; a local path becomes absolute, without scheme.

    Raises:
        ConfigError: For a scheme that is not allowed, or a user or password in the URL.
    """
    if "://" not in uri:
        return str(Path(uri).expanduser().absolute()).rstrip("/") or "/"
    parts = urlsplit(uri)
    if parts.scheme not in SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise ConfigError(f"{parts.scheme}:// is not supported; use a local path or {known}")
    if "@" in parts.netloc and (parts.scheme != "abfs" or parts.password is not None):
        raise ConfigError(
            f"a {parts.scheme}:// URL holds credentials; take them out and give them in the "
            "environment or the store's own config files"
        )
    return uri.removeprefix("file://").rstrip("/")


def join_uri(base: str, *names: str) -> str:
    """Returns the URI of an object below `base`."""
    return "/".join([base.rstrip("/"), *names])


def list_files(uri: str, *, recursive: bool = True) -> list[File]:
    """Returns the objects below a prefix, sorted by URI, without hidden ones (`.name`).

    A prefix that does not exist is an empty list: object stores cannot tell the two apart.
    """
    fs, path = _resolve(uri)
    try:
        found = ask(uri, lambda: _find(fs, path) if recursive else _list_folder(fs, path))
    except FileNotFoundError:
        return []
    below, base = path.rstrip("/") + "/", normalise_uri(uri).rstrip("/") + "/"
    names = {name[len(below) :]: info for name, info in found.items() if name.startswith(below)}
    files = [_file(base + name, info) for name, info in names.items() if not _is_hidden(name)]
    return sorted(files, key=lambda file: file.uri)


def stat(uri: str) -> File:
    """Returns size and version of one object.

    Raises:
        FileNotFoundError: If the store answers that there is none.
    """
    fs, path = _resolve(uri)
    info = ask(uri, lambda: fs.info(path))
    if info["type"] == "directory":
        raise FileNotFoundError(uri)
    return _file(normalise_uri(uri), info)


def read(uri: str) -> bytes:
    """Returns a whole object.

    Raises:
        FileNotFoundError: If the store answers that there is none.
    """
    fs, path = _resolve(uri)
    if _is_local(fs):
        return ask(uri, Path(path).read_bytes)
    # One request: several at once would mix versions, and s3fs leaves zeros where one is short.
    return ask(uri, lambda: cast(bytes, fs.cat_file(path, max_concurrency=1)))


def read_tail(file: File, size: int) -> bytes:
    """Returns the last `size` bytes of an object, or all of a smaller one.

    The range is absolute: some stores refuse a suffix that is longer than the object.
    """
    if not file.size:
        return b""
    fs, path = _resolve(file.uri)
    start, end = max(0, file.size - size), file.size

    def fetch() -> bytes:
        data = fs.cat_file(path, start=start, end=end)
        if len(data) < end - start:  # cut short on its way, or another object by now
            _check_version(file, stat(file.uri))
        return _whole(data, end - start)

    return ask(file.uri, fetch)


def open_file(file: File) -> BinaryIO:
    """Returns a seekable reader of exactly the version that was listed.

    Raises:
        SourceChangedError: If the object is gone or is another one than `file` says.
    """
    fs, path = _resolve(file.uri)
    try:
        handle = ask(file.uri, lambda: _open(fs, path))
    except FileNotFoundError:
        raise SourceChangedError(f"{file.uri} was planned and is gone now") from None
    reader = _Reader(file, handle)
    try:
        reader.check()
    except SourceChangedError:
        reader.close()
        raise
    return io.BufferedReader(reader, _BUFFER_BYTES)


def _open(fs: AbstractFileSystem, path: str) -> Any:  # noqa: ANN401 (fsspec has no types)
    if _is_local(fs):
        return open(path, "rb", buffering=0)
    return fs.open(path, "rb", block_size=_READ_AHEAD_BYTES, cache_type="readahead")


class _Reader(io.RawIOBase):
    """Reads one version of an object; the store's failures become `StorageError`s.

    A store says with every answer which version it is of. A file may be written while it is read:
    its time and size are looked at after every read, and at once.
    """

    def __init__(self, file: File, handle: Any) -> None:  # noqa: ANN401 (of a file, or fsspec's)
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
        except OSError as error:
            if _is_gone(error):
                raise SourceChangedError(f"{self._file.uri} changed while it was read") from error
            raise
        self.check()
        return _whole(data, size)

    def check(self) -> None:
        """Raises SourceChangedError if what is open is not what is wanted."""
        if isinstance(self._handle, io.FileIO):
            found = os.fstat(self._handle.fileno())
            info = {"size": found.st_size, "mtime": found.st_mtime}
        else:
            info = self._handle.details
        _check_version(self._file, _file(self._file.uri, info))

    def seek(self, offset: int, whence: int = 0) -> int:
        return cast(int, self._handle.seek(offset, whence))

    def tell(self) -> int:
        return cast(int, self._handle.tell())

    def close(self) -> None:
        self._handle.close()
        super().close()


def _whole(data: bytes, size: int) -> bytes:
    if len(data) != size:
        raise retries.ShortAnswerError(f"it sent {len(data)} bytes of {size}")
    return data


def publish(uri: str, data: bytes) -> bool:
    """Makes an object visible in one step; returns False if one was there already.

    What is there already stays as it is, where the store supports create-if-absent; a store that
    ignores it replaces the object, which is harmless for content that depends only on its name.
    """
    fs, path = _resolve(uri)
    if _is_local(fs):
        return ask(uri, lambda: disk.publish(Path(path), data))
    return ask(uri, lambda: _put(fs, path, data, mode="create"))


def replace(uri: str, data: bytes) -> None:
    """Makes an object visible in one step, in place of one that may be there."""
    fs, path = _resolve(uri)
    if _is_local(fs):
        ask(uri, lambda: disk.replace(Path(path), data))
    else:
        ask(uri, lambda: _put(fs, path, data, mode="overwrite"))


def replace_if(file: File, data: bytes) -> bool:
    """Makes an object visible in one step, in place of exactly the version that was looked at.

    Where a store cannot tell versions apart when it replaces an object, the look and the
    replacement are two requests, and another writer's may come between them.

    Returns:
        False if another version is there, or none; nothing was changed then.
    """
    fs, path = _resolve(file.uri)
    if _is_local(fs):
        return ask(file.uri, lambda: disk.replace_if(Path(path), data, lambda: _is_there(file)))
    if not _is_there(file):
        return False
    match = _match(fs, file) if len(data) < _PUT_BYTES else {}
    try:
        is_done = ask(file.uri, lambda: _put(fs, path, data, mode="overwrite", **match))
    except FileNotFoundError:  # it went after the look
        return False
    return is_done or _holds(file.uri, data)


def _match(fs: AbstractFileSystem, file: File) -> dict[str, str]:
    """Returns the condition of a request that is to replace one version of an object."""
    return {"IfMatch": f'"{file.version}"'} if "s3" in fs.protocol else {}


def _is_there(file: File) -> bool:
    try:
        return stat(file.uri) == file
    except FileNotFoundError:
        return False


def _holds(uri: str, data: bytes) -> bool:
    """Tells whether an object is what was to be written: by a request whose answer was lost."""
    try:
        return stat(uri).size == len(data) and read(uri) == data
    except FileNotFoundError:
        return False


def _put(fs: AbstractFileSystem, path: str, data: bytes, mode: str, **match: str) -> bool:
    """Puts a remote object; again while another request for it is under way and may fail.

    Returns:
        False if it was there, or was not what it had to match: from another writer, or from a
        request whose answer was lost.
    """
    for attempt in range(_CONFLICT_ATTEMPTS):
        try:  # s3fs doubles the size
            fs.pipe_file(path, data, mode=mode, chunksize=_PUT_BYTES // 2, **match)
        except FileExistsError:
            return False
        except OSError as error:
            code = refusals.code(error)
            if code in _EXISTS:
                return False
            if code in _UNKNOWN and match:
                return _put(fs, path, data, mode)
            if code not in _CONFLICT or attempt == _CONFLICT_ATTEMPTS - 1:
                raise
            time.sleep(2.0**attempt / 10)
        else:
            return True
    raise AssertionError("unreachable")


def delete(uri: str) -> None:
    """Removes an object; one that is not there is fine."""
    fs, path = _resolve(uri)
    with contextlib.suppress(FileNotFoundError):
        if _is_local(fs):
            ask(uri, lambda: disk.delete(Path(path)))
        else:
            ask(uri, lambda: fs.rm_file(path))


def hurry() -> None:
    """Has this process give up within seconds, not minutes, on a store that never answers it."""
    retries.hurry()


def sweep(uri: str) -> None:
    """Removes what killed writers have left below a folder; a bucket has nothing of the kind."""
    fs, path = _resolve(uri)
    if _is_local(fs):
        ask(uri, lambda: disk.sweep(Path(path)))


def _resolve(uri: str) -> tuple[AbstractFileSystem, str]:
    uri = normalise_uri(uri)
    scheme, _, path = uri.rpartition("://")
    return _filesystem(scheme or "file"), path


@functools.cache
def _filesystem(scheme: str) -> AbstractFileSystem:
    options: dict[str, Any] = {"use_listings_cache": False}
    try:
        if scheme != "s3":
            return fsspec.filesystem(scheme, **options)
        fs = fsspec.filesystem("s3", **options, **retries.options())
    except ImportError as error:
        extra = SCHEMES[scheme]
        raise ConfigError(
            f"{scheme}:// needs a package that is not installed ({error.name}): "
            f"pip install 'vqpipe[{extra}]'"
        ) from error
    fs.retries = 1  # s3fs's own, which would repeat all of ours
    return fs


def _find(fs: AbstractFileSystem, path: str) -> dict[str, dict[str, Any]]:
    """Returns files at any depth; fsspec's own walk leaves out folders that it may not list."""

    def on_error(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # `delete` removes empty folders
            raise error

    options = {"on_error": on_error} if _is_local(fs) else {}
    return cast(dict[str, dict[str, Any]], fs.find(path, detail=True, **options))


def _list_folder(fs: AbstractFileSystem, path: str) -> dict[str, dict[str, Any]]:
    """Returns the files of one folder; `find(maxdepth=1)` takes a refused listing for empty."""
    found = fs.ls(path, detail=True)
    return {info["name"]: info for info in found if info["type"] != "directory"}


def _is_local(fs: AbstractFileSystem) -> bool:
    return "file" in fs.protocol


def _file(uri: str, info: dict[str, Any]) -> File:
    tag = info.get("ETag") or info.get("etag") or info.get("md5Hash")
    version = _mtime(info) if "mtime" in info else tag or info.get("LastModified", "")
    return File(uri, int(info["size"]), str(version).strip('"'))


def _mtime(info: dict[str, Any]) -> float:
    """Returns when a file changed; of a symbolic link, when its target did."""
    if info.get("islink"):
        with contextlib.suppress(OSError):  # it leads nowhere: opening it will say so
            return os.stat(info["name"]).st_mtime
    return float(info["mtime"])


def _is_hidden(relative: str) -> bool:
    return any(part.startswith(".") for part in relative.split("/"))


def _is_gone(error: OSError) -> bool:
    """s3fs compares the ETag of every range that it reads, and says `FileExpired`."""
    return isinstance(error, FileNotFoundError) or type(error).__name__ == "FileExpired"


def _check_version(file: File, found: File) -> None:
    if (found.size, found.version) != (file.size, file.version):
        raise SourceChangedError(
            f"{file.uri} changed since the run was planned: it was {file.size} bytes, version "
            f"{file.version}, and is {found.size} bytes, version {found.version}; restore it, or "
            "take it in: vqpipe encode and decode do so with --replace-changed"
        )
