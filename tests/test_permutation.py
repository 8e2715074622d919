"""Orders as functions: each number once, the same anywhere, and nothing to be seen in them."""

import itertools

import numpy as np
import pytest
from scipy import stats

from vqpipe.permutation import MOST, Permutation


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 7, 16, 17, 97, 100, 4096, 4097, 100_003])
def test_permutation_of_any_size_has_each_number_once_and_its_inverse(size):
    order = Permutation(size, seed=3, epoch=1)

    numbers = order.at(np.arange(size))

    assert np.array_equal(np.sort(numbers), np.arange(size))
    assert np.array_equal(order.place_of(numbers), np.arange(size))


@pytest.mark.parametrize("size", [10**9 + 7, 10**12, 2**40, MOST])
def test_permutation_of_very_many_is_undone_by_its_inverse(size):
    places = np.random.default_rng(0).integers(0, size, 10_000)
    order = Permutation(size, seed=3)

    numbers = order.at(places)

    assert numbers.min() >= 0
    assert numbers.max() < size
    assert len(np.unique(numbers)) == len(np.unique(places))
    assert np.array_equal(order.place_of(numbers), places)


def test_permutation_of_parts_of_the_places_is_that_of_all():
    order = Permutation(1000, seed=5)
    whole = order.at(np.arange(1000))

    parts = [order.at(np.arange(start, min(start + 7, 1000))) for start in range(0, 1000, 7)]

    assert np.array_equal(np.concatenate(parts), whole)


def test_permutation_of_another_seed_epoch_or_end_is_another_one():
    orders = [
        Permutation(1000, 1),
        Permutation(1000, 2),
        Permutation(1000, 1, 1),
        Permutation(1000, 1, 0, "views"),
        Permutation(1000, 11, 0),
        Permutation(1000, -1),
    ]

    found = [order.at(np.arange(1000)) for order in orders]

    for one, other in itertools.combinations(found, 2):
        assert np.count_nonzero(one == other) < 10  # 1 is expected by chance


def test_permutation_stays_what_it_was_when_this_was_written():
    """An epoch that was begun by an earlier version goes on in this one."""
    found = Permutation(10, seed=0).at(np.arange(10))

    assert found.tolist() == [9, 6, 0, 2, 5, 3, 4, 7, 1, 8]


@pytest.mark.parametrize("size", [3, 4])
def test_permutation_of_few_takes_every_order_equally_often(size):
    orders = [tuple(Permutation(size, seed).at(np.arange(size))) for seed in range(12_000)]

    _, counts = np.unique(orders, axis=0, return_counts=True)

    assert len(counts) == {3: 6, 4: 24}[size]
    assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("size", [97, 1000, 65_536, 1_000_003])
def test_permutation_has_neighbours_as_if_drawn_by_lot(size):
    """Where a number's neighbour goes says nothing: 10 x 10 cells of (this, next) are alike."""
    tables = np.zeros((10, 10))
    for seed in range(max(1, 200_000 // size)):
        numbers = Permutation(size, seed).at(np.arange(size))
        cells = numbers * 10 // size
        np.add.at(tables, (cells[:-1], cells[1:]), 1)

    pairs = tables.sum()
    share = np.bincount(np.arange(size) * 10 // size, minlength=10) / size
    expected = np.outer(share, share) * pairs
    expected[np.diag_indices(10)] -= share / size * pairs  # no number follows itself
    expected *= pairs / expected.sum()

    assert stats.chisquare(tables.ravel(), expected.ravel()).pvalue > 1e-4


@pytest.mark.parametrize("size", [1000, 65_536])
def test_permutation_has_steps_between_neighbours_as_if_drawn_by_lot(size):
    steps = []
    for seed in range(200_000 // size):
        numbers = Permutation(size, seed).at(np.arange(size))
        steps.append(np.diff(numbers) % size)

    counts = np.bincount(np.concatenate(steps) * 50 // size, minlength=50)

    assert stats.chisquare(counts).pvalue > 1e-4


def test_permutation_of_too_many_is_refused():
    with pytest.raises(ValueError, match="size"):
        Permutation(MOST + 1, 0)
