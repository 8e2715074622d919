"""Weights in diffusers' layout, read strictly; bytes in, bytes out, so any store can hold them."""

import dataclasses
import json
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from pipeline.errors import CheckpointError
from pipeline.vqgan.config import VQConfig
from pipeline.vqgan.model import VQModel

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
PICKLE_FILE = "diffusion_pytorch_model.bin"
"""Weights of older repositories; read only where there is no `WEIGHTS_FILE`."""
CHECKPOINT_FILES = (CONFIG_FILE, WEIGHTS_FILE, PICKLE_FILE)
"""What to fetch from a checkpoint's folder, as far as it is there."""

DIFFUSERS_VERSION = "0.42.0"
"""Written as `_diffusers_version`: whose layout the files follow."""

OLD_ATTENTION_NAMES = {
    ".query.": ".to_q.",
    ".key.": ".to_k.",
    ".value.": ".to_v.",
    ".proj_attn.": ".to_out.0.",
}
"""Names in old checkpoints, which diffusers still reads (0.42, `_fix_state_dict_keys_on_load`)."""


def read_folder(folder: Path) -> dict[str, bytes]:
    """Return those of `CHECKPOINT_FILES` that a local folder has, by name."""
    return {
        name: (folder / name).read_bytes() for name in CHECKPOINT_FILES if (folder / name).is_file()
    }


def read_checkpoint(
    files: Mapping[str, bytes], where: str = "checkpoint"
) -> tuple[VQConfig, dict[str, Tensor]]:
    """Return architecture and weights, checked against each other; weights keep their stored dtype.

    Args:
        files: Contents by name: `CONFIG_FILE` and `WEIGHTS_FILE`, or `PICKLE_FILE` in its place.
        where: What to call the checkpoint in errors, such as its URL.

    Raises:
        CheckpointError: A file is missing or damaged, a config field is unknown or out of bounds,
            or a tensor is missing, extra, misshaped, not floating or not finite.
    """
    config = parse_config(_take(files, CONFIG_FILE, where), f"{where}/{CONFIG_FILE}")
    is_pickle = WEIGHTS_FILE not in files and PICKLE_FILE in files
    name = PICKLE_FILE if is_pickle else WEIGHTS_FILE
    data, source = _take(files, name, where), f"{where}/{name}"
    state = _parse_pickle(data, source) if is_pickle else _parse_safetensors(data, source)
    state = {_rename_old_attention(key): tensor for key, tensor in state.items()}
    check_state(config, state, source)
    return config, state


def parse_config(data: bytes, source: str) -> VQConfig:
    """Return the architecture that a `config.json` describes; keys with a leading `_` are ignored.

    Raises:
        CheckpointError: It is no JSON object, not a VQModel's, or has an unknown or bad field.
    """
    values = _parse_json_object(data, source)
    class_name = values.get("_class_name")
    if class_name != "VQModel":
        raise CheckpointError(
            f"{source}: _class_name is {class_name!r}, not 'VQModel'; give the folder of a VQModel"
        )
    values = {name: value for name, value in values.items() if not name.startswith("_")}
    unknown = sorted(values.keys() - {field.name for field in dataclasses.fields(VQConfig)})
    if unknown:
        raise CheckpointError(
            f"{source}: unknown field {', '.join(unknown)}; remove it if it does not change results"
        )
    try:
        return dataclasses.replace(VQConfig(), **values)
    except ValueError as error:
        raise CheckpointError(f"{source}: {error}; correct the field") from error


def check_state(config: VQConfig, state: Mapping[str, Tensor], source: str) -> None:
    """Check that the weights are this architecture's: every name, shape and value.

    Raises:
        CheckpointError: They are not; the message names `source` and the first tensors at fault.
    """
    with torch.device("meta"):
        expected = VQModel.from_config(config).state_dict()
    advice = f"use the {CONFIG_FILE} and weights of one model"
    for problem, names in (
        ("missing", expected.keys() - state.keys()),
        ("extra", state.keys() - expected.keys()),
    ):
        if names:
            raise CheckpointError(f"{source}: {problem} tensor {_list_names(names)}; {advice}")
    for name, tensor in state.items():
        shape = tuple(expected[name].shape)
        if tuple(tensor.shape) != shape:
            raise CheckpointError(
                f"{source}: {name} has shape {tuple(tensor.shape)}, not {shape}; {advice}"
            )
        if not tensor.is_floating_point():
            raise CheckpointError(
                f"{source}: {name} is {tensor.dtype}, not floating; convert the weights"
            )
        if not tensor.isfinite().all():
            raise CheckpointError(f"{source}: {name} has NaN or infinite values; get the file anew")


def build_model(
    config: VQConfig, state: Mapping[str, Tensor], dtype: torch.dtype | None = None
) -> VQModel:
    """Return the model with these very tensors as weights, in eval mode; none is initialised first.

    Args:
        config: The architecture.
        state: Every weight, as `read_checkpoint` returns them.
        dtype: Dtype to convert the weights to; None keeps each tensor's own.
    """
    with torch.device("meta"):
        model = VQModel.from_config(config)
    model.load_state_dict(state, strict=True, assign=True)
    return model.to(dtype=dtype).eval() if dtype is not None else model.eval()


def write_checkpoint(model: VQModel) -> dict[str, bytes]:
    """Return contents of `CONFIG_FILE` and `WEIGHTS_FILE`, dtypes kept; diffusers reads them."""
    header = {"_class_name": "VQModel", "_diffusers_version": DIFFUSERS_VERSION}
    config = json.dumps(header | dataclasses.asdict(model.config), indent=2) + "\n"
    state = {
        name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()
    }
    return {
        CONFIG_FILE: config.encode(),
        WEIGHTS_FILE: save_safetensors(state, metadata={"format": "pt"}),
    }


def _take(files: Mapping[str, bytes], name: str, where: str) -> bytes:
    """Return one file's contents, or say that it is missing and which are there."""
    if name not in files:
        there = ", ".join(sorted(files)) or "none of the expected files"
        raise CheckpointError(
            f"{where}/{name} is missing (there: {there}); give a folder in diffusers' layout"
        )
    return files[name]


def _parse_json_object(data: bytes, source: str) -> dict[str, Any]:
    """Return the JSON object in the bytes."""
    try:
        values = json.loads(data)
    except ValueError as error:
        raise CheckpointError(f"{source} is not JSON ({error}); get the file anew") from error
    if not isinstance(values, dict):
        raise CheckpointError(
            f"{source} is a JSON {type(values).__name__}, not an object; get the file anew"
        )
    return values


def _parse_safetensors(data: bytes, source: str) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file by name."""
    try:
        return load_safetensors(data)
    except (SafetensorError, KeyError) as error:  # KeyError: a dtype that torch lacks
        raise CheckpointError(
            f"{source} is damaged or truncated ({error}); get the file anew"
        ) from error


def _parse_pickle(data: bytes, source: str) -> dict[str, Tensor]:
    """Return the tensors of a `torch.save` file by name; code in it is refused, not run."""
    try:
        state = torch.load(BytesIO(data), map_location="cpu", weights_only=True)
    except (
        Exception
    ) as error:  # torch.load documents no errors: zip, pickle, EOF and Runtime errors all occur
        raise CheckpointError(
            f"{source} is damaged or holds more than tensors ({error}); get the file anew"
        ) from error
    if not isinstance(state, dict) or not all(
        isinstance(tensor, Tensor) for tensor in state.values()
    ):
        raise CheckpointError(f"{source} is no state dict; get weights saved by diffusers")
    return state


def _rename_old_attention(name: str) -> str:
    """Return today's name of a tensor."""
    if ".attentions." in name:
        for old, new in OLD_ATTENTION_NAMES.items():
            name = name.replace(old, new)
    return name


def _list_names(names: set[str]) -> str:
    """Return up to three names in order, and how many more there are."""
    shown = sorted(names)[:3]
    rest = len(names) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")
