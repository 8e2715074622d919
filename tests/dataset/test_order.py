"""Orders of an epoch: every sample once, whatever the windows and the shapes."""

import numpy as np
import pytest

from vqpipe.dataset.order import Ordering
from vqpipe.permutation import Permutation

ONE = np.array([[5], [0], [7], [1], [12]])
THREE = np.array([[5, 0, 9], [0, 0, 0], [7, 1, 0], [1, 3, 2], [12, 0, 30]])


def samples_of(ordering, order, **how):
    """Returns (shard, pool, number in that shard) of what stands at all places, in order."""
    found = []
    for picked in order.pick(np.arange(0, order.size, ordering.unit), **how):
        shards = order.windows[picked.window]
        ends = np.cumsum(ordering.counts[shards, picked.pool])
        places = np.searchsorted(ends, picked.numbers, side="right")
        starts = ends[places] - ordering.counts[shards[places], picked.pool]
        found += [
            (int(shards[place]), picked.pool, int(number - start), bool(again))
            for place, number, start, again in zip(
                places, picked.numbers, starts, picked.is_repeat, strict=True
            )
        ]
    return found


def all_of(counts):
    return sorted(
        (shard, pool, number)
        for (shard, pool), count in np.ndenumerate(counts)
        for number in range(count)
    )


@pytest.mark.parametrize("is_shuffled", [True, False])
@pytest.mark.parametrize("window", [None, 1, 6, 7, 100])
@pytest.mark.parametrize(("counts", "unit"), [(ONE, 1), (THREE, 1), (THREE, 4), (THREE, 100)])
def test_order_has_each_sample_once(counts, unit, window, is_shuffled):
    ordering = Ordering(counts, unit, window, is_shuffled)

    found = samples_of(ordering, ordering.epoch(seed=3, epoch=2))

    assert sorted(each[:3] for each in found) == all_of(counts)
    assert not any(is_repeat for *_, is_repeat in found)


@pytest.mark.parametrize("window", [None, 20])
def test_order_that_fills_units_has_each_sample_and_marks_those_that_come_again(window):
    ordering = Ordering(THREE, 4, window)
    order = ordering.epoch(seed=3, epoch=2)

    found = samples_of(ordering, order, fills=True)

    assert len(found) == order.size
    assert sorted(each[:3] for each in found if not each[3]) == all_of(THREE)
    for start in range(0, order.size, 4):
        unit = found[start : start + 4]
        assert len({pool for _, pool, *_ in unit}) == 1
        again = [each[:3] for each in unit if each[3]]
        assert set(again) <= set(all_of(THREE))


def test_order_that_drops_short_units_has_full_ones_alone():
    ordering = Ordering(THREE, 4, drops_short=True)
    order = ordering.epoch(seed=3, epoch=2)

    found = samples_of(ordering, order)

    assert order.size == len(found) == (25 // 4 + 4 // 4 + 41 // 4) * 4
    assert len({each[:3] for each in found}) == len(found)


def test_order_of_all_in_one_window_is_the_permutation():
    ordering = Ordering(ONE)

    (picked,) = ordering.epoch(seed=3, epoch=2).pick(np.arange(25))

    expected = Permutation(25, 3, 2, "units of window 0").at(np.arange(25))
    assert np.array_equal(picked.numbers, expected)


def test_order_in_windows_gives_them_out_one_after_the_other():
    counts = np.full((100, 1), 10)
    ordering = Ordering(counts, window=200)
    order = ordering.epoch(seed=1, epoch=0)

    windows = order.draw(np.arange(order.size)).windows.tolist()

    assert windows == sorted(windows)
    assert np.bincount(windows).tolist() == [200] * 5
    shards = np.concatenate(order.windows)
    assert sorted(shards) == list(range(100))
    assert list(shards) != list(range(100))
    other = ordering.epoch(seed=1, epoch=1)
    assert list(np.concatenate(other.windows)) != list(shards)


def test_order_at_any_place_is_that_of_the_whole():
    ordering = Ordering(THREE, 4, 20)
    order = ordering.epoch(seed=3, epoch=2)
    whole = [picked.numbers.tolist() for picked in order.pick(np.arange(0, order.size, 4))]

    each = [
        picked.numbers.tolist()
        for place in range(0, order.size, 4)
        for picked in ordering.epoch(seed=3, epoch=2).pick(np.array([place]))
    ]

    assert each == whole


def test_order_of_no_samples_is_empty():
    order = Ordering(np.zeros((3, 1), np.int64)).epoch(0, 0)

    assert order.size == 0
    assert list(order.pick(np.arange(0))) == []
