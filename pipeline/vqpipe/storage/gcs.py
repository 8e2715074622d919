"""Google Cloud Storage, by Google's own client.

Who asks is a matter of the environment, as for all of Google's clients: the application default
credentials, which are `GOOGLE_APPLICATION_CREDENTIALS`, those of `gcloud auth application-default
login`, or the machine's. Where there are none, nobody asks: that will do for public buckets.
"""

import contextlib
import functools
import os
from collections.abc import Iterator
from typing import Any, cast

import google.auth
from google.api_core.exceptions import GoogleAPICallError, NotFound, PreconditionFailed
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import DefaultCredentialsError
from google.auth.transport.requests import AuthorizedSession
from google.cloud.storage import Blob, Client

from vqpipe.storage import retries
from vqpipe.storage.content import Content, as_file
from vqpipe.storage.pinned import Ranges
from vqpipe.storage.refusals import NoBucketError
from vqpipe.storage.stores import Found, VersionGoneError

_SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
_ONCE: dict[str, Any] = {
    "retry": None,  # its own: `vqpipe.storage.retries` has all of ours
    "timeout": (retries.CONNECT_TIMEOUT_S, retries.READ_TIMEOUT_S),
}
_PAGE = 1_000
"""Objects of one answer to a listing; the most that there may be."""
_TYPE = "application/octet-stream"


class Gcs:
    """Buckets: the version of an object is its generation."""

    def __init__(self) -> None:
        self._buckets: set[str] = set()  # those that are known to be there
        _client.cache_clear()  # a new store asks the environment anew

    def find(self, path: str) -> dict[str, Found]:
        """Returns the objects below a prefix."""
        return self._list(path)

    def list_folder(self, path: str) -> dict[str, Found]:
        """Returns the objects of a prefix up to the next `/`."""
        return self._list(path, delimiter="/")

    def _list(self, path: str, **options: str) -> dict[str, Found]:
        """Returns what a listing holds; a page that broke is asked for again, not the whole."""
        bucket, _, name = path.partition("/")
        options |= {"prefix": f"{name}/"} if name else {}
        options |= {"fields": "items(name,size,generation),prefixes,nextPageToken"}
        found: dict[str, Found] = {}
        token = None

        def next_page() -> tuple[list[Blob], str | None]:
            with self._answers(path, is_bucket=True):
                pages = _client().list_blobs(
                    bucket, page_token=token, page_size=_PAGE, **options, **_ONCE
                )
                return list(next(pages.pages, [])), pages.next_page_token

        while True:
            page, token = retries.repeat_broken(next_page)
            found |= {
                f"{bucket}/{blob.name}": _found(blob) for blob in page if blob.name[-1] != "/"
            }
            if not token:
                return found

    def look(self, path: str) -> Found:
        """Returns what there is of one object."""
        blob = _blob(path)
        with self._answers(path):
            blob.reload(**_ONCE)
        return _found(blob)

    def read(self, path: str) -> bytes:
        """Returns a whole object, its checksum verified."""
        with self._answers(path):
            return cast(bytes, _blob(path).download_as_bytes(raw_download=True, **_ONCE))

    def read_range(self, path: str, start: int, end: int, version: str) -> bytes:
        """Returns bytes of one generation of an object."""
        blob, options = _blob(path, int(version)), {"raw_download": True, **_ONCE}
        try:
            with self._answers(path):
                return cast(bytes, blob.download_as_bytes(start=start, end=end - 1, **options))
        except FileNotFoundError as error:
            raise VersionGoneError(path) from error

    def open(self, path: str, block: int) -> Ranges:
        """Opens an object."""
        return Ranges(self, path, self.look(path), block)

    def create(self, path: str, data: Content) -> bool:
        """Puts an object unless it is there."""
        try:
            self._put(path, data, if_generation_match=0)
        except VersionGoneError:
            return False
        return True

    def replace(self, path: str, data: Content) -> None:
        """Puts an object."""
        self._put(path, data)

    def replace_if(self, path: str, data: Content, expected: Found) -> bool:
        """Puts an object in place of the expected one."""
        try:
            self._put(path, data, if_generation_match=int(expected.version))
        except VersionGoneError:
            return False
        return True

    def _put(self, path: str, data: Content, **condition: int) -> None:
        with self._answers(path, is_bucket=True):
            file, size = as_file(data), len(data)
            _blob(path).upload_from_file(file, size=size, content_type=_TYPE, **condition, **_ONCE)

    def delete(self, path: str) -> None:
        """Removes an object."""
        with self._answers(path):
            _blob(path).delete(**_ONCE)

    def creates_once(self, path: str, data: Content) -> bool:
        """Tells whether `create` can be relied on."""
        return not self.create(path, data)

    @contextlib.contextmanager
    def _answers(self, path: str, *, is_bucket: bool = False) -> Iterator[None]:
        """Says of the client's errors what they mean.

        Args:
            path: What is asked for.
            is_bucket: Whether only a bucket can be what is not found.
        """
        bucket = path.partition("/")[0]
        try:
            yield
        except NotFound as error:
            retries.note_answer()
            if is_bucket or not self._has_bucket(bucket):
                raise NoBucketError(path) from error
            raise FileNotFoundError(path) from error
        except PreconditionFailed as error:
            raise VersionGoneError(path) from error
        except GoogleAPICallError as error:
            if not retries.is_transient(error):
                retries.note_answer()
            raise
        else:
            retries.note_answer()
            self._buckets.add(bucket)

    def _has_bucket(self, bucket: str) -> bool:
        """Tells whether there is a bucket: Google says "not found" either way."""
        if bucket not in self._buckets:
            try:
                next(_client().list_blobs(bucket, max_results=1, **_ONCE).pages, None)
            except NotFound:
                return False
            self._buckets.add(bucket)
        return True


def _found(blob: Blob) -> Found:
    return Found(int(blob.size), str(blob.generation))


def _blob(path: str, generation: int | None = None) -> Blob:
    bucket, _, name = path.partition("/")
    return _client().bucket(bucket).blob(name, generation=generation)


@functools.cache
def _client() -> Client:
    project = None
    try:
        if os.environ.get("STORAGE_EMULATOR_HOST"):
            raise DefaultCredentialsError  # noqa: TRY301 (an emulator asks for none)
        credentials, project = google.auth.default(scopes=[_SCOPE])
    except DefaultCredentialsError:
        credentials = AnonymousCredentials()  # type: ignore[no-untyped-call]
    session = retries.http_session(AuthorizedSession(credentials))  # type: ignore[no-untyped-call]
    return Client(project=project, credentials=credentials, _http=session)
