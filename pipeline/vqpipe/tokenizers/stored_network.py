"""Networks that are no VQModel as files in diffusers' layout: config and weights, read strictly."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from vqpipe.errors import CheckpointError
from vqpipe.vqgan.checkpoint import ADVICE
from vqpipe.vqgan.files import CONFIG_FILE, WEIGHTS_FILE, parse_json_object, take_file
from vqpipe.vqgan.tensors import check_tensors, parse_weights

Network = TypeVar("Network", bound=nn.Module)


def check_counts(**counts: Any) -> None:  # noqa: ANN401 - that is what it checks
    """Check fields that count something.

    Raises:
        ValueError: One is no whole number above 0.
    """
    for name, value in counts.items():
        if type(value) is not int or value < 1:
            raise ValueError(f"{name} is {value!r}, and has to be a whole number above 0")


def read_config(files: Mapping[str, bytes], where: str) -> dict[str, Any]:
    """Return what the config says of the architecture, without notes, which begin with `_`."""
    data = take_file(files, CONFIG_FILE, where)
    said = parse_json_object(data, f"{where}/{CONFIG_FILE}")
    return {name: value for name, value in said.items() if not name.startswith("_")}


def read_state(
    files: Mapping[str, bytes], where: str, make: Callable[[], nn.Module]
) -> dict[str, Tensor]:
    """Return the weights of a network, checked against it.

    Args:
        files: Contents by name.
        where: What to call the checkpoint in errors.
        make: Makes the network; called where tensors take no memory.

    Raises:
        CheckpointError: A file is missing or damaged, or a tensor missing, extra, misshaped, not
            floating or not finite.
    """
    state = parse_weights(take_file(files, WEIGHTS_FILE, where), f"{where}/{WEIGHTS_FILE}")
    check_tensors(expected_of(make), state, f"{where}/{WEIGHTS_FILE}", ADVICE)
    return state


def expected_of(make: Callable[[], nn.Module]) -> dict[str, Tensor]:
    """Return a tensor without memory for every weight of a network, by name."""
    with torch.device("meta"):
        return make().state_dict()


def build(make: Callable[[], Network], state: Mapping[str, Tensor]) -> Network:
    """Return the network with these very tensors as weights, float32, in eval mode."""
    with torch.device("meta"):
        network = make()
    network.load_state_dict(state, strict=True, assign=True)
    return network.float().eval().requires_grad_(requires_grad=False)


def make_config(kind: Callable[..., Any], said: Mapping[str, Any], where: str) -> Any:  # noqa: ANN401 - of that kind
    """Return an architecture of what a config says.

    Raises:
        CheckpointError: A field is unknown, missing, or out of its bound.
    """
    try:
        return kind(**said)
    except (TypeError, ValueError, KeyError) as error:
        raise CheckpointError(f"{where}/{CONFIG_FILE}: {error}; get the file anew") from error
