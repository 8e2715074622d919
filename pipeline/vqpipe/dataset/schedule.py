"""What a rank is given, step by step: blocks of places, and what stands there."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from vqpipe.dataset.order import Drawn, Order
from vqpipe.dataset.shares import Block, Shares

_DRAWN = 4096
"""Places that are drawn at once: 256 take 0.1 ms, and 4,096 take 0.25."""


def draw(
    order: Order, shares: Shares, rank: int, steps: range
) -> Iterator[tuple[int, Block, Drawn]]:
    """Yields steps, each with its block and what stands there, which is drawn for many at once.

    Places behind the end are those of the beginning.
    """
    many = max(_DRAWN // shares.batch, 1)
    for start in range(0, len(steps), many):
        some = steps[start : start + many]
        blocks = [shares.block(rank, step) for step in some]
        places = [np.arange(block.first, block.last, order.unit) for block in blocks]
        drawn = order.draw(np.concatenate(places) % order.size)
        ends = np.cumsum([len(each) for each in places]).tolist()
        yield from zip(some, blocks, drawn.split(ends), strict=True)


def is_behind_end(order: Order, block: Block, samples: int) -> npt.NDArray[np.bool_]:
    """Returns which samples of a block stand behind the end of the epoch: (samples,)."""
    if order.unit > 1:
        return np.full(samples, block.first >= order.size)
    return block.first + np.arange(samples) >= order.size
