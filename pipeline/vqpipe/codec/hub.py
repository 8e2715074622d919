"""Checkpoints on the Hugging Face hub, through its own client, cache and credentials.

The client is imported where it is used: a command that needs no hub starts without it. It reads
HF_TOKEN, HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE from the environment itself.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vqpipe.codec.hub_names import HubFile
from vqpipe.errors import CheckpointError
from vqpipe.tokenizers.families import needed_shards
from vqpipe.vqgan.files import CONFIG_FILE, KINDS, is_index, name_weights, parse_index

OTHERS = (
    *(
        name
        for stem in ("model", "pytorch_model")
        for kind in KINDS
        for name in name_weights(kind, stem=stem)
    ),
    "model.ckpt",
)
"""Names of weights where they are not in diffusers' layout, the first that is there to be read: as
transformers has them, and Emu3.5."""
CONFIGS = (CONFIG_FILE, "config.yaml")
"""Names of configs in such a folder."""


def fetch(
    repository: str, subfolder: str | None, revision: str | None, variant: str | None
) -> tuple[Path, str]:
    """Returns the local folder with a checkpoint's files, and the commit they are of.

    Only config and weights are downloaded, pickles where there are no safetensors; what the cache
    holds is not downloaded again, and serves alone when the hub is out of reach.

    Args:
        repository: `org/name`.
        subfolder: Folder inside it.
        revision: Branch, tag or commit; None for the main branch.
        variant: Which weights, such as fp16.

    Raises:
        CheckpointError: The hub or the cache does not have it, or does not give it.
    """
    prefix = f"{subfolder.strip('/')}/" if subfolder else ""
    groups = [name_weights(kind, variant) for kind in KINDS]
    if variant is None:
        groups += [OTHERS[i : i + 2] for i in range(0, len(OTHERS), 2)]
    for names in groups:
        snapshot = _download(repository, prefix, revision, (*CONFIGS, *names))
        folder, revision = snapshot / prefix, snapshot.name
        found = next((name for name in names if (folder / name).is_file()), None)
        if found and is_index(found):
            index = parse_index((folder / found).read_bytes(), f"{repository}/{prefix}{found}")
            _download(repository, prefix, revision, tuple(sorted(needed_shards(index))))
        if found:
            break
    if not found and (folder / CONFIG_FILE).is_file():
        missing = f"{repository}/{prefix}{name_weights(KINDS[0], variant)[-1]}"
        advice = "another --subfolder" if variant is None else "another --variant, or none"
        raise CheckpointError(f"{missing} is missing at commit {snapshot.name}; give {advice}")
    return folder, snapshot.name


def fetch_file(file: HubFile, beside: tuple[str, ...] = ()) -> tuple[Path, str]:
    """Returns the local copy of one file of a repository, and the commit it is of.

    Args:
        file: Which.
        beside: Patterns of names that are fetched as well from the folder that it is in.

    Raises:
        CheckpointError: The hub or the cache does not have it, or does not give it.
    """
    folder = file.name[: file.name.rfind("/") + 1]
    wanted = (file.name, *(f"{folder}{pattern}" for pattern in beside))
    snapshot = _download(file.repository, "", file.revision, wanted)
    if not (snapshot / file.name).is_file():
        raise CheckpointError(
            f"{file.repository} has no file {file.name} at commit {snapshot.name}; correct the name"
        )
    return snapshot / file.name, snapshot.name


def _download(repository: str, prefix: str, revision: str | None, names: tuple[str, ...]) -> Path:
    """Returns the folder of a commit, named after it, with those of the files that it has."""
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
