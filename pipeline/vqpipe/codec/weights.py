"""A checkpoint of any kind: found, read whole, checked, and held in one layout, wherever it was."""

import functools
from dataclasses import dataclass
from pathlib import Path

import torch

from vqpipe import storage
from vqpipe.codec import hub
from vqpipe.errors import CheckpointError, ConfigError
from vqpipe.tokenizers.taming import read_compvis
from vqpipe.tokenizers.tokenizer import Description, Tokenizer
from vqpipe.tokenizers.vq import VQCheckpoint
from vqpipe.vqgan.checkpoint import name_as_today, parse_config, read_checkpoint, write_state
from vqpipe.vqgan.files import CONFIG_FILE, STEM, WEIGHTS_FILE, read_files
from vqpipe.vqgan.model import expected_state
from vqpipe.vqgan.tensors import TRAINED, digest_tensors, parse_weights

WEIGHTS_ENDINGS = (*TRAINED, ".safetensors", ".bin")
"""What the name of a single file with weights ends with."""
YAML_ENDINGS = (".yaml", ".yml")
"""What the name of CompVis' configs ends with."""


@dataclass(frozen=True)
class Weights:
    """A checkpoint in diffusers' layout: read once, sent to every codec."""

    files: dict[str, bytes]
    """Contents of `CONFIG_FILE` and `WEIGHTS_FILE`, names of tensors as they are today."""
    where: str
    """Where it came from."""
    commit: str | None = None
    """Commit of the Hugging Face repository that it came from."""

    @classmethod
    def load(
        cls,
        model: str,
        *,
        subfolder: str | None = None,
        revision: str | None = None,
        variant: str | None = None,
        config: str | None = None,
    ) -> "Weights":
        """Returns a checkpoint, strictly checked, from wherever it is.

        Args:
            model: A folder in diffusers' layout on any store; a single file with weights there; or,
                where no such path is on this machine, `org/name` on the Hugging Face hub.
            subfolder: Folder inside it.
            revision: Branch, tag or commit of a Hugging Face repository.
            variant: Which weights of a folder, as in fp16.
            config: URI of the config of a single file; found beside it if there is only one.

        Raises:
            CheckpointError: There is no checkpoint, or it is damaged or something else.
            ConfigError: An option does not go with such a model.
        """
        if _is_on_hub(model):
            _refuse_options("a Hugging Face repository", model_config=config)
            folder, commit = hub.fetch(model, subfolder, revision, variant)
            where = storage.join_uri(model, *_parts(subfolder))
            return cls(_read_folder(str(folder), where, variant), where, commit)
        where = storage.normalise_uri(storage.join_uri(model, *_parts(subfolder)))
        if where.endswith(WEIGHTS_ENDINGS) and not _list_names(where):  # a folder may end so too
            _refuse_options("a single file", revision=revision, variant=variant)
            return cls(_read_single(where, config), where)
        _refuse_options("a folder", revision=revision, model_config=config)
        return cls(_read_folder(where, where, variant), where)

    @functools.cached_property
    def parsed(self) -> VQCheckpoint:
        """Architecture and weights, strictly checked against each other."""
        return VQCheckpoint.read(self.files, self.where)

    @property
    def description(self) -> Description:
        """What the tokenizer takes and gives."""
        return self.parsed.description

    def build(self, device: torch.device, dtype: torch.dtype) -> Tokenizer:
        """Returns the tokenizer on a device, its network in a dtype."""
        return self.parsed.build(device, dtype)

    @property
    def parameters(self) -> int:
        """How many numbers the weights hold."""
        return sum(tensor.numel() for tensor in self.parsed.state.values())

    @property
    def dtypes(self) -> list[str]:
        """Names of the dtypes that they are stored in."""
        found = {str(tensor.dtype) for tensor in self.parsed.state.values()}
        return sorted(name.removeprefix("torch.") for name in found)

    def sha256(self) -> str:
        """Returns a digest of names, shapes, dtypes and values of all tensors."""
        return self._sha256

    @functools.cached_property
    def _sha256(self) -> str:
        return digest_tensors(self.parsed.state)

    def codebook_sha256(self) -> str:
        """Returns a digest of the codebook alone: what decides what a code stands for."""
        return digest_tensors(self.parsed.codebook)


def _parts(subfolder: str | None) -> list[str]:
    return [subfolder.strip("/")] if subfolder else []


def _is_on_hub(model: str) -> bool:
    """Whether a model is named as on the hub, and not a path of this machine."""
    if not hub.is_repository(model) or model.endswith(WEIGHTS_ENDINGS):
        return False
    return not Path(model).exists()


def _refuse_options(model: str, **options: str | None) -> None:
    """Refuses options that would do nothing, which is never what was meant.

    Raises:
        ConfigError: If one is given.
    """
    for name, value in options.items():
        if value is not None:
            option = name.replace("_", "-")
            raise ConfigError(
                f"--{option} {value} does not go with {model} as --model; leave it out"
            )


def _read_folder(folder: str, where: str, variant: str | None) -> dict[str, bytes]:
    """Returns the files of a folder in diffusers' layout, in the one form that `Weights` holds."""
    names = _list_names(folder)
    if not any(name.startswith(STEM) for name in names):
        raise CheckpointError(_describe_stranger(where, names))
    files = read_files(
        lambda name: storage.read(storage.join_uri(folder, name)), names, variant, where
    )
    return write_state(*read_checkpoint(files, expected_state, where, variant))


def _describe_stranger(where: str, names: list[str]) -> str:
    """Returns what to say of a folder without weights in diffusers' layout."""
    single = [name for name in names if name.endswith(WEIGHTS_ENDINGS)]
    if single:
        return (
            f"{where} has no {WEIGHTS_FILE}, as diffusers names it, but holds "
            f"{', '.join(single)}; give that file as --model"
        )
    if not names and not _is_local_folder(where):
        return (
            f"{where} does not exist; correct --model: a path, a URL, or org/name on the Hugging "
            "Face hub"
        )
    return (
        f"{where} holds no model: expected {CONFIG_FILE} and {WEIGHTS_FILE}, as diffusers saves a "
        "VQModel; give the folder that holds them (in a pipeline: add --subfolder vqvae)"
    )


def _is_local_folder(where: str) -> bool:
    return "://" not in where and Path(where).is_dir()


def _read_single(uri: str, config_uri: str | None) -> dict[str, bytes]:
    """Returns the files of weights that are one file: CompVis' with YAML, diffusers' with JSON."""
    weights = _read_file(uri, "--model")
    config_uri = storage.normalise_uri(config_uri) if config_uri else _find_config(uri)
    config = _read_file(config_uri, "--model-config")
    if config_uri.endswith(YAML_ENDINGS):
        return write_state(*read_compvis(config, weights, config_uri, uri))
    architecture = parse_config(config, config_uri)
    state = name_as_today(expected_state(architecture), parse_weights(weights, uri), uri)
    return write_state(architecture, state)


def _read_file(uri: str, option: str) -> bytes:
    try:
        return storage.read(uri)
    except FileNotFoundError:
        raise CheckpointError(f"{uri} does not exist; correct {option}") from None


def _find_config(uri: str) -> str:
    """Returns the only config beside a file with weights, or in `../configs/` as taming keeps it.

    Raises:
        CheckpointError: If there is none, or there are several.
    """
    folder = uri.rpartition("/")[0]
    places = [folder]
    if uri.endswith(TRAINED):
        places.append(storage.join_uri(folder.rpartition("/")[0], "configs"))
    found: list[str] = []
    for place in places:
        names = [name for name in _list_names(place) if _is_config(name)]
        found += [storage.join_uri(place, name) for name in names]
        if len(found) == 1:
            return found[0]
    there = ", ".join(found) or "none"
    raise CheckpointError(
        f"{uri} needs its config, of which exactly one must be beside it (found: {there}); say "
        "where it is with --model-config"
    )


def _is_config(name: str) -> bool:
    return name == CONFIG_FILE or name.endswith(YAML_ENDINGS)


def _list_names(folder: str) -> list[str]:
    """Returns the names of the files of a folder."""
    files = storage.list_files(folder, recursive=False)
    return [file.uri.rpartition("/")[2] for file in files]
