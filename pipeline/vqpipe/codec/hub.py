"""Checkpoints on the Hugging Face hub: which of a repository's files make one."""

from pathlib import Path

from vqpipe.errors import CheckpointError
from vqpipe.hub.downloads import download
from vqpipe.hub.names import HubFile
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
        snapshot = download(repository, prefix, revision, (*CONFIGS, *names))
        folder, revision = snapshot / prefix, snapshot.name
        found = next((name for name in names if (folder / name).is_file()), None)
        if found and is_index(found):
            index = parse_index((folder / found).read_bytes(), f"{repository}/{prefix}{found}")
            download(repository, prefix, revision, tuple(sorted(needed_shards(index))))
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
    snapshot = download(file.repository, "", file.revision, wanted)
    if not (snapshot / file.name).is_file():
        raise CheckpointError(
            f"{file.repository} has no file {file.name} at commit {snapshot.name}; correct the name"
        )
    return snapshot / file.name, snapshot.name
