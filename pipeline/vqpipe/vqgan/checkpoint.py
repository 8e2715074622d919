"""Weights in diffusers' layout, read strictly; bytes in, bytes out, so any store can hold them."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from safetensors.torch import save as save_safetensors
from torch import Tensor

from vqpipe.errors import CheckpointError
from vqpipe.vqgan.config import EMA_FIELDS, VQConfig
from vqpipe.vqgan.files import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    choose_weights,
    is_index,
    parse_index,
    parse_json_object,
    take_file,
)
from vqpipe.vqgan.tensors import check_names, check_tensors, list_names, parse_weights

DIFFUSERS_VERSION = "0.42.0"
"""Written as `_diffusers_version`: whose layout the files follow."""

OLD_ATTENTION_NAMES = {
    ".query.": ".to_q.",
    ".key.": ".to_k.",
    ".value.": ".to_v.",
    ".proj_attn.": ".to_out.0.",
}
"""Names in old checkpoints, which diffusers still reads (0.42, `_fix_state_dict_keys_on_load`)."""

Expected = Callable[[VQConfig], Mapping[str, Tensor]]
"""A tensor, which may be without memory, for every weight of an architecture, by name."""

ADVICE = "use the config and weights of one model"
"""What to do where weights are not those of the architecture."""

WRAPPERS = {"module", "_orig_mod"}
"""Parts of names that torch adds: `DistributedDataParallel`, and `torch.compile`."""
HOLDERS = ("model.", "vqmodel.", "vq_model.", "ema.")
"""Starts of names where a trainer's file has a model as one part, or its running average."""


def read_checkpoint(
    files: Mapping[str, bytes],
    expected: Expected,
    where: str = "checkpoint",
    variant: str | None = None,
) -> tuple[VQConfig, dict[str, Tensor]]:
    """Return architecture and weights, checked against each other; weights keep their stored dtype.

    Args:
        files: Contents by name, as `files.read_files` returns them.
        expected: What the weights of an architecture are called, and their shapes.
        where: What to call the checkpoint in errors, such as its URL.
        variant: Which weights, such as fp16; None for the plain ones.

    Raises:
        CheckpointError: A file is missing or damaged, a config field is unknown or out of bounds,
            or a tensor is missing, extra, misshaped, not floating or not finite.
    """
    config = parse_config(take_file(files, CONFIG_FILE, where), f"{where}/{CONFIG_FILE}")
    name = choose_weights(files, variant, where)
    read = _read_shards if is_index(name) else _read_single
    state = read(files, name, where)
    return config, name_as_today(expected(config), state, f"{where}/{name}")


def name_as_today(
    expected: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str
) -> dict[str, Tensor]:
    """Return weights with today's names, checked to be all that are expected.

    Raises:
        CheckpointError: They are not.
    """
    inner = strip_wrappers(state)
    names = {stored: _rename_old_attention(name) for stored, name in inner.items()}
    renamed = rename(state, names, source)
    check_tensors(expected, renamed, source, ADVICE)
    return renamed


def rename(state: Mapping[str, Tensor], names: Mapping[str, str], source: str) -> dict[str, Tensor]:
    """Return weights by other names.

    Args:
        state: The weights.
        names: New ones, by those of `state`.
        source: What to call their file in errors.

    Raises:
        CheckpointError: Two tensors get one name.
    """
    stored = {new: old for old, new in names.items()}
    if len(stored) < len(names):
        twice = set(names) - set(stored.values())
        raise CheckpointError(
            f"{source}: extra tensor {list_names(twice)}, also there under its other name; get "
            "the file anew"
        )
    return {new: state[old] for new, old in stored.items()}


def strip_wrappers(names: Iterable[str]) -> dict[str, str]:
    """Return the names that tensors have in the model itself, by the names that they are stored by.

    What wraps a model, or a part of it, for training is in the names of what it wraps. A part that
    only says what a whole file is goes where all names have it: no model that is read here has it.
    """
    found = {
        name: ".".join(part for part in name.split(".") if part not in WRAPPERS) for name in names
    }
    for holder in HOLDERS:
        if all(name.startswith(holder) for name in found.values()):
            found = {name: inner.removeprefix(holder) for name, inner in found.items()}
    return found


def _read_single(files: Mapping[str, bytes], name: str, where: str) -> dict[str, Tensor]:
    """Return the tensors of one file."""
    return parse_weights(files[name], f"{where}/{name}")


def _read_shards(files: Mapping[str, bytes], name: str, where: str) -> dict[str, Tensor]:
    """Return the tensors of all shards; each must hold exactly what the index puts there."""
    shards = parse_index(files[name], f"{where}/{name}")
    state: dict[str, Tensor] = {}
    for shard in sorted(set(shards.values())):
        source = f"{where}/{shard}"
        found = parse_weights(take_file(files, shard, where), source)
        promised = {tensor for tensor, place in shards.items() if place == shard}
        check_names(promised, found, source, f"get it and {name} from one place")
        state |= found
    return state


def parse_config(data: bytes, source: str) -> VQConfig:
    """Return the architecture that a `config.json` describes.

    Fields with a leading `_` are ignored, and `EMA_FIELDS`, which change no number.

    Raises:
        CheckpointError: It is no JSON object, not a VQModel's, or has an unknown or bad field.
    """
    values = parse_json_object(data, source)
    class_name = values.get("_class_name")
    if class_name != "VQModel":
        raise CheckpointError(
            f"{source}: _class_name is {class_name!r}, not 'VQModel'; give the folder of a VQModel"
        )
    values = {
        name: value
        for name, value in values.items()
        if not name.startswith("_") and name not in EMA_FIELDS
    }
    unknown = sorted(values.keys() - {field.name for field in dataclasses.fields(VQConfig)})
    if unknown:
        raise CheckpointError(
            f"{source}: unknown field {', '.join(unknown)}; remove it if it does not change results"
        )
    try:
        return dataclasses.replace(VQConfig(), **values)
    except ValueError as error:
        raise CheckpointError(f"{source}: {error}; correct the field") from error


def write_state(
    config: Mapping[str, Any],
    state: Mapping[str, Tensor],
    network: str = "VQModel",
    notes: Mapping[str, Any] | None = None,
) -> dict[str, bytes]:
    """Return contents of `CONFIG_FILE` and `WEIGHTS_FILE` for weights that were checked.

    Args:
        config: The architecture.
        state: Every weight.
        network: Name of its class.
        notes: What is to be known of the weights besides, under names that begin with `_`.
    """
    header = {"_class_name": network, "_diffusers_version": DIFFUSERS_VERSION}
    values = json.dumps({**header, **(notes or {}), **config}, indent=2) + "\n"
    separate = {  # safetensors refuses tensors that share memory
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in state.items()
    }
    return {
        CONFIG_FILE: values.encode(),
        WEIGHTS_FILE: save_safetensors(separate, metadata={"format": "pt"}),
    }


def _rename_old_attention(name: str) -> str:
    """Return today's name of a tensor."""
    if ".attentions." in name:
        for old, new in OLD_ATTENTION_NAMES.items():
            name = name.replace(old, new)
    return name
