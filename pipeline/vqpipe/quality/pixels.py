"""Decoded images against their originals, pixel by pixel: PSNR, SSIM and L1 of each pair.

    compare_images  (N, H, W, 3) uint8 RGB, twice  ->  Similarity: three numbers a pair

Nothing here depends on what else is in a batch. torchmetrics would do, but that its SSIM takes a
CPU core a second for each image of 256 px, and counts windows that reach into mirrored edges
(Lightning-AI/torchmetrics#2721); the tests compare with it, and with scikit-image.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vqpipe.metrics import Images
from vqpipe.quality.batches import fit_batch, split_batches

WINDOW_PX = 11
"""Side of SSIM's Gaussian window (Wang et al. 2004, https://doi.org/10.1109/TIP.2003.819861)."""
SIGMA_PX = 1.5
"""Standard deviation of that window."""
MAX_PIXELS = 2**16
"""Pixels of each side that are compared at a time; more was slower on a CPU."""

_C1, _C2 = 0.01**2, 0.03**2  # K1 and K2 of the paper, squared, for pixels in 0..1

Scores = npt.NDArray[np.float64]
"""(N,): one number a pair of images."""


@dataclass(frozen=True, eq=False)
class Similarity:
    """How near each decoded image is to its original."""

    psnr_db: Scores
    """Peak signal-to-noise ratio in dB, over all pixels and channels; inf where nothing differs."""
    ssim: Scores
    """Structural similarity, at most 1: the mean over channels and over those places whose whole
    window lies inside the image. NaN for images with a side below `WINDOW_PX`."""
    l1: Scores
    """Mean absolute difference, of white from black: in 0..1, not in levels of 255."""


def compare_images(
    originals: Images,
    decoded: Images,
    device: str | torch.device = "cpu",
    max_pixels: int = MAX_PIXELS,
) -> Similarity:
    """Returns how near decoded images are to their originals, one number a pair and a measure.

    Computed in float64: SSIM takes differences of nearly equal squares, and float32 was wrong by
    9e-4 for nearly white, flat images.

    Args:
        originals: (N, H, W, 3) uint8 RGB.
        decoded: The same, of the same shape.
        device: A torch device that has float64.
        max_pixels: Pixels of each side at a time, or one image if it has more; only for memory.

    Raises:
        ValueError: If shapes or dtypes are others.
    """
    size = fit_batch(originals, max_pixels)
    pairs = split_batches(size, device, originals, decoded)
    found = [_compare(first.double() / 255, second.double() / 255) for first, second in pairs]
    columns = zip(*found, strict=True) if found else ([], [], [])
    return Similarity(*(_gather(list(column)) for column in columns))


def _compare(original: Tensor, decoded: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns PSNR, SSIM and L1, (n,) each, of images (n, 3, H, W) in [0, 1]."""
    each = (1, 2, 3)
    psnr_db = -10 * (decoded - original).square().mean(each).log10()
    return psnr_db, _measure_ssim(original, decoded), (decoded - original).abs().mean(each)


def _measure_ssim(original: Tensor, decoded: Tensor) -> Tensor:
    """Returns the mean SSIM (n,) over channels and places (Wang et al. 2004, equation 13).

    The window is separable, so that each local mean is two products with a banded matrix; as a
    convolution of 11 x 11 in float64 it takes a CPU forty times as long.
    """
    height, width = original.shape[-2:]
    if min(height, width) < WINDOW_PX:
        return torch.full((len(original),), torch.nan, dtype=original.dtype)
    rows, columns = _window(height, original), _window(width, original).T

    def mean(image: Tensor) -> Tensor:
        return rows @ image @ columns

    x, y = mean(original), mean(decoded)
    spread = mean(original.square()) - x.square() + mean(decoded.square()) - y.square()
    shared = mean(original * decoded) - x * y
    likeness = (2 * x * y + _C1) * (2 * shared + _C2)
    return (likeness / ((x.square() + y.square() + _C1) * (spread + _C2))).mean((1, 2, 3))


def _window(length: int, like: Tensor) -> Tensor:
    """Returns a matrix (length - 10, length) that takes a row to its means in Gaussian windows."""
    places = torch.arange(WINDOW_PX, dtype=like.dtype, device=like.device) - WINDOW_PX // 2
    weights = torch.exp(-(places**2) / (2 * SIGMA_PX**2))
    weights = weights / weights.sum()
    starts = torch.arange(length - WINDOW_PX + 1, device=like.device)[:, None]
    columns = starts + torch.arange(WINDOW_PX, device=like.device)
    empty = torch.zeros(len(starts), length, dtype=like.dtype, device=like.device)
    return empty.scatter(1, columns, weights.expand(len(starts), -1))


def _gather(parts: list[Tensor]) -> Scores:
    """Returns the numbers of all chunks, in order."""
    return np.concatenate([np.empty(0), *(part.cpu().numpy() for part in parts)])
