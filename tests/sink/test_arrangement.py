"""Where samples go, by plain loops; permutations are `vqpipe.permutation`'s matter."""

import itertools

import numpy as np
import pytest

from vqpipe.permutation import Permutation
from vqpipe.sink.arrangement import Arrangement, whole_rows


@pytest.mark.parametrize("shuffle", [None, 0, 9])
@pytest.mark.parametrize("per_file", [1, 3, 10, 17, 1000])
@pytest.mark.parametrize("views", [1, 4])
def test_arrangement_puts_every_sample_into_one_place_of_one_file(shuffle, per_file, views):
    order = Arrangement(17, views, per_file * views, shuffle)
    found = [order.numbers_in(file).tolist() for file in range(len(order))]
    flat = list(itertools.chain.from_iterable(found))
    drawn = list(range(17)) if shuffle is None else Permutation(17, shuffle).at(np.arange(17))
    assert flat == list(drawn)
    assert [len(each) for each in found[:-1]] == [per_file] * (len(order) - 1)
    assert [order.rows(file) for file in range(len(order))] == [len(each) * views for each in found]
    assert order.places_of(np.array(flat)).tolist() == list(range(17))


def test_arrangement_names_sort_as_their_files_do_however_many_there_are():
    few, many = Arrangement(7, 1, 3, None), Arrangement(1_000_001, 1, 10, None)
    assert few.names == [f"part-0000{i}-of-00003" for i in range(3)]
    assert len(many) == 100_001
    assert many.names == sorted(many.names)
    assert many.names[-1] == "part-100000-of-100001"


@pytest.mark.parametrize(("rows", "views", "found"), [(1, 1, 1), (9, 3, 9), (10, 3, 12), (1, 5, 5)])
def test_whole_rows_are_a_multiple_of_the_views(rows, views, found):
    assert whole_rows(rows, views) == found
