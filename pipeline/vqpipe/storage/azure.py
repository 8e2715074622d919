"""Azure's Blob Storage, and Data Lake Storage through the same door, by Azure's own client.

Who asks is a matter of the environment, by Azure's names: `AZURE_STORAGE_CONNECTION_STRING`, or
`AZURE_STORAGE_ACCOUNT_NAME` with `AZURE_STORAGE_ACCOUNT_KEY`, `AZURE_STORAGE_SAS_TOKEN`,
`AZURE_STORAGE_ANON=true`, or else whatever `azure.identity.DefaultAzureCredential` finds. An
address may name the account: `abfs://container@account.dfs.core.windows.net/path`.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any, cast

from azure.core import MatchConditions
from azure.core.credentials import AzureNamedKeyCredential, AzureSasCredential
from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
)
from azure.core.pipeline.transport import RequestsTransport
from azure.identity import DefaultAzureCredential
from azure.storage.blob import BlobClient, BlobProperties, BlobServiceClient, ContainerClient

from vqpipe.errors import ConfigError
from vqpipe.storage import retries
from vqpipe.storage.content import Content, rewind
from vqpipe.storage.pinned import Ranges
from vqpipe.storage.refusals import NoBucketError
from vqpipe.storage.stores import Found, VersionGoneError

_GET_BYTES = 64 * 2**20
"""What one request reads at most; the client asks for the same version in all further ones."""
_PAGE = 5_000
"""Blobs of one answer to a listing; the most that there may be."""


class Azure:
    """Containers: the version of a blob is its ETag."""

    def __init__(self) -> None:
        _service.cache_clear()  # a new store asks the environment anew

    def find(self, path: str) -> dict[str, Found]:
        """Returns the blobs below a prefix."""
        container, head, name = _split(path)
        start = f"{name}/" if name else ""
        return _list(path, head, functools.partial(container.list_blobs, start, ["metadata"]))

    def list_folder(self, path: str) -> dict[str, Found]:
        """Returns the blobs of a prefix up to the next `/`."""
        container, head, name = _split(path)
        start = f"{name}/" if name else ""
        return _list(path, head, functools.partial(container.walk_blobs, start, ["metadata"]))

    def look(self, path: str) -> Found:
        """Returns what there is of one blob."""
        with _answers(path):
            found = _blob(path).get_blob_properties()
        if _is_folder(found):
            raise FileNotFoundError(path)
        return _found(found)

    def read(self, path: str) -> bytes:
        """Returns a whole blob, all of it of one version."""
        with _answers(path):
            return _blob(path).download_blob().readall()

    def read_range(self, path: str, start: int, end: int, version: str) -> bytes:
        """Returns bytes of one version of a blob."""
        with _answers(path):
            found = _blob(path).download_blob(start, end - start, **_if_match(version))
            return cast(bytes, found.readall())

    def open(self, path: str, block: int) -> Ranges:
        """Opens a blob."""
        return Ranges(self, path, self.look(path), block)

    def create(self, path: str, data: Content) -> bool:
        """Puts a blob unless it is there."""
        try:
            with _answers(path):
                _blob(path).upload_blob(rewind(data), length=len(data), overwrite=False)
        except ResourceExistsError:
            return False
        return True

    def replace(self, path: str, data: Content) -> None:
        """Puts a blob."""
        with _answers(path):
            _blob(path).upload_blob(rewind(data), length=len(data), overwrite=True)

    def replace_if(self, path: str, data: Content, expected: Found) -> bool:
        """Puts a blob in place of the expected one."""
        try:
            with _answers(path):
                match = {"overwrite": True, **_if_match(expected.version)}
                _blob(path).upload_blob(rewind(data), length=len(data), **match)
        except VersionGoneError:
            return False
        return True

    def delete(self, path: str) -> None:
        """Removes a blob."""
        with _answers(path):
            _blob(path).delete_blob()

    def creates_once(self, path: str, data: Content) -> bool:
        """Tells whether `create` can be relied on."""
        return not self.create(path, data)


def _if_match(version: str) -> dict[str, Any]:
    return {"etag": f'"{version}"', "match_condition": MatchConditions.IfNotModified}


def _found(properties: BlobProperties) -> Found:
    return Found(properties.size, str(properties.etag).strip('"'))


def _is_folder(properties: BlobProperties) -> bool:
    """Tells a folder of Data Lake Storage, which is listed as a blob, from a blob."""
    return (properties.metadata or {}).get("hdi_isfolder") == "true"


def _list(path: str, head: str, ask: Callable[..., Any]) -> dict[str, Found]:
    """Returns what a listing holds; a page that broke is asked for again, not the whole."""
    found: dict[str, Found] = {}
    token = None

    def next_page() -> tuple[list[Any], str | None]:
        with _answers(path):
            pages = ask(results_per_page=_PAGE).by_page(continuation_token=token)
            return list(next(pages, [])), pages.continuation_token

    while True:
        page, token = retries.repeat_broken(next_page)
        blobs = (each for each in page if isinstance(each, BlobProperties) and each.name[-1] != "/")
        found |= {f"{head}/{blob.name}": _found(blob) for blob in blobs if not _is_folder(blob)}
        if not token:
            return found


@contextlib.contextmanager
def _answers(path: str) -> Iterator[None]:
    """Says of the client's errors what they mean."""
    try:
        yield
    except AzureError as error:
        meaning = _meaning(error, path)
        if not retries.is_transient(meaning):
            retries.note_answer()
        if meaning is error:
            raise
        raise meaning from None
    else:
        retries.note_answer()


def _meaning(error: AzureError, path: str) -> Exception:
    """Returns what an error means; without a signature, which the client's own may repeat."""
    if isinstance(error, ClientAuthenticationError):
        return error
    if isinstance(error, ResourceNotFoundError):
        is_container = getattr(error, "error_code", "") == "ContainerNotFound"
        return NoBucketError(path) if is_container else FileNotFoundError(path)
    if isinstance(error, ResourceModifiedError):
        return VersionGoneError(path)
    if getattr(error, "status_code", None) is None:  # no answer, or one that broke off
        kind = type(getattr(error, "inner_exception", None)).__name__
        text = retries.without_queries(str(error))
        return OSError(text) if kind == "SSLError" else retries.UnreachableError(text)
    return error


def _split(path: str) -> tuple[ContainerClient, str, str]:
    """Returns the container of a path, what stands for it there, and the name of the blob."""
    head, _, name = path.partition("/")
    container, _, host = head.partition("@")
    return _service(host).get_container_client(container), head, name


def _blob(path: str) -> BlobClient:
    container, _, name = _split(path)
    return container.get_blob_client(name)


@functools.cache
def _service(host: str) -> BlobServiceClient:
    """Returns the client of an account: of the one that a host names, or the environment's."""
    options: dict[str, Any] = {
        "retry_total": 0,  # its own: `vqpipe.storage.retries` has all of ours
        "connection_timeout": retries.CONNECT_TIMEOUT_S,
        "read_timeout": retries.READ_TIMEOUT_S,
        "max_single_get_size": _GET_BYTES,
        "max_chunk_get_size": _GET_BYTES,
        "transport": RequestsTransport(session=retries.http_session()),
    }
    connection = os.environ.get("AZURE_STORAGE_CONNECTION_STRING", "")
    if connection and (not host or f"AccountName={host.partition('.')[0]};" in f"{connection};"):
        return BlobServiceClient.from_connection_string(connection, **options)
    account = host.partition(".")[0] or _default_account()
    where = host.replace(".dfs.", ".blob.") or f"{account}.blob.core.windows.net"
    return BlobServiceClient(f"https://{where}", credential=_credential(account), **options)


def _default_account() -> str:
    account = _setting("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT")
    if not account:
        raise ConfigError(
            "az:// does not say which account: set AZURE_STORAGE_ACCOUNT_NAME or "
            "AZURE_STORAGE_CONNECTION_STRING, or give "
            "abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH"
        )
    return account


def _credential(account: str) -> Any:  # noqa: ANN401 (one of four types, or nobody)
    own = _setting("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT")
    if own in {None, account}:
        key, sas = (
            _setting("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_KEY"),
            _setting("AZURE_STORAGE_SAS_TOKEN"),
        )
        if key:
            return AzureNamedKeyCredential(account, key)
        if sas:
            return AzureSasCredential(sas.lstrip("?"))
    if (_setting("AZURE_STORAGE_ANON") or "").lower() in {"1", "true"}:
        return None
    return DefaultAzureCredential()


def _setting(*names: str) -> str | None:
    return next((os.environ[name] for name in names if os.environ.get(name)), None)
