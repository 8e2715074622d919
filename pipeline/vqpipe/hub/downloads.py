"""Files of models on the Hugging Face hub, through its own client, cache and credentials.

The client is imported where it is used: a command that needs no hub starts without it. It reads
HF_TOKEN, HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE from the environment itself.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vqpipe.errors import CheckpointError


def download(repository: str, prefix: str, revision: str | None, names: tuple[str, ...]) -> Path:
    """Returns the folder of a commit, named after it, with those of the files that it has.

    Args:
        repository: `org/name`.
        prefix: Folder inside it, empty or with a slash at its end.
        revision: Branch, tag or commit; None for the main branch.
        names: Of files there, or patterns of them.

    Raises:
        CheckpointError: The hub or the cache does not have it, or does not give it.
    """
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - see the module

    places = [prefix + name for name in names]
    with _explained(repository, revision):
        return Path(snapshot_download(repository, revision=revision, allow_patterns=places))


@contextmanager
def _explained(repository: str, revision: str | None) -> Iterator[None]:
    """Turns what the client raises into one error that says what to do."""
    try:
        yield
    except Exception as error:
        advice = _advise(error, repository, revision)
        if advice is None:
            raise
        raise CheckpointError(advice) from error


def _advise(error: Exception, repository: str, revision: str | None) -> str | None:
    """Returns what to tell the user, or None for an error that is no answer of hub or cache."""
    from huggingface_hub import errors  # noqa: PLC0415 - see the module

    sign_in = "sign in with `hf auth login` or put HF_TOKEN into the environment"
    if isinstance(error, errors.GatedRepoError):  # first: it is a RepositoryNotFoundError too
        return (
            f"{repository} is gated on the Hugging Face hub: ask for access on its page there, "
            f"then {sign_in}"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"{repository} is neither a folder here nor a model on the Hugging Face hub that you "
            f"may read; correct the name, or, if it is private, {sign_in}"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return (
            f"{repository} on the Hugging Face hub has no revision {revision!r}; give a branch, "
            "tag or commit of it"
        )
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        at = f" at revision {revision!r}" if revision else ""
        return (
            f"{repository}{at} is no folder here and not complete in the cache, and the Hugging "
            "Face hub is out of reach or fails; go online (and unset HF_HUB_OFFLINE) to fetch it"
        )
    if isinstance(error, errors.HFValidationError):
        return f"{repository} is no folder here, nor can a repository have that name: {error}"
    if isinstance(error, OSError) or _is_transport_error(error):
        reason = str(error).partition("\n")[0]
        return f"the Hugging Face hub did not give {repository} ({reason}); run it again later"
    return None


def _is_transport_error(error: Exception) -> bool:
    """Whether it is the HTTP client's own: requests' are OSErrors, those of httpx are not."""
    return type(error).__module__.partition(".")[0] in {"httpx", "httpx2", "httpcore", "httpcore2"}
