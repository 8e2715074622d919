"""A batch that a device is at work on, and what becomes of it on the host."""

from typing import Any, NamedTuple

import numpy.typing as npt
import torch
from torch import Tensor


class Launched(NamedTuple):
    """A batch that is under way on the device."""

    outputs: list[Tensor]
    """On the host, filled once `ready` has come."""
    ready: "torch.cuda.Event | None"
    size: int
    """Items that are no padding."""

    @classmethod
    def of(cls, outputs: tuple[Tensor, ...], size: int) -> "Launched":
        """Starts the copies to the host; on a CPU everything is there already."""
        host = [output.to("cpu", non_blocking=True) for output in outputs]  # pinned by torch
        if not outputs[0].is_cuda:
            return cls(host, None, size)
        ready = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        ready.record()
        return cls(host, ready, size)

    def collect(self) -> list[npt.NDArray[Any]]:
        """Waits for the batch, asleep, and returns its results, without the padding."""
        if self.ready is not None:
            self.ready.synchronize()
        return [output[: self.size].numpy() for output in self.outputs]
