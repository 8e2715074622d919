"""Decoded images against their originals, pixel by pixel: PSNR, SSIM and L1 of each pair.

    compare_images  (N, H, W, 3) uint8 RGB, twice  ->  Similarity: three numbers a pair

PSNR and SSIM are torchmetrics'; nothing here depends on what else is in a batch.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.metrics import Images
from pipeline.quality.batches import fit_batch, split_batches

WINDOW_PX = 11
"""Side of SSIM's Gaussian window (Wang et al. 2004, https://doi.org/10.1109/TIP.2003.819861)."""
SIGMA_PX = 1.5
"""Standard deviation of that window."""
MAX_PIXELS = 2**16
"""Pixels of each side that are compared at a time; more was slower on a CPU."""

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
    9e-4 for nearly white, flat images. A CPU core takes about a second for 256 x 256 pixels.

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
    # Imported here: it takes a second, with scipy and its audio, of every worker that only encodes.
    from torchmetrics.functional.image import peak_signal_noise_ratio  # noqa: PLC0415

    each = (1, 2, 3)
    psnr_db = peak_signal_noise_ratio(decoded, original, data_range=1.0, reduction="none", dim=each)
    return psnr_db, _measure_ssim(original, decoded), (decoded - original).abs().mean(each)


def _measure_ssim(original: Tensor, decoded: Tensor) -> Tensor:
    from torchmetrics.functional.image import (  # noqa: PLC0415 - see `_compare`
        structural_similarity_index_measure,
    )

    if min(original.shape[-2:]) < WINDOW_PX:
        return torch.full((len(original),), torch.nan, dtype=original.dtype)
    # Not the mean that it returns: that has the edges too, where the window reaches into mirrored
    # pixels (Lightning-AI/torchmetrics#2721). The paper and skimage leave them out.
    _, full = structural_similarity_index_measure(
        decoded,
        original,
        sigma=SIGMA_PX,
        kernel_size=WINDOW_PX,
        reduction="none",
        data_range=1.0,
        return_full_image=True,
    )
    edge = WINDOW_PX // 2
    inside: Tensor = full[..., edge:-edge, edge:-edge]
    return inside.mean((1, 2, 3))


def _gather(parts: list[Tensor]) -> Scores:
    """Returns the numbers of all chunks, in order."""
    return np.concatenate([np.empty(0), *(part.cpu().numpy() for part in parts)])
