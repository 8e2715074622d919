"""Images of a shard as tensors on a device, so few at a time that they fit there."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from torch.backends import cudnn

from vqpipe.metrics import Images
from vqpipe.vqgan.precision import float32_products


def split_batches(size: int, device: str | torch.device, *images: Images) -> Iterator[list[Tensor]]:
    """Yields (n, 3, H, W) uint8 on the device from each array, n up to `size`, in order.

    Args:
        size: Images of each array at a time.
        device: Where to.
        images: Arrays (N, H, W, 3) uint8 RGB of one shape.

    Raises:
        ValueError: If the arrays are others.
    """
    _check_images(images)
    for start in range(0, len(images[0]), size):
        chunk = slice(start, start + size)
        # A copy: torch warns of an array that may not be written to, as one of Arrow's memory.
        yield [torch.tensor(array[chunk], device=device).permute(0, 3, 1, 2) for array in images]


def _check_images(images: tuple[Images, ...]) -> None:
    first = images[0].shape
    for array in images:
        is_batch = array.ndim == 4 and array.shape[-1] == 3 and array.dtype == np.uint8
        if not is_batch or array.shape != first:
            found = " and ".join(f"{array.dtype} {array.shape}" for array in images)
            raise ValueError(f"expected uint8 arrays (N, H, W, 3) of one shape, not {found}")


def fit_batch(images: Images, max_pixels: int) -> int:
    """Returns how many of the images (N, H, W, 3) have `max_pixels` together; at least one."""
    pixels = int(np.prod(images.shape[1:3]))
    return max(1, max_pixels // max(1, pixels))


@contextmanager
def in_full_float32() -> Iterator[None]:
    """Makes a GPU's convolutions exact to float32 and the same on every run, for a block.

    They may round to TF32's ten bits otherwise. The switches are the process's.
    """
    before = cudnn.enabled, cudnn.benchmark, cudnn.deterministic
    try:
        cudnn.enabled, cudnn.benchmark, cudnn.deterministic = True, False, True
        with float32_products("ieee"):
            yield
    finally:
        cudnn.enabled, cudnn.benchmark, cudnn.deterministic = before
