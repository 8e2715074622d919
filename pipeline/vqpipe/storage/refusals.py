"""What a store's client raises, and what it means to the operator."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from vqpipe.errors import StorageError
from vqpipe.storage import meter, retries

_MODULES = ("botocore", "aiobotocore", "aiohttp", "azure", "google", "requests", "urllib3")
_FULL = {errno.ENOSPC, errno.EDQUOT}
_NO_DISK = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
"""What buckets that are mounted as disks say to a rename."""
_CREDENTIALS = {
    "NoCredentialsError",
    "PartialCredentialsError",
    "CredentialRetrievalError",
    "TokenRetrievalError",
    "UnauthorizedSSOTokenError",
    "ExpiredTokenException",
    "InvalidToken",
    "TokenRefreshRequired",
    "400",  # all that a HEAD with an expired token is told
    "ClientAuthenticationError",
    "CredentialUnavailableError",
    "DefaultCredentialsError",
    "RefreshError",
}
_NO = {401, 403}
_LONGEST = 300
_AGAIN = "then run the same command again: everything committed is safe"


Result = TypeVar("Result")


class NoBucketError(Exception):
    """There is no such bucket, or container."""


def ask(uri: str, request: Callable[[], Result]) -> Result:
    """Returns what a request returns; repeats a broken one, translates what the store says.

    Raises:
        FileNotFoundError: There is no such object.
        StorageError: The store refused, or did not answer.
    """
    try:
        with meter.waiting():
            return retries.repeat_broken(request)
    except Exception as error:
        if not _is_refusal(error):
            raise
        raise StorageError(_describe(uri.removeprefix("file://"), error)) from error


_REFUSALS = (
    OSError,
    retries.ShortAnswerError,
    retries.StalledError,
    retries.UnreachableError,
    NoBucketError,
)


def _is_refusal(error: Exception) -> bool:
    """Tells a client's errors (OSError, botocore's, aiohttp's, ...) from answers and from bugs."""
    if isinstance(error, FileNotFoundError):
        return code(error) == "NoSuchBucket"
    if isinstance(error, _REFUSALS):
        return True
    return type(error).__module__.startswith(_MODULES)


def code(error: Exception) -> str:
    """Returns what S3 called the failure that s3fs made an exception of, or an empty string."""
    return str(_answer(error).get("Code", ""))


def _answer(error: Exception) -> dict[str, Any]:
    for found in (error, error.__cause__):
        response = getattr(found, "response", None)
        if isinstance(response, dict):
            return dict(response.get("Error", {}))
    return {}


def _describe(uri: str, error: Exception) -> str:
    """Returns what happened to a request and what to do next."""
    scheme, _, path = uri.rpartition("://")
    bucket = f"{scheme}://{path.partition('/')[0]}"
    said = _last_words(error)
    if isinstance(error, NoBucketError) or code(error) == "NoSuchBucket":
        return f"{uri}: there is no bucket {bucket}; create it, or correct the address"
    if isinstance(error, OSError) and error.errno in _FULL:
        return f"{uri}: the disk is full ({said}); make room on {_disk(uri)}, {_AGAIN}"
    if isinstance(error, OSError) and error.errno in _NO_DISK:
        return (
            f"{uri}: {said}; what is mounted there does not do what a disk does: give the store's "
            "own address (s3://, gs://, az://) or another disk"
        )
    if not scheme:
        return f"{uri}: {said}; look at the path and at what this user may do there, {_AGAIN}"
    if _is_about_access(error):
        return (
            f"{uri}: the {scheme} store refused access ({said}); see that the environment's "
            f"credentials are there, have not expired and allow this, {_AGAIN}"
        )
    if retries.is_transient(error):
        return (
            f"{uri}: the {scheme} store gave no good answer for {retries.patience_s():.0f} s, last "
            f"{said}; see that it is up and can be reached from here, {_AGAIN}"
        )
    return f"{uri}: the {scheme} store refused ({said}); look at address and settings, {_AGAIN}"


def _is_about_access(error: Exception) -> bool:
    if isinstance(error, PermissionError) or retries.status(error) in _NO:
        return True
    return bool({code(error), type(error).__name__} & _CREDENTIALS)


def _last_words(error: Exception) -> str:
    answer = _answer(error)
    if answer:
        return f"{answer.get('Code', 'no code')}: {answer.get('Message') or 'no message'}"
    name = getattr(error, "error_code", None) or type(error).__name__
    if found := retries.status(error):
        name = f"{found} {name}"
    return f"{name}: {_first_line(retries.without_queries(str(error)))}"


def _first_line(text: str) -> str:
    """Returns what Azure's and Google's clients say before they repeat the whole answer."""
    return next(iter(text.strip().splitlines()), "")[:_LONGEST]


def _disk(path: str) -> str:
    """Returns the uppermost folder on the disk that a path is, or would be, on."""
    found = Path(path)
    while not found.exists():
        found = found.parent
    device = found.stat().st_dev
    while found != found.parent and found.parent.stat().st_dev == device:
        found = found.parent
    return str(found)
