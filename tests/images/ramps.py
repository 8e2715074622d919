"""An image of which every pixel is another one, as numbers that any format can be made of."""

import numpy as np

from vqpipe.images import Preprocess, square

SIDE = 48
HOW = Preprocess(square(SIDE))
Y, X = np.mgrid[:SIDE, :SIDE]
RAMP = (2 * X + Y) / (3 * (SIDE - 1))
"""(48, 48), 0 to 1."""
RGB = np.stack([RAMP, 1 - RAMP, RAMP.T], -1)
ALPHA = np.clip(X / 40, 0, 1)[..., None]
