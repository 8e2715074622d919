"""A batch that a device is at work on, and what becomes of it on the host."""

from typing import Any, NamedTuple

import numpy.typing as npt
import torch
from torch import Tensor

from vqpipe.codec.device_time import Lap


class Launched(NamedTuple):
    """A batch that is under way on the device."""

    outputs: list[Tensor]
    """On the host, filled once `ready` has come."""
    ready: "torch.cuda.Event | None"
    size: int
    """Items that are no padding."""
    lap: Lap

    @classmethod
    def of(cls, outputs: tuple[Tensor, ...], size: int, lap: Lap) -> "Launched":
        """Starts the copies to the host; on a CPU everything is there already."""
        host = [output.to("cpu", non_blocking=True) for output in outputs]  # pinned by torch
        return cls(host, lap.end(), size, lap)

    def collect(self) -> list[npt.NDArray[Any]]:
        """Waits for the batch, asleep, and returns its results, without the padding."""
        if self.ready is not None:
            self.ready.synchronize()
            self.lap.count(self.ready)
        return [output[: self.size].numpy() for output in self.outputs]
