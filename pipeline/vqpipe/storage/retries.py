"""How long a store is asked again when it answers 503, or nothing, or half.

One ladder for every request, by time. The ladders of the clients do not fit: botocore's `standard`
takes every retry from a budget that all requests of a process share, and a store that fails two of
three uses it up within seconds; its `legacy` counts attempts, so that a run outlives seconds of
trouble, not minutes; and s3fs repeats some requests on top of either, but no listing. The clients
of Azure and Google are told to ask once (`repeat_broken` has the rest).
"""

import datetime
import itertools
import random
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

from vqpipe.storage import meter

PATIENCE_S = 300.0
"""For how long a request is repeated: minutes of trouble do not end a run of days."""
START_PATIENCE_S = 20.0
"""... by a command for a person, before its first answer: nothing is lost, something is wrong."""

CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 10, 60
"""Of one attempt."""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
_CONNECTIONS = 64
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
    "DataCorruption",
}
_HTTP_CLIENTS = ("azure", "google", "requests", "urllib3")
_CONNECTION = {"ConnectionError", "Timeout", "ChunkedEncodingError", "ProtocolError"}

Result = TypeVar("Result")


class ShortAnswerError(Exception):
    """A store sent fewer bytes than it was asked for, and called that all."""


class StalledError(Exception):
    """A request took so long that it was given up."""


class UnreachableError(Exception):
    """A store gave no answer, or none to its end."""


class _State:
    """What this process knows of its store."""

    is_hurried = False
    has_answered = False


def hurry() -> None:
    """Has this process give up soon on a store that never answers it."""
    _State.is_hurried = True


def note_answer() -> None:
    """Says that this process's store is there and answers."""
    _State.has_answered = True


def patience_s() -> float:
    """Returns for how long a request would be repeated now."""
    return START_PATIENCE_S if _State.is_hurried and not _State.has_answered else PATIENCE_S


def pauses() -> Iterator[float]:
    """Returns seconds to wait before each new attempt, until patience, from now on, is at its end.

    They grow to some seconds and are random, so that workers which failed together do not return
    together.
    """
    return _pauses(time.monotonic())


def _pauses(start: float) -> Iterator[float]:
    for attempt in itertools.count():
        longest = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(attempt, 10))
        pause = random.uniform(0, longest)  # noqa: S311 (nothing secret)
        if time.monotonic() + pause - start > patience_s():
            return
        yield pause


def repeat_broken(request: Callable[[], Result]) -> Result:
    """Returns what a request returns; repeats one whose answer broke off.

    S3's client repeats what fails before an answer has begun (`session`), and nothing after that;
    the others repeat nothing. Such calls may stand in one another: patience is not added up.
    """
    left = pauses()
    while True:
        try:
            return request()
        except Exception as error:
            pause = next(left, None) if _is_broken(error) else None
            if pause is None:
                raise
        time.sleep(pause)


def _is_broken(error: Exception) -> bool:
    if isinstance(error, ShortAnswerError | StalledError | UnreachableError):
        return True
    return type(error).__name__ in _BROKEN or _is_http_trouble(error)


def _is_http_trouble(error: Exception) -> bool:
    """Tells trouble that the clients of Azure and Google met."""
    if not type(error).__module__.startswith(_HTTP_CLIENTS):
        return False
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & _CONNECTION and "SSLError" not in names:
        return True
    return status(error) in _STATUSES or bool(getattr(error, "retryable", False))


def status(error: Exception) -> int | None:
    """Returns the HTTP status that a client of Azure or Google made an error of."""
    for name in ("status_code", "code"):
        found = getattr(error, name, None)
        if isinstance(found, int):
            return int(found)
    return None


def without_queries(text: str) -> str:
    """Returns what an error says without queries of addresses, which may be signatures."""
    return re.sub(r"\?[^\s'\")]*=[^\s'\")]*", "?...", text)


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
    parsers = made.get_component("response_parser_factory")
    parsers.set_parser_defaults(timestamp_parser=parse_time)
    return made


def parse_time(text: Any) -> datetime.datetime:  # noqa: ANN401 (as botocore's own)
    """Returns when something was, as botocore has it from a store's answer.

    Its own parser takes 0.1 ms for each object of a listing, two thirds of all that one takes.
    """
    try:
        found = datetime.datetime.fromisoformat(text)
    except (TypeError, ValueError):
        found = None
    if found is None or found.tzinfo is None:
        from botocore.utils import parse_timestamp  # noqa: PLC0415 (as above)

        return cast(datetime.datetime, parse_timestamp(text))
    return found


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
    meter.note_request()
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
    """Tells errors of a network from errors of settings, such as a certificate, and of a program.

    S3's client says `HTTPClientError` of whatever went wrong in it, also where its process ends and
    starts no thread any more: to ask again for minutes would be to end that much later.
    """
    names = {kind.__name__ for kind in type(error).__mro__ if "botocore" in kind.__module__}
    if isinstance(error.__context__, RuntimeError) and type(error).__name__ == "HTTPClientError":
        return False
    return bool(names & {"HTTPClientError", "ConnectionError"}) and "SSLError" not in names


def http_session(session: Any = None) -> Any:  # noqa: ANN401 (requests has no types)
    """Returns a session of requests that has connections enough for all threads of a worker."""
    from requests import Session  # noqa: PLC0415 (it takes long, and is for Azure and Google only)
    from requests.adapters import HTTPAdapter  # noqa: PLC0415

    session = session or Session()
    session.hooks["response"].append(_note_answer)
    session.mount("https://", HTTPAdapter(pool_maxsize=_CONNECTIONS))
    session.mount("http://", HTTPAdapter(pool_maxsize=_CONNECTIONS))
    return session


def _note_answer(*_: object, **__: object) -> None:
    meter.note_request()


def options() -> dict[str, Any]:
    """Returns what `s3fs.S3FileSystem` must be made with."""
    once = {"mode": "standard", "total_max_attempts": 1}
    timeouts = {"connect_timeout": CONNECT_TIMEOUT_S, "read_timeout": READ_TIMEOUT_S}
    return {"session": session(), "config_kwargs": {"retries": once, **timeouts}}
