"""Images of one grating across and one down, by which it shows where each pixel of a view lies.

What resampling does to a grating is to change its contrast; where its crests are stays.
"""

import numpy as np
from PIL import Image

from vqpipe.images import Preprocess
from vqpipe.images.frame import Cut

PERIOD = 12.0
"""Of a grating, in pixels of a view."""
EDGE = 4
"""Pixels at the sides of a view that are left out: filters that end at an image's side are not
symmetric."""


class Off(Preprocess):
    """One view, of a part that is not in the centre and begins at odd pixels."""

    def cuts(self, width, height, lot=0):  # noqa: ARG002
        """Returns three quarters of the image, the upper right of them."""
        left, bottom = width // 4 | 1, height - (height // 4 | 1)
        return (Cut((left, 1, width, bottom), flip=False),)


def grating(width, height, crop, size):
    """Returns (height, width) float64, -1 to 1: the mean of two gratings that begin at a crop.

    Args:
        width: Pixels of the image.
        height: Pixels of the image.
        crop: Of the view: left, top, right, bottom.
        size: Of the view: height and width.
    """
    left, top, right, bottom = crop
    across = (np.arange(width) + 0.5 - left) * size[1] / (right - left)
    down = (np.arange(height) + 0.5 - top) * size[0] / (bottom - top)
    waves = [np.cos(2 * np.pi * at / PERIOD) for at in (across, down)]
    return (waves[0][None] + waves[1][:, None]) / 2


def shifts(view):
    """Returns by how much a view of a grating lies off across and down, in pixels of the view."""
    inner = view[EDGE:-EDGE, EDGE:-EDGE].astype(np.float64)
    return [_shift(inner.mean(axis)) for axis in (0, 1)]


def _shift(levels):
    angle = 2 * np.pi * (np.arange(len(levels)) + EDGE + 0.5) / PERIOD
    waves = np.stack([np.cos(angle), np.sin(angle), np.ones_like(angle)], -1)
    (even, odd, _), *_ = np.linalg.lstsq(waves, levels, rcond=None)
    assert np.hypot(even, odd) > 10, "there must be a grating to see"
    return np.arctan2(odd, even) / (2 * np.pi) * PERIOD


def coloured(wave, channel):
    """Returns a YCbCr image of which one channel is a grating, and the others grey."""
    planes = [Image.new("L", wave.shape[::-1], 128)] * 3
    planes[channel] = Image.fromarray(np.rint(128 + 80 * wave).astype(np.uint8))
    return Image.merge("YCbCr", planes)
