"""fsspec behind five verbs: list, stat, read, publish, delete. The only file that opens anything.

Where a URI points is a matter of its scheme; who may go there is a matter of the environment
(for `s3://`: the standard AWS variables, profiles, config files and roles, endpoint included).
Listings are always fresh. A failed request is a `StorageError`; only an answered "there is no such
object" is a `FileNotFoundError`.
"""

import contextlib
import functools
import io
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

import fsspec
from fsspec import AbstractFileSystem

from pipeline.errors import ConfigError, SourceChangedError, StorageError
from pipeline.schema import File

SCHEMES = {"file": "", "s3": "", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure"}
"""Allowed schemes, and the extra of this package that brings each."""

_READ_AHEAD_BYTES = 8 * 2**20
_BUFFER_BYTES = 2**20
_RETRIES = {"mode": "standard", "max_attempts": 8}  # botocore: exponential back-off with jitter
_EXISTS = {"PreconditionFailed", "412"}  # S3's answers to a create of what is there
_CONFLICT = {"ConditionalRequestConflict", "409"}  # ... while another create is under way
_CONFLICT_ATTEMPTS = 6
_FOLDER_ATTEMPTS = 100
_ATTEMPT_TIMEOUTS_S = {"connect_timeout": 10, "read_timeout": 60}


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
    if "@" in parts.netloc and parts.scheme != "abfs":
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
        with _translated(uri):
            found = _find(fs, path) if recursive else _list_folder(fs, path)
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
    with _translated(uri):
        info = fs.info(path)
    if info["type"] == "directory":
        raise FileNotFoundError(uri)
    return _file(normalise_uri(uri), info)


def read(uri: str) -> bytes:
    """Returns a whole object.

    Raises:
        FileNotFoundError: If the store answers that there is none.
    """
    fs, path = _resolve(uri)
    with _translated(uri):
        return cast(bytes, fs.cat_file(path))


def read_tail(file: File, size: int) -> bytes:
    """Returns the last `size` bytes of an object, or all of a smaller one.

    The range is absolute: some stores refuse a suffix that is longer than the object.
    """
    if not file.size:
        return b""
    fs, path = _resolve(file.uri)
    with _translated(file.uri):
        return cast(bytes, fs.cat_file(path, start=max(0, file.size - size), end=file.size))


def open_file(file: File) -> BinaryIO:
    """Returns a seekable reader of exactly the version that was listed.

    Raises:
        SourceChangedError: If the object is gone or is another one than `file` says.
    """
    fs, path = _resolve(file.uri)
    with _translated(file.uri):
        try:
            handle = fs.open(path, "rb", block_size=_READ_AHEAD_BYTES, cache_type="readahead")
            info = fs.info(path) if _is_local(fs) else handle.details  # of what was opened
        except FileNotFoundError:
            raise SourceChangedError(f"{file.uri} was planned and is gone now") from None
    reader = io.BufferedReader(_Reader(file.uri, handle), _BUFFER_BYTES)
    _check_version(file, _file(file.uri, info))
    return reader


class _Reader(io.RawIOBase):
    """Reads a store's file object; its failures become `StorageError`, unlike a parser's."""

    def __init__(self, uri: str, handle: BinaryIO) -> None:
        self._uri = uri
        self._handle = handle

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 (any writable buffer)
        with _translated(self._uri):
            try:
                data = self._handle.read(len(buffer))
            except OSError as error:
                if _is_gone(error):
                    raise SourceChangedError(f"{self._uri} changed while it was read") from error
                raise
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._handle.seek(offset, whence)

    def tell(self) -> int:
        return self._handle.tell()

    def close(self) -> None:
        self._handle.close()
        super().close()


def publish(uri: str, data: bytes) -> bool:
    """Makes an object visible in one step; returns False if one was there already.

    What is there already stays as it is, where the store supports create-if-absent; a store that
    ignores it replaces the object, which is harmless for content that depends only on its name.
    """
    fs, path = _resolve(uri)
    with _translated(uri):
        return _publish_local(Path(path), data) if _is_local(fs) else _create(fs, path, data)


def _create(fs: AbstractFileSystem, path: str, data: bytes) -> bool:
    """Creates a remote object; tries again while another create of it is under way and may fail."""
    for attempt in range(_CONFLICT_ATTEMPTS):
        try:
            fs.pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            code = _error_code(error)
            if code in _EXISTS:
                return False
            if code not in _CONFLICT or attempt == _CONFLICT_ATTEMPTS - 1:
                raise
            time.sleep(2.0**attempt / 10)
        else:
            return True
    raise AssertionError("unreachable")


def replace(uri: str, data: bytes) -> None:
    """Makes an object visible in one step, in place of one that may be there."""
    fs, path = _resolve(uri)
    with _translated(uri):
        if _is_local(fs):
            with _temporary(Path(path), data) as temporary:
                temporary.replace(path)
        else:
            fs.pipe_file(path, data)


def delete(uri: str) -> None:
    """Removes an object; one that is not there is fine."""
    fs, path = _resolve(uri)
    with _translated(uri), contextlib.suppress(FileNotFoundError):
        fs.rm_file(path)
        if _is_local(fs):
            with contextlib.suppress(OSError):  # the folder holds more, or is gone
                Path(path).parent.rmdir()


def _resolve(uri: str) -> tuple[AbstractFileSystem, str]:
    uri = normalise_uri(uri)
    scheme, _, path = uri.rpartition("://")
    return _filesystem(scheme or "file"), path


@functools.cache
def _filesystem(scheme: str) -> AbstractFileSystem:
    options: dict[str, Any] = {"use_listings_cache": False}
    if scheme == "s3":
        options["config_kwargs"] = {"retries": _RETRIES, **_ATTEMPT_TIMEOUTS_S}
    try:
        return fsspec.filesystem(scheme, **options)
    except ImportError as error:
        extra = SCHEMES[scheme]
        raise ConfigError(
            f"{scheme}:// needs a package that is not installed ({error.name}): "
            f"pip install 'vqpipe[{extra}]'"
        ) from error


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
    version = tag or info.get("mtime") or info.get("LastModified") or ""
    return File(uri, int(info["size"]), str(version).strip('"'))


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
            "encode into a new sink"
        )


def _publish_local(path: Path, data: bytes) -> bool:
    with _temporary(path, data) as temporary:
        try:
            os.link(temporary, path)  # fails if it exists, in one step
        except FileExistsError:
            return False
    return True


@contextlib.contextmanager
def _temporary(path: Path, data: bytes) -> Iterator[Path]:
    """Yields a durable file with the data beside `path`, hidden, and removes what is left of it."""
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    _create_empty(temporary)
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
        _fsync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _create_empty(path: Path) -> None:
    """Creates a file and its folder, which a `delete` elsewhere may remove at any moment."""
    for attempt in range(_FOLDER_ATTEMPTS):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)  # fails if it goes while it looks
            path.touch(exist_ok=False)
        except (FileNotFoundError, FileExistsError):  # the latter for ever if a parent is a file
            if attempt == _FOLDER_ATTEMPTS - 1:
                raise
        else:
            return


def _fsync_folder(path: Path) -> None:
    with contextlib.suppress(OSError):  # some network file systems refuse to sync a folder
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _error_code(error: OSError) -> str:
    """Returns what S3 called the failure that s3fs made an OSError of, or an empty string."""
    response = getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


@contextlib.contextmanager
def _translated(uri: str) -> Iterator[None]:
    """Turns what the store's client raises into a `StorageError` that names the store."""
    try:
        yield
    except Exception as error:
        if not _is_store_error(error):
            raise
        store = urlsplit(uri).scheme or "file"
        raise StorageError(
            f"{store} store refused {uri}: {type(error).__name__}: {error}; check that the "
            "address is right and that the environment's credentials may use it"
        ) from error


def _is_store_error(error: Exception) -> bool:
    """Tells a client's errors (OSError, botocore's, aiohttp's, ...) from answers and from bugs."""
    if isinstance(error, FileNotFoundError):
        return _error_code(error) == "NoSuchBucket"
    client_modules = ("botocore", "aiobotocore", "aiohttp", "google", "azure", "gcsfs")
    return isinstance(error, OSError) or type(error).__module__.startswith(client_modules)
