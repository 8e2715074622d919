"""A device that codecs are to be made on, found where this runs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from vqpipe.codec.codec import Codec
from vqpipe.codec.config import CodecConfig, Device, batch_size_for
from vqpipe.codec.device import choose_device, device_name


@dataclass(frozen=True)
class Placed:
    """A device of this machine, with what makes codecs on it."""

    kind: str
    """`cuda` or `cpu`."""
    name: str
    """As a person calls it."""
    count: int
    """How many of its kind this machine has."""
    batch_size: int
    """Images in one forward."""
    make: Callable[[CodecConfig, int | None], Codec]


def place_codec(
    codec: Callable[..., Codec],
    device: Device,
    *,
    batch_size: int | None,
    shapes: int,
    threads: int,
    promised: bool = False,
) -> Placed:
    """Returns where codecs are to be.

    Args:
        codec: `Codec` with its checkpoint.
        device: What was asked for.
        batch_size: Images in one forward; None is what a run takes.
        shapes: That images may have.
        threads: Of a codec on a CPU.
        promised: Whether a GPU of this machine has been set aside for this process.

    Raises:
        ConfigError: If the device is not there.
        DeviceError: If a promised one is not.
    """
    chosen = choose_device(device, promised=promised)
    size = (batch_size if chosen == "cuda" else None) or batch_size_for(chosen, shapes)

    def make(how: CodecConfig, single: int | None) -> Codec:
        placed: dict[str, Any] = {"device": chosen, "threads": threads}
        return codec(how, batch_size=single or size, **placed)

    if chosen == "cpu":
        torch.set_num_threads(threads)  # which is what its name says
    count = torch.cuda.device_count() if chosen == "cuda" else 1
    return Placed(chosen, device_name(chosen), count, size, make)
