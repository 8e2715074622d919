"""What it means that the Hugging Face hub refuses what is sent to it, and what to do then.

No message repeats a token, or the query of a URL: large files go to addresses that are signed.
"""

import re
from typing import Any

from vqpipe.errors import ConfigError, IncompleteError, StorageError, VqpipeError, in_one_line

_PASSING = {408, 429, 500, 502, 503, 504}
"""Answers that may be others a little later."""
_QUERY = re.compile(r"\?[^\s'\"<>]*")
_TRANSPORT = {"httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3"}
_SIGN_IN = "sign in with `hf auth login` or put HF_TOKEN into the environment"


def is_passing(error: Exception) -> bool:
    """Tells whether the same request may well be answered a little later."""
    status = _status_of(error)
    return _is_unanswered(error) if status is None else status in _PASSING


def is_of_token(error: Exception) -> bool:
    """Tells whether the hub refused the token itself."""
    return _status_of(error) == 401


def is_overtaken(error: Exception) -> bool:
    """Tells whether the branch does not end with the commit that it had to end with."""
    return _status_of(error) == 412


def wait_of(error: Exception) -> float:
    """Returns for how many seconds the hub asks to be left alone; 0 if it does not say."""
    response = _response_of(error)
    said = response.headers.get("Retry-After", "") if response is not None else ""
    return float(said) if said.isdigit() else 0.0


def explain(error: Exception, repository: str) -> VqpipeError | None:
    """Returns what to tell the user, or None for an error that is none of hub or client.

    Args:
        error: What the client raised.
        repository: `org/name` of a data set.
    """
    from huggingface_hub import errors  # noqa: PLC0415 (heavy)

    if isinstance(error, errors.HFValidationError):
        return ConfigError(f"hf://{repository} is no name that a data set can have: {error}")
    if isinstance(error, errors.OfflineModeIsEnabled):
        return ConfigError("HF_HUB_OFFLINE is set, and so nothing is sent: unset it")
    if "Invalid metadata in README.md" in str(error):
        return ConfigError(
            f"the hub does not take the front matter of README.md ({_said(error)}): mend it in the "
            "sink's card or on the hub, or give another --license"
        )
    status = _status_of(error)
    if status is not None and _is_of_hub(error):
        return _explain_status(status, _said(error), repository, wait_of(error))
    if _is_unanswered(error):
        return StorageError(
            f"the Hugging Face hub is out of reach ({_said(error)}); what has been sent stays "
            "there: look at the network, then run the same command again"
        )
    if isinstance(error, OSError | ValueError | RuntimeError):
        return StorageError(
            f"the Hugging Face hub did not take what was sent to {repository} ({_said(error)}); "
            "run the same command again"
        )
    return None


def _explain_status(status: int, said: str, repository: str, wait: float) -> VqpipeError:
    if status == 401:
        return ConfigError(
            f"the Hugging Face hub does not know the token that it is given ({said}): {_SIGN_IN}"
        )
    if status in {403, 404}:
        return ConfigError(
            f"the Hugging Face hub does not let you write to the data set {repository} ({said}): "
            "take a token that may write there, or give another name"
        )
    if status in {409, 412}:
        return IncompleteError(
            f"somebody else changed {repository} while it was written to ({said}): run the same "
            "command again, which sends what is missing"
        )
    if status == 429:
        pause = f" in {wait:,.0f} s" if wait else " later, in an hour at most"
        return StorageError(
            f"the Hugging Face hub has had too many requests of yours ({said}); what has been sent "
            f"stays there: run the same command again{pause}"
        )
    if status in _PASSING:
        return StorageError(
            f"the Hugging Face hub fails ({status}: {said}); what has been sent stays there: run "
            "the same command again later"
        )
    return StorageError(f"the Hugging Face hub refused what was sent to {repository}: {said}")


def _is_of_hub(error: Exception) -> bool:
    """Tells whether the hub itself has answered, and not the store that files are sent to."""
    from huggingface_hub import constants  # noqa: PLC0415 (heavy)

    url = str(_response_of(error).request.url)
    return url.startswith((f"{constants.ENDPOINT}/api/", f"{constants.ENDPOINT}/datasets/"))


def _said(error: Exception) -> str:
    """Returns what the server, or else the client, says, with nothing secret in it."""
    root = _root_of(error)
    status = _status_of(root)
    said = getattr(root, "server_message", None) or (f"HTTP {status}" if status else None)
    return harmless(said or in_one_line(root))


def harmless(text: str) -> str:
    """Returns text in one line, without queries of URLs and without the token in use."""
    from huggingface_hub import get_token  # noqa: PLC0415 (heavy)

    token = get_token()
    plain = _QUERY.sub("", text if token is None else text.replace(token, "<token>"))
    return " ".join(plain.split())[:200]


def _root_of(error: BaseException) -> BaseException:
    """Returns the answer of the hub that an error is about; the error itself if there is none."""
    each: BaseException | None = error
    while each is not None:
        if getattr(each, "response", None) is not None:
            return each
        each = each.__cause__
    return error


def _response_of(error: BaseException) -> Any:  # noqa: ANN401 (the HTTP client's, or None)
    return getattr(_root_of(error), "response", None)


def _status_of(error: BaseException) -> int | None:
    response = _response_of(error)
    return None if response is None else int(response.status_code)


def _is_unanswered(error: BaseException) -> bool:
    """Whether the HTTP client, or the one of Xet, had no answer at all."""
    each: BaseException | None = error
    while each is not None:
        room = type(each).__module__.partition(".")[0]
        if room in _TRANSPORT or isinstance(each, ConnectionError | TimeoutError):
            return True
        each = each.__cause__
    return False
