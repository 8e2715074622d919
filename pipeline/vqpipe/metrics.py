"""Numbers that say how good codes are: distance to the original, use of the codebook."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]
"""(..., H, W, 3) RGB."""
Histogram = npt.NDArray[np.int64]
"""(codebook size,): how often each code occurs."""
Features = npt.NDArray[np.floating[Any]]
"""(N, D): one vector an image, such as `vqpipe.quality.inception` makes."""


def psnr(first: Images, second: Images) -> float:
    """Returns the peak signal-to-noise ratio of two images in dB: 10 log10(255² / mean error²)."""
    error = np.mean((first.astype(np.float64) - second.astype(np.float64)) ** 2)
    return float(10 * np.log10(255.0**2 / error)) if error else float("inf")


def mean_psnr(first: Images, second: Images) -> float:
    """Returns the mean over images (N, H, W, 3) of each one's `psnr`, in dB."""
    return float(np.mean([psnr(a, b) for a, b in zip(first, second, strict=True)]))


_COARSE = 16


def likeness(first: Images, second: Images) -> float:
    """Returns how much images (N, H, W, 3) are alike from far away, in -1..1; 1 are the same.

    It is the mean over images of the correlation of their averages over a grid of 16 x 16 blocks,
    with each channel's mean taken out. Noise, flat colours and pictures of something else are near
    0, whatever their PSNR; a coarse reconstruction is near 1.
    """
    return float(
        np.mean([_correlate(_coarse(a), _coarse(b)) for a, b in zip(first, second, strict=True)])
    )


def _coarse(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Returns the averages of blocks, (n, n, 3), without the mean of each channel."""
    rows, columns = (
        np.linspace(0, side, _COARSE, endpoint=False, dtype=int) for side in image.shape[:2]
    )
    sums = np.add.reduceat(np.add.reduceat(image.astype(np.float64), rows, 0), columns, 1)
    heights, widths = (
        np.diff(np.append(starts, side))
        for starts, side in zip((rows, columns), image.shape, strict=False)
    )
    means = sums / (heights[:, None] * widths)[..., None]
    flat: npt.NDArray[np.float64] = means - means.mean((0, 1))
    return flat


def _correlate(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    return float((a * b).sum() / lengths) if lengths else 0.0


def codebook_usage(histogram: Histogram) -> float:
    """Returns the share of codebook entries that occur at least once."""
    return float(np.count_nonzero(histogram) / len(histogram))


def dead_codes(histogram: Histogram) -> int:
    """Returns how many codebook entries never occur."""
    return len(histogram) - int(np.count_nonzero(histogram))


def entropy_bits(histogram: Histogram) -> float:
    """Returns the entropy of the code distribution in bits a code, in 0..log2(codebook size).

    No lossless code that takes each code by itself needs fewer bits. It is 0 without any codes, as
    for one code alone.
    """
    share = histogram[histogram > 0] / max(histogram.sum(), 1)
    return 0.0 - float((share * np.log2(share)).sum())  # not -x, which makes -0.0 of one code


def perplexity(histogram: Histogram) -> float:
    """Returns 2 to the entropy of the code distribution, in 1..codebook size."""
    return 2 ** entropy_bits(histogram)


def jensen_shannon(first: Histogram, second: Histogram) -> float:
    """Returns how far two code distributions are apart, in 0 (equal)..1 (no code in common).

    The square root of the Jensen-Shannon divergence in bits, which is a metric (Endres and
    Schindelin 2003, https://doi.org/10.1109/TIT.2003.813506). It is NaN if either histogram has no
    codes: no distribution is near or far from none.

    Entries that the first one lacks add their share of the second, since that is twice the middle
    there: fast for a shard that uses a small part of a large codebook.
    """
    if not (first.any() and second.any()):
        return float("nan")
    seen = np.flatnonzero(first)
    codes, p, q = second.sum(), first[seen] / first.sum(), second[seen] / second.sum()
    middle = (p + q) / 2
    lacking = float((codes - second[seen].sum()) / codes)  # of whole numbers: exactly 0 for none
    apart = _divergence(p, middle) + _divergence(q, middle) + lacking
    return float(np.sqrt(max(0.0, apart / 2)))


def _divergence(p: npt.NDArray[np.float64], q: npt.NDArray[np.float64]) -> float:
    """Returns the Kullback-Leibler divergence in bits; q is positive wherever p is."""
    seen = p > 0
    return float((p[seen] * np.log2(p[seen] / q[seen])).sum())


def summarise(values: Iterable[float] | npt.NDArray[np.floating[Any]]) -> dict[str, float | None]:
    """Returns the distribution of a score over images, fit for JSON, which has no inf and no NaN.

    Args:
        values: One number an image. Infinity is the PSNR of a pair without any difference; NaN is a
            score that an image cannot have, such as the SSIM of one smaller than the window.

    Returns:
        `count`: numbers in all; `identical`: infinite ones; `undefined`: NaNs. Over the others:
        `mean`, `std` (of the population, divided by N), `min`, `p05`, `median`, `p95` (percentiles
        interpolated linearly) and `max`, each None where there are no others.
    """
    all_ = np.asarray(values if isinstance(values, np.ndarray) else list(values), np.float64)
    finite = all_[np.isfinite(all_)]
    counts = {
        "count": all_.size,
        "identical": int(np.isinf(all_).sum()),
        "undefined": int(np.isnan(all_).sum()),
    }
    names = ("mean", "std", "min", "p05", "median", "p95", "max")
    if not finite.size:
        return {**counts, **dict.fromkeys(names)}
    numbers = (finite.mean(), finite.std(), *np.percentile(finite, (0, 5, 50, 95, 100)))
    return counts | {name: float(number) for name, number in zip(names, numbers, strict=True)}


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and spread of feature vectors; those of parts add up to those of the whole."""

    count: int
    """Vectors seen."""
    mean: npt.NDArray[np.float64]
    """(D,)."""
    scatter: npt.NDArray[np.float64]
    """(D, D): sum over the vectors of the outer products of their deviations from the mean."""

    @classmethod
    def of(cls, features: Features) -> "Moments":
        """Returns the moments of vectors (N, D), N at least 1."""
        exact = features.astype(np.float64)
        mean = exact.mean(axis=0)
        deviations = exact - mean
        return cls(len(exact), mean, deviations.T @ deviations)

    def __add__(self, other: "Moments") -> "Moments":
        """Returns the moments of both sets together (Chan, Golub and LeVeque 1983, eq. 2.1)."""
        count = self.count + other.count
        step = other.mean - self.mean
        between = np.outer(step, step) * (self.count * other.count / count)
        mean = self.mean + step * (other.count / count)
        return Moments(count, mean, self.scatter + other.scatter + between)

    @property
    def covariance(self) -> npt.NDArray[np.float64]:
        """(D, D), divided by N - 1 as the published FID does; needs two vectors."""
        return self.scatter / (self.count - 1)


def frechet_distance(first: Moments, second: Moments) -> float:
    """Returns the Fréchet distance of two Gaussians, squared as is customary: 0 for equal ones.

    |m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^½), the FID where the features are Inception's (Heusel et
    al. 2017, arXiv:1706.08500, eq. 6). C1 C2 has the eigenvalues of the symmetric C1^½ C2 C1^½, so
    that no matrix without a real root comes up, as happens to fewer vectors than dimensions.

    Raises:
        ValueError: If either set has fewer than two vectors, which have no covariance.
    """
    if min(first.count, second.count) < 2:
        raise ValueError("a Fréchet distance needs two feature vectors or more on each side")
    root = _square_root(first.covariance)
    product = root @ second.covariance @ root
    overlap = np.sqrt(_eigenvalues((product + product.T) / 2)).sum()
    apart = ((first.mean - second.mean) ** 2).sum()
    spread = np.trace(first.covariance) + np.trace(second.covariance)
    return max(0.0, float(apart + spread - 2 * overlap))


def _eigenvalues(matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Returns those of a matrix that is positive semidefinite but for rounding."""
    return np.linalg.eigvalsh(matrix).clip(min=0)


def _square_root(matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Returns the symmetric root of a matrix that is positive semidefinite but for rounding."""
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray(vectors * np.sqrt(values.clip(min=0)) @ vectors.T)
