"""Stores in S3's protocol, by s3fs.

Who asks is a matter of the standard AWS variables, profiles, config files and roles, endpoint
included; `FSSPEC_S3_ANON=true` asks as nobody, `FSSPEC_S3_REQUESTER_PAYS=true` pays.
"""

import contextlib
import time
from typing import Any, cast

from botocore.exceptions import ClientError
from fsspec.asyn import sync
from s3fs import S3FileSystem
from s3fs.errors import translate_boto_error

from vqpipe.storage import refusals, retries
from vqpipe.storage.content import Content, rewind
from vqpipe.storage.served import Served
from vqpipe.storage.stores import Found, VersionGoneError

_PUT_BYTES = 5 * 2**30
"""Larger objects go up in parts, whose leftovers nobody sees and everybody pays; S3's own limit."""
_PART_BYTES, _PARTS_AT_A_TIME = 64 * 2**20, 4
"""Of these, which are in memory; an object has 10,000 at most."""
_EXISTS = {"PreconditionFailed", "412"}  # answers to a create of what is there
_CONFLICT = {
    "ConditionalRequestConflict",  # another create is under way
    "409",
    "NoSuchUpload",  # parts were put together, and the answer was lost
}
_CONFLICT_ATTEMPTS = 6
_UNKNOWN = {  # answers to a condition that a store does not know, or to one that it may not know
    *("NotImplemented", "501", "MethodNotAllowed", "405"),
    *("InvalidArgument", "InvalidRequest", "NotSupported", "XNotImplemented", "400"),
}


class _Buckets(S3FileSystem):  # type: ignore[misc]  # s3fs has no types
    """s3fs takes `?versionId=` and what follows out of every key; here it is part of it."""

    def split_path(self, path: str) -> tuple[str, str, None]:
        """Returns bucket, key and no version."""
        before, mark, after = path.partition("?versionId=")
        bucket, key, _ = super().split_path(before)
        return bucket, key + mark + after, None

    async def find_below(self, path: str) -> dict[str, Found]:
        """Returns the objects below a prefix, by path.

        s3fs' own `find` holds a dictionary of what is said of each and works out the folders that
        they are in, 1.8 kB for each object.
        """
        bucket, key, _ = self.split_path(path)
        prefix = key.lstrip("/") + "/" if key else ""
        found = {}
        try:
            async for info in self._iterdir(bucket, delimiter="", prefix=prefix):
                found[info["name"]] = _found(info)
        except ClientError as error:
            raise translate_boto_error(error) from error
        return found


class S3(Served):
    """Buckets: the version of an object is its ETag."""

    def __init__(self) -> None:
        options = {"use_listings_cache": False, **retries.options()}
        super().__init__(_Buckets(**options), _found)
        self._fs.retries = 1  # s3fs's own, which would repeat all of ours
        self._knows_conditions = True  # until the store says otherwise

    def find(self, path: str) -> dict[str, Found]:
        """Returns the objects below a prefix."""
        return cast(dict[str, Found], sync(self._fs.loop, self._fs.find_below, path))

    def read(self, path: str) -> bytes:
        """Returns an object by one request: several at once would mix versions.

        And s3fs leaves zeros where one of them is short.
        """
        return cast(bytes, self._fs.cat_file(path, max_concurrency=1))

    def read_range(self, path: str, start: int, end: int, version: str) -> bytes:  # noqa: ARG002
        """Returns bytes of an object, of whatever version.

        The range is absolute: some stores refuse a suffix that is longer than the object.
        """
        return cast(bytes, self._fs.cat_file(path, start=start, end=end))

    def open(self, path: str, block: int) -> "_OpenObject":
        """Opens an object; s3fs asks for its ETag with every range."""
        return _OpenObject(self._fs.open(path, "rb", block_size=block, cache_type="readahead"))

    def create(self, path: str, data: Content) -> bool:
        """Puts an object unless it is there.

        Returns:
            False if it was: from another writer, or from a request whose answer was lost. Where a
            store knows no conditions, another writer's may come between a look and the request.
        """
        if self._knows_conditions:
            try:
                return self._put(path, data, mode="create")
            except OSError as error:
                if refusals.code(error) not in _UNKNOWN:
                    raise
        with contextlib.suppress(FileNotFoundError):
            self.look(path)
            return False
        self._put(path, data, mode="overwrite")
        self._knows_conditions = False  # it takes the same without one
        return True

    def replace(self, path: str, data: Content) -> None:
        """Puts an object."""
        self._put(path, data, mode="overwrite")

    def replace_if(self, path: str, data: Content, expected: Found) -> bool:
        """Puts an object in place of the expected one."""
        if self.look(path) != expected:
            return False
        match = {"IfMatch": f'"{expected.version}"'} if len(data) < _PUT_BYTES else {}
        return self._put(path, data, mode="overwrite", **match)

    def delete(self, path: str) -> None:
        """Removes an object."""
        self._fs.rm_file(path)

    def creates_once(self, path: str, data: Content) -> bool:
        """Tells whether the store honours If-None-Match."""
        try:
            return not self._put(path, data, mode="create")
        except OSError as error:
            if refusals.code(error) not in _UNKNOWN:
                raise
            return False

    def _put(self, path: str, data: Content, mode: str, **match: str) -> bool:
        """Puts an object; again while another request for it is under way and may fail.

        Returns:
            False if it was there, or was not what it had to match: from another writer, or from a
            request whose answer was lost.
        """
        for attempt in range(_CONFLICT_ATTEMPTS):
            try:
                self._fs.pipe_file(path, rewind(data), mode=mode, **_parts(len(data)), **match)
            except FileExistsError:
                return False
            except OSError as error:
                code = refusals.code(error)
                if code in _EXISTS:
                    return False
                if code in _UNKNOWN and match:
                    return self._put(path, data, mode)
                if code not in _CONFLICT or attempt == _CONFLICT_ATTEMPTS - 1:
                    raise
                time.sleep(2.0**attempt / 10)
            else:
                return True
        raise AssertionError("unreachable")


def _parts(size: int) -> dict[str, int]:
    """Returns how s3fs puts an object of so many bytes: whole, or if it must be in parts."""
    if size < _PUT_BYTES:
        return {"chunksize": _PUT_BYTES // 2}  # s3fs doubles it
    return {"chunksize": _PART_BYTES, "max_concurrency": _PARTS_AT_A_TIME}


class _OpenObject:
    """What s3fs reads, which says with every answer which version it is of."""

    def __init__(self, file: Any) -> None:  # noqa: ANN401 (s3fs has no types)
        self._file = file
        self.seek, self.tell, self.close = file.seek, file.tell, file.close

    def read(self, size: int, /) -> bytes:
        """Returns the next bytes."""
        try:
            return cast(bytes, self._file.read(size))
        except OSError as error:
            if type(error).__name__ == "FileExpired":  # another ETag than when it was opened
                raise VersionGoneError(str(error)) from error
            raise

    def look(self) -> Found:
        """Returns what is open."""
        return _found(self._file.details)


def _found(info: dict[str, Any]) -> Found:
    tag = info.get("ETag") or info.get("LastModified", "")
    return Found(int(info["size"]), str(tag).strip('"'))
