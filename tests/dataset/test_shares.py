"""Places to ranks and steps: no place lost or given twice, in any sequence of worlds."""

import random

import pytest

from vqpipe.dataset.shares import Shares


def blocks(shares):
    """Returns the places that ranks get, step by step, the ranks of a step one behind the other."""
    steps = max(shares.steps(rank) for rank in range(shares.world))
    return [
        [shares.block(rank, step) for rank in range(shares.world) if step < shares.steps(rank)]
        for step in range(steps)
    ]


def places(shares):
    return [place for step in blocks(shares) for block in step for place in range(*block)]


@pytest.mark.parametrize("size", [0, 1, 5, 12, 13, 23, 24, 25, 100])
@pytest.mark.parametrize(("batch", "world"), [(1, 1), (4, 1), (1, 3), (4, 3), (7, 2), (200, 2)])
def test_shares_of_each_tail_are_the_order_itself(size, batch, world):
    uneven = Shares(size, 0, batch, world, "uneven")
    drop = Shares(size, 0, batch, world, "drop")
    pad = Shares(size, 0, batch, world, "pad")
    step = batch * world

    assert places(uneven) == list(range(size))
    assert places(drop) == list(range(size // step * step))
    assert places(pad) == list(range(-(-size // step) * step))
    for shares in (drop, pad):
        assert len({shares.steps(rank) for rank in range(world)}) == 1
        assert all(last - first == batch for each in blocks(shares) for first, last in each)


def test_shares_that_are_uneven_differ_by_one_at_most():
    for size in range(60):
        shares = Shares(size, 0, 4, 3, "uneven")
        sizes = [last - first for first, last in (blocks(shares) or [[]])[-1]]
        assert not sizes or max(sizes) - min(sizes) <= 1
        assert {shares.steps(rank) for rank in range(3)} <= {-(-size // 12), -(-size // 12) - 1}


def test_shares_of_units_are_never_parts_of_one():
    for units in range(20):
        shares = Shares(units * 4, 0, 4, 3, "uneven", unit=4)
        assert places(shares) == list(range(units * 4))
        assert all(last - first == 4 for step in blocks(shares) for first, last in step)


@pytest.mark.parametrize("seed", range(50))
def test_shares_in_worlds_that_change_are_one_and_the_same_order(seed):
    """Kills and resizes at random: what was given out is the order, each place once."""
    lot = random.Random(seed)
    size, seen, found = lot.randrange(1, 500), 0, []
    while seen < size:
        world, batch = lot.choice([1, 2, 3, 8]), lot.choice([1, 4, 7])
        shares = Shares(size, seen, batch, world, "uneven")
        steps = blocks(shares)
        taken = lot.randrange(1, len(steps) + 1)
        found += [place for step in steps[:taken] for block in step for place in range(*block)]
        assert shares.behind(taken - 1) == len(found)
        seen = shares.behind(taken - 1)

    assert found == list(range(size))


def test_shares_behind_the_first_step_are_those_behind_the_start():
    assert Shares(100, 12, 4, 3, "pad").behind(-1) == 12
