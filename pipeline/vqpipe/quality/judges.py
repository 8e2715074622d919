"""The weights of a network that judges images: one file, from anywhere, read strictly.

where      a path, s3://bucket/file, or hf://org/name[@revision]/file on the Hugging Face hub
content    safetensors where the name says so; else what torch.save made of a state dict
"""

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from vqpipe import storage
from vqpipe.codec import hub
from vqpipe.errors import CheckpointError
from vqpipe.hub.names import parse_hub_file
from vqpipe.vqgan.tensors import check_tensors, digest_tensors, parse_weights

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Judge:
    """The weights of such a network, which every worker reads for itself."""

    where: str
    """See above; a path is absolute."""
    sha256: str
    """What `digest_tensors` says of the network that the command was started with."""


def read_state(where: str) -> dict[str, Tensor]:
    """Returns the tensors of a file by name; no code in it is run.

    Raises:
        CheckpointError: There is no such file, or it is damaged or holds more than tensors.
    """
    if where.startswith("hf://"):
        return parse_weights(_read_from_hub(where), where)
    uri = storage.normalise_uri(where)
    try:
        return parse_weights(storage.read(uri), uri)
    except FileNotFoundError:
        raise CheckpointError(f"there is no file {uri}; correct its name") from None


def _read_from_hub(where: str) -> bytes:
    file = parse_hub_file(where)
    if file is None:
        raise CheckpointError(f"{where} names no file of a repository: hf://org/name/file")
    path, _ = hub.fetch_file(file)
    return path.read_bytes()


def build_network(
    make: Callable[[], Network], state: Mapping[str, Tensor], source: str, advice: str
) -> Network:
    """Returns a network with these weights in float32, in eval mode and without gradients.

    Args:
        make: Makes the network; called where tensors take no memory.
        state: All of its weights and no others, in any floating dtype. Counters of norms, which are
            integers, are left out: torch sets them to 0.
        source: What to call their file in errors.
        advice: What to do about a wrong file; ends the message.

    Raises:
        CheckpointError: A tensor is missing, extra, misshaped, not floating or not finite.
    """
    with torch.device("meta"):
        network = make()
    own = network.state_dict()
    weights = {name: tensor for name, tensor in own.items() if tensor.is_floating_point()}
    check_tensors(weights, state, source, advice)
    network.load_state_dict(state, strict=True, assign=True)
    return network.float().eval().requires_grad_(requires_grad=False)


def load_same(
    load: Callable[[str, torch.device], Network], judge: Judge, device: torch.device
) -> Network:
    """Returns a network on this machine, after checking that its weights are the ones meant.

    Raises:
        CheckpointError: They are others here, or are not to be had; names file and machine.
    """
    here = f"on machine {platform.node()}"
    try:
        network = load(judge.where, device)
    except CheckpointError as error:
        raise CheckpointError(f"{here}: {error.message}{_advise(judge)}") from error
    if digest_tensors(network.state_dict()) != judge.sha256:
        raise CheckpointError(
            f"{here}, {judge.where} holds other weights than where the command was started"
            f"{_advise(judge)}"
        )
    return network


def _advise(judge: Judge) -> str:
    """Returns what to do about a file that is not the same on every machine, to end a message."""
    if "://" in judge.where:
        return "; run the same command again once the file is the same for every machine"
    return "; give a path where every machine has that file, or put it on s3:// or hf://"
