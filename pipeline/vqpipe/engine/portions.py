"""How shards are shared out: who reads what, and how many of them at a time."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

SHARDS_A_CORE = 4
"""Shards for each core from which on a core reads what it opens: at the end some have none left."""
SHARD_BYTES = 2**30
"""Mean size of a shard up to which it does: if its process dies, all that it has begun is opened
again."""
TASK_BYTES = 2**28
"""Most bytes of shards that one task is given together, half a minute's work or less, unless there
are more shards than there may be tasks."""

_MOST_TASKS = 10_000
_PARTS = 2
"""A task is given at most one in so many of a core's share of what is left."""


def are_enough(sizes: Sequence[int], cores: float) -> bool:
    """Tells whether shards keep all cores busy, each read and opened by one of them.

    Args:
        sizes: Compressed bytes of each.
        cores: Of the cluster.
    """
    return (
        len(sizes) >= SHARDS_A_CORE * max(1, cores)
        and sum(sizes) <= SHARD_BYTES * len(sizes)
        and max(sizes) * cores <= sum(sizes)  # else one core would be at the largest for longer
    )


def portions(sizes: Sequence[int], cores: float = math.inf) -> Iterator[int]:
    """Yields how many shards to give to one task after the other: many at first, at the end one.

    A core has nothing to do from the end of one task to the first images of the next, some tenth of
    a second. ("Guided self-scheduling", Polychronopoulos and Kuck, IEEE ToC C-36, 1987.)

    Args:
        sizes: Compressed bytes of each shard.
        cores: How many share them; by default, no end of them.
    """
    ends, first, least = np.cumsum([0.0, *sizes]), 0, -(-len(sizes) // _MOST_TASKS)
    share = 1 / (_PARTS * max(1, cores))
    while (left := len(sizes) - first) > 0:
        most = ends[first] + min(TASK_BYTES, (ends[-1] - ends[first]) * share)
        fitting = int(np.searchsorted(ends, most, "right")) - 1 - first
        count = max(1, least, min(fitting, int(left * share)))
        yield count
        first += count
