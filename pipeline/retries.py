"""How long a store in S3's protocol is asked again when it answers 503, or nothing, or half.

One ladder for every request, by time. The ladders of the clients do not fit: botocore's `standard`
takes every retry from a budget that all requests of a process share, and a store that fails two of
three uses it up within seconds; its `legacy` counts attempts, so that a run outlives seconds of
trouble, not minutes; and s3fs repeats some requests on top of either, but no listing.
"""

import itertools
import random
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

PATIENCE_S = 300.0
"""For how long a request is repeated: minutes of trouble do not end a run of days."""
START_PATIENCE_S = 20.0
"""... by a command for a person, before its first answer: nothing is lost, something is wrong."""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
_STATUSES = {408, 429, 500, 502, 503, 504}
_CODES = {
    "SlowDown",
    "InternalError",
    "ServiceUnavailable",
    "RequestTimeout",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "BadDigest",  # these three: the request was damaged on its way
    "IncompleteBody",
    "XAmzContentSHA256Mismatch",
}
_BROKEN = {  # the client's names for an answer that began and did not end, or not as it should
    "AioReadTimeoutError",
    "ClientPayloadError",
    "FlexibleChecksumError",
    "IncompleteReadError",
    "ResponseStreamingError",
}

Result = TypeVar("Result")


class ShortAnswerError(Exception):
    """A store sent fewer bytes than it was asked for, and called that all."""


class _State:
    """What this process knows of its store."""

    is_hurried = False
    has_answered = False


def hurry() -> None:
    """Has this process give up soon on a store that never answers it."""
    _State.is_hurried = True


def patience_s() -> float:
    """Returns for how long a request would be repeated now."""
    return START_PATIENCE_S if _State.is_hurried and not _State.has_answered else PATIENCE_S


def pauses() -> Iterator[float]:
    """Yields seconds to wait before each new attempt, until patience is at its end.

    They grow to some seconds and are random, so that workers which failed together do not return
    together.
    """
    start = time.monotonic()
    for attempt in itertools.count():
        longest = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(attempt, 10))
        pause = random.uniform(0, longest)  # noqa: S311 (nothing secret)
        if time.monotonic() + pause - start > patience_s():
            return
        yield pause


def repeat_broken(request: Callable[[], Result]) -> Result:
    """Returns what a request returns; repeats one whose answer broke off.

    The client repeats what fails before an answer has begun (`session`), and nothing after that.
    """
    for pause in pauses():
        try:
            return request()
        except Exception as error:
            if not _is_broken(error):
                raise
        time.sleep(pause)
    return request()


def _is_broken(error: Exception) -> bool:
    return isinstance(error, ShortAnswerError) or type(error).__name__ in _BROKEN


def is_transient(error: Exception) -> bool:
    """Tells a store in trouble from one that has said no."""
    response = getattr(error.__cause__, "response", None) or getattr(error, "response", None)
    if isinstance(response, dict):
        return _is_trouble(response)
    return _is_broken(error) or _is_connection_error(error)


def session() -> Any:  # noqa: ANN401 (aiobotocore has no types)
    """Returns a session whose clients repeat requests as this module says."""
    from aiobotocore.session import AioSession  # noqa: PLC0415 (it takes long, and is for S3 only)

    made = AioSession()
    made.register("needs-retry.s3", _decide)
    return made


def _decide(
    *,
    response: tuple[Any, dict[str, Any]] | None,
    caught_exception: Exception | None,
    request_dict: dict[str, Any],
    **_: object,
) -> float | None:
    """Handles botocore's event after every attempt.

    Args:
        response: Answer of the store, as it came and parsed; None if there was none.
        caught_exception: Why there was none.
        request_dict: The request; its context lives as long as all attempts of it.

    Returns:
        Seconds to wait before the next attempt; None if there is to be none.
    """
    if response is not None and not _is_trouble(response[1]):
        _State.has_answered = True
        return None
    if caught_exception is not None and not _is_connection_error(caught_exception):
        return None
    ladder: Iterator[float] = request_dict["context"].setdefault("vqpipe_pauses", pauses())
    return next(ladder, None)


def _is_trouble(answer: dict[str, Any]) -> bool:
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status in _STATUSES or answer.get("Error", {}).get("Code") in _CODES


def _is_connection_error(error: Exception) -> bool:
    """Tells errors of a network from errors of settings, such as a certificate."""
    names = {kind.__name__ for kind in type(error).__mro__ if "botocore" in kind.__module__}
    return bool(names & {"HTTPClientError", "ConnectionError"}) and "SSLError" not in names


def options() -> dict[str, Any]:
    """Returns what `s3fs.S3FileSystem` must be made with."""
    once = {"mode": "standard", "total_max_attempts": 1}
    timeouts = {"connect_timeout": 10, "read_timeout": 60}  # seconds, of one attempt
    return {"session": session(), "config_kwargs": {"retries": once, **timeouts}}
