"""Numbers that say how good codes are: distance to the original, use of the codebook."""

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]
"""(..., H, W, 3) RGB."""
Histogram = npt.NDArray[np.int64]
"""(codebook size,): how often each code occurs."""


def psnr(first: Images, second: Images) -> float:
    """Returns the peak signal-to-noise ratio of two images in dB: 10 log10(255² / mean error²)."""
    error = np.mean((first.astype(np.float64) - second.astype(np.float64)) ** 2)
    return float(10 * np.log10(255.0**2 / error)) if error else float("inf")


def mean_psnr(first: Images, second: Images) -> float:
    """Returns the mean over images (N, H, W, 3) of each one's `psnr`, in dB."""
    return float(np.mean([psnr(a, b) for a, b in zip(first, second, strict=True)]))


def codebook_usage(histogram: Histogram) -> float:
    """Returns the share of codebook entries that occur at least once."""
    return float(np.count_nonzero(histogram) / len(histogram))


def perplexity(histogram: Histogram) -> float:
    """Returns 2 to the entropy of the code distribution, in 1..codebook size."""
    share = histogram[histogram > 0] / max(histogram.sum(), 1)
    return float(2 ** -(share * np.log2(share)).sum())
