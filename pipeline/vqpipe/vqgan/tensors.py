"""The bytes of a weights file to tensors by name; no code that a file may carry is ever run."""

import hashlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from vqpipe.errors import CheckpointError

TRAINED = (".ckpt", ".pth", ".pt")
"""How the names of files end in which trainers keep weights, and whatever else they like."""
STATES = {
    "state_dict": "raw",
    "state_dict_ema": "ema",
    "model_state_dict": "raw",
    "model": "raw",
    "params": "raw",
    "ema": "ema",
    "params_ema": "ema",
}
"""What trainers call the weights in such a file, and whether these are running averages."""
TRAINER_PREFIXES = (
    "pytorch_lightning.",
    "lightning.",
    "lightning_fabric.",
    "omegaconf.",
    "numpy.",
)
"""Packages whose objects trainers leave beside the weights: callbacks, options, scores."""
TRAINER_NAMES = {
    "argparse.Namespace",
    "collections.defaultdict",
    "pathlib.PosixPath",
    "typing.Any",
    *(f"builtins.{name}" for name in ("bool", "dict", "float", "int", "list", "str", "tuple")),
}
"""Other names that such objects refer to."""
TRAINER_DICTS = {
    "collections.defaultdict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
}
"""Those that are filled as dicts are."""

SAFE_TORCH = (2, 10)
"""Before this version, a file that is made for it runs code despite `weights_only`
(CVE-2026-24747)."""


class Inert:
    """Stands for any class or function of a trainer: takes all arguments, and does nothing."""

    def __new__(cls, *_: Any) -> Any:  # noqa: ANN401 - InertDict makes something else
        """Return an empty object."""
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Forget the state."""


class InertDict(Inert):
    """Stands for a subclass of dict: torch fills only the plain one."""

    def __new__(cls, *_: Any) -> Any:  # noqa: ANN401 - the point of it
        """Return an empty dict."""
        return {}


def parse_weights(data: bytes, source: str) -> dict[str, Tensor]:
    """Return the tensors of a weights file by name, in their stored dtypes.

    Args:
        data: A safetensors file where `source` says so; else one of `torch.save`: a state dict, or,
            in one of `TRAINED`, what a trainer saved around it.
        source: Name or URL of the file, for its ending and for errors.

    Raises:
        CheckpointError: The file is damaged, or is not only weights of one model.
    """
    states = parse_states(data, source)
    if len(states) > 1:
        raise CheckpointError(
            f"{source} holds weights and their running averages; save those that are meant in a "
            "file of their own"
        )
    return next(iter(states.values()))


def parse_states(data: bytes, source: str) -> dict[str, dict[str, Tensor]]:
    """Return the same, and the running averages (`ema`) that a trainer saved beside them (`raw`).

    Raises:
        CheckpointError: The file is damaged, or is not only weights.
    """
    if source.endswith(".safetensors"):
        return {"raw": _parse_safetensors(data, source)}
    states = (
        _load_trained(data, source) if source.endswith(TRAINED) else {"raw": _load(data, source)}
    )
    return {which: _check_state(content, source) for which, content in states.items()}


def _check_state(content: object, source: str) -> dict[str, Tensor]:
    """Return a state dict that is one."""
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"{source} is no state dict; get a file with a model's weights")
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(
                f"{source} is no state dict: {name} is a {type(tensor).__name__}, not a tensor; "
                "get a file with a model's weights"
            )
    return content


def _parse_safetensors(data: bytes, source: str) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file by name."""
    try:
        return load_safetensors(data)
    except (SafetensorError, KeyError) as error:  # KeyError: a dtype that torch lacks
        raise CheckpointError(
            f"{source} is damaged or truncated ({error}); get the file anew"
        ) from error


def _load_trained(data: bytes, source: str) -> dict[str, object]:
    """Return the state dicts inside what a trainer saved; all of it if there is none inside."""
    inert = [name for name in _list_globals(data, source) if _is_from_trainer(name)]
    kinds = [(InertDict if name in TRAINER_DICTS else Inert, name) for name in inert]
    with safe_globals(list(kinds)):
        content = _load(data, source)
    if not isinstance(content, dict):
        return {"raw": content}
    names = [name for name in STATES if isinstance(content.get(name), dict)]
    states: dict[str, object] = {STATES[name]: content[name] for name in names}
    if len(states) < len(names):
        raise CheckpointError(
            f"{source} holds the weights of several models, {' and '.join(names)}; save the one "
            "that is meant in a file of its own"
        )
    return states or {"raw": content}


def _is_from_trainer(name: str) -> bool:
    return name.startswith(TRAINER_PREFIXES) or name in TRAINER_NAMES


def _load(data: bytes, source: str) -> object:
    """Return what `torch.save` saved; anything but tensors, containers and `Inert` is refused."""
    _check_torch(source, torch.__version__)
    foreign = _list_globals(data, source)
    if foreign:
        rest = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        raise CheckpointError(
            f"{source} holds more than tensors: {', '.join(foreign[:3])}{rest}; none of it was "
            "run. Get a file with weights only, best as safetensors"
        )
    with _named(source):
        return torch.load(BytesIO(data), map_location="cpu", weights_only=True)


def _check_torch(source: str, version: str) -> None:
    if tuple(map(int, version.split(".")[:2])) < SAFE_TORCH:
        needed = ".".join(map(str, SAFE_TORCH))
        raise CheckpointError(
            f"{source} is a pickle, and torch {version} can be made to run code by one "
            f"(CVE-2026-24747); take safetensors, or torch {needed} or newer"
        )


def _list_globals(data: bytes, source: str) -> list[str]:
    """Return the classes and functions that a file refers to and that are not allowed, unrun."""
    with _named(source):
        try:
            return sorted(get_unsafe_globals_in_checkpoint(BytesIO(data)))
        except ValueError:  # no zip file; torch.load refuses what an older format refers to
            return []


@contextmanager
def _named(source: str) -> Iterator[None]:
    """Turn what torch raises over a file into one error that names it."""
    try:
        yield
    except Exception as error:  # torch.load documents none: zip, pickle, EOF and others all occur
        cause = error.__context__ or error  # without torch's advice to load it unsafely
        reason = str(cause).partition("\n")[0].partition(". ")[0] or type(cause).__name__
        raise CheckpointError(
            f"{source} is damaged or holds more than tensors ({reason}); get the file anew"
        ) from error


def check_tensors(
    expected: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    source: str,
    advice: str,
    stored_names: Mapping[str, str] | None = None,
) -> None:
    """Check that weights are those of a network: every name and shape, and that all are finite.

    Args:
        expected: The network's own, which may be without memory.
        state: The weights.
        source: What to call their file in errors.
        advice: What to do if they are not; ends the message.
        stored_names: What the file calls each tensor, where it uses other names.

    Raises:
        CheckpointError: They are not; the message names `source` and the first tensors at fault.
    """
    check_names(expected, state, source, advice)
    for name, tensor in state.items():
        stored, shape = (stored_names or {}).get(name, name), tuple(expected[name].shape)
        if tuple(tensor.shape) != shape:
            raise CheckpointError(
                f"{source}: {stored} has shape {tuple(tensor.shape)}, not {shape}; {advice}"
            )
        if not tensor.is_floating_point():
            raise CheckpointError(
                f"{source}: {stored} is {tensor.dtype}, not floating; convert the weights"
            )
        if not tensor.isfinite().all():
            raise CheckpointError(
                f"{source}: {stored} has NaN or infinite values; get the file anew"
            )


def check_names(
    expected: Collection[str], found: Collection[str], source: str, advice: str
) -> None:
    """Check that the tensors found are those expected.

    Raises:
        CheckpointError: They are not; the message names the first that are missing or extra.
    """
    for problem, names in (
        ("missing", set(expected) - set(found)),
        ("extra", set(found) - set(expected)),
    ):
        if names:
            raise CheckpointError(f"{source}: {problem} tensor {list_names(names)}; {advice}")


def list_names(names: set[str]) -> str:
    """Return up to three names in order, and how many more there are."""
    shown = sorted(names)[:3]
    rest = len(names) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return a SHA-256, hexadecimal, of names, shapes, dtypes and values of tensors."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
