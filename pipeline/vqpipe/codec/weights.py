"""A checkpoint of any kind: read whole, checked, and held in one layout, wherever it was.

What a person gives is found (`codec.finding`) and read. A VQModel in diffusers' names is taken as
it is; all else is of a family (`tokenizers.families`), which makes a network of ours of it.
"""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vqpipe import storage
from vqpipe.codec.finding import WEIGHTS_ENDINGS, YAML_ENDINGS, Found, find, list_names
from vqpipe.errors import CheckpointError, ConfigError, StorageError
from vqpipe.tokenizers import families
from vqpipe.tokenizers.averages import choose
from vqpipe.tokenizers.family import Stored
from vqpipe.tokenizers.family_names import FamilyName, Which
from vqpipe.tokenizers.networks import NETWORKS, VQ_MODEL
from vqpipe.tokenizers.tokenizer import Description, NetworkCheckpoint, Tokenizer
from vqpipe.vqgan.checkpoint import (
    name_as_today,
    parse_config,
    read_checkpoint,
    rename,
    strip_wrappers,
    write_state,
)
from vqpipe.vqgan.files import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    is_index,
    parse_index,
    parse_json_object,
    read_files,
    take_file,
)
from vqpipe.vqgan.model import expected_state
from vqpipe.vqgan.tensors import check_names, digest_tensors, parse_states, parse_weights

PROVENANCE = "_vqpipe"
"""What `CONFIG_FILE` has beside the architecture: of which family the weights were, and what has
been done to them. diffusers passes over names with such a beginning."""


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
    def load(  # noqa: PLR0913 (what a person may say of a model)
        cls,
        model: str,
        *,
        subfolder: str | None = None,
        revision: str | None = None,
        variant: str | None = None,
        config: str | None = None,
        family: FamilyName | None = None,
        weights: Which | None = None,
    ) -> "Weights":
        """Returns a checkpoint, strictly checked, from wherever it is.

        Args:
            model: A folder or a single file on any store, or, where no such path is on this
                machine, `org/name` on the Hugging Face hub (`codec.finding`).
            subfolder: Folder inside it.
            revision: Branch, tag or commit of a Hugging Face repository.
            variant: Which weights of a folder, as in fp16.
            config: URI of the config of a single file; found beside it if there is only one.
            family: What it is of (`tokenizers.families`), where that does not show.
            weights: Which are meant where there are raw ones and running averages.

        Raises:
            CheckpointError: There is no checkpoint, or it is damaged or something else.
            ConfigError: An option does not go with such a model.
        """
        found = find(model, subfolder=subfolder, revision=revision, variant=variant, config=config)
        return cls(_read(found, variant, family, weights), found.where, found.commit)

    @functools.cached_property
    def parsed(self) -> NetworkCheckpoint:
        """Architecture and weights, strictly checked against each other."""
        config = parse_json_object(take_file(self.files, CONFIG_FILE, self.where), self.where)
        network = NETWORKS.get(config.get("_class_name", VQ_MODEL), NETWORKS[VQ_MODEL])
        return network.read(self.files, self.where)

    @functools.cached_property
    def provenance(self) -> Mapping[str, Any]:
        """Of which family it was, and what has been done to the weights; empty if nothing."""
        config = parse_json_object(self.files[CONFIG_FILE], self.where)
        found = config.get(PROVENANCE)
        return found if isinstance(found, dict) else {}

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


def _read(
    found: Found, variant: str | None, family: FamilyName | None, which: Which | None
) -> dict[str, bytes]:
    """Returns the files of a checkpoint in the one form that `Weights` holds.

    Raises:
        CheckpointError: It is damaged or something else.
        ConfigError: It does not show what it is, or an option does not go with it.
    """
    config = _read_config(found)
    is_published = any(each.is_named(config or {}) for each in families.FAMILIES)
    is_ours = found.is_of_diffusers and not is_published
    network = (config or {}).get("_class_name", VQ_MODEL if is_ours else None)
    if family and is_ours and network in NETWORKS:
        raise ConfigError(
            f"--family {family} does not go with {found.where}, which is a {network} in diffusers' "
            "layout, as vqpipe convert writes it too; leave it out"
        )
    if is_ours and found.is_folder and not family:
        return _read_folder(found, variant, config or {}, which)
    if network in NETWORKS and not family:
        return _read_single(found, config, which)
    return _read_published(found, config, family, which)


def _read_config(found: Found) -> Mapping[str, Any] | None:
    """Returns what the config says; None where it does not show which it is."""
    if found.config is None:
        return None
    if found.config.endswith(WEIGHTS_ENDINGS):
        raise ConfigError(
            f"--model-config {found.config} is a file of weights; give the YAML or JSON beside it"
        )
    data = _read_file(found.config, "--model-config")
    if not found.config.endswith(YAML_ENDINGS):
        return parse_json_object(data, found.config)
    import yaml  # noqa: PLC0415 - a machine that only encodes may lack it

    try:
        values = yaml.safe_load(data)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{found.config} is not YAML ({error}); get the file anew") from error
    if not isinstance(values, dict):
        raise CheckpointError(
            f"{found.config} is {values!r}, not a mapping; give the YAML config of a VQGAN"
        )
    return values


def _read_file(uri: str, option: str) -> bytes:
    try:
        return storage.read(uri)
    except FileNotFoundError:
        raise CheckpointError(f"{uri} does not exist; correct {option}") from None
    except StorageError as error:
        if not isinstance(error.__cause__, IsADirectoryError):
            raise
        raise CheckpointError(f"{uri} is a folder; name a file with {option}") from error


def _read_folder(
    found: Found, variant: str | None, config: Mapping[str, Any], which: Which | None
) -> dict[str, bytes]:
    """Returns the files of a folder in diffusers' layout, of whichever network of ours."""
    notes = _notes(config)
    if which not in (None, notes.get(PROVENANCE, {}).get("weights") or "raw"):
        raise ConfigError(
            f"--weights {which} does not go with {found.where}, which holds one kind of weights; "
            "leave it out"
        )
    names = list_names(found.folder)
    files = read_files(
        lambda name: storage.read(storage.join_uri(found.folder, name)), names, variant, found.where
    )
    network = str(config.get("_class_name"))
    if network in NETWORKS and network != VQ_MODEL:
        return _write_network(files, network, found.where, notes)
    architecture, state = read_checkpoint(files, expected_state, found.where, variant)
    return write_state(architecture, state, notes=notes)


def _write_network(
    files: Mapping[str, bytes], network: str, where: str, notes: Mapping[str, Any]
) -> dict[str, bytes]:
    """Returns the files of a network that is no VQModel, checked and written anew."""
    checkpoint = NETWORKS[network].read(files, where)
    return write_state(checkpoint.description.config, checkpoint.state, network, notes)


def _notes(config: Mapping[str, Any]) -> dict[str, Any]:
    return {PROVENANCE: config[PROVENANCE]} if isinstance(config.get(PROVENANCE), dict) else {}


def _read_single(
    found: Found, config: Mapping[str, Any] | None, which: Which | None
) -> dict[str, bytes]:
    """Returns the files of a network of ours whose weights are one file, or an index.

    Raises:
        CheckpointError: It is damaged, or has no config.
    """
    source = storage.join_uri(found.folder, found.weights)
    if config is None:
        raise CheckpointError(
            f"{source} has no {CONFIG_FILE} beside it; get it, or name one with --model-config"
        )
    network = config.get("_class_name")
    if network in NETWORKS and network != VQ_MODEL:
        files = {
            CONFIG_FILE: json.dumps(config).encode(),
            WEIGHTS_FILE: _read_file(source, "--model"),
        }
        return _write_network(files, str(network), source, _notes(config))
    states = _read_states(found, source)
    raw, averages = (states.get(kind, {}) for kind in ("raw", "ema"))
    state, _, _ = choose(raw, averages, which, None, source)
    architecture = parse_config(json.dumps(config).encode(), found.config or source)
    named = name_as_today(expected_state(architecture), state, source)
    return write_state(architecture, named, notes=_notes(config))


def _read_published(
    found: Found, config: Mapping[str, Any] | None, family: FamilyName | None, which: Which | None
) -> dict[str, bytes]:
    """Returns the files of the network that a checkpoint of a family is."""
    source = storage.join_uri(found.folder, found.weights)
    states = _read_states(found, source)
    raw, averages = (_unwrapped(states.get(kind, {}), source) for kind in ("raw", "ema"))
    stored = Stored(raw, source, averages, config, found.config or _describe_configs(found))
    reading = families.read(stored, family, which)
    network, notes = reading.network, {PROVENANCE: reading.provenance()}
    return write_state(network.config, network.state, network.name, notes)


def _describe_configs(found: Found) -> str:
    """Returns why there is no config, to begin a sentence."""
    if not found.configs:
        return "it has no config beside it"
    return f"it has several configs beside it ({', '.join(found.configs)}), and not one"


def _unwrapped(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    return rename(state, strip_wrappers(state), source)


def _read_states(found: Found, source: str) -> dict[str, dict[str, Tensor]]:
    """Returns the tensors of a file, or of those shards of an index that have the tokenizer's."""
    data = _read_file(source, "--model")
    if not is_index(found.weights):
        return parse_states(data, source)
    index = parse_index(data, source)
    state: dict[str, Tensor] = {}
    for shard in sorted(families.needed_shards(index)):
        uri = storage.join_uri(found.folder, shard)
        tensors = parse_weights(_read_shard(uri, source), uri)
        promised = {tensor for tensor, place in index.items() if place == shard}
        check_names(promised, tensors, uri, f"get it and {found.weights} from one place")
        state |= tensors
    return {"raw": state}


def _read_shard(uri: str, index: str) -> bytes:
    try:
        return storage.read(uri)
    except FileNotFoundError:
        raise CheckpointError(f"{uri} is missing, of which {index} says what it holds") from None
