"""What compares views with the images that their codes decode to, networks loaded."""

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt
import torch

from vqpipe.quality.inception import extract_features, load_inception
from vqpipe.quality.judges import Judge, load_same
from vqpipe.quality.lpips import load_lpips, measure_lpips
from vqpipe.quality.pixels import compare_images

Pixels = npt.NDArray[np.uint8]
"""(N, H, W, 3) uint8 RGB."""
Compare = Callable[[Pixels, Pixels], Iterable[tuple[str, npt.NDArray[np.floating]]]]
"""Views and decoded images: names of scores with a number or a vector a view."""


def load_comparisons(
    lpips: Judge | None, inception: Judge | None, device: torch.device
) -> list[Compare]:
    """Returns what compares views with decoded images; networks where their weights are given.

    Raises:
        CheckpointError: If weights are others here, or are not to be had.
    """
    found: list[Compare] = [lambda *pair: vars(compare_images(pair[0], pair[1], device)).items()]
    if lpips:
        loaded = load_same(load_lpips, lpips, device)
        found.append(lambda *images: [("lpips", measure_lpips(loaded, *images))])
    if inception:
        network = load_same(load_inception, inception, device)
        names = ("features_original", "features_decoded")
        found.append(
            lambda *images: [
                (name, extract_features(network, each))
                for name, each in zip(names, images, strict=True)
            ]
        )
    return found
