import threading

import pytest

from vqpipe.storage.ahead import map_ahead


def test_map_ahead_yields_all_in_order_and_asks_for_few_at_a_time():
    asked = []

    def ask(number):
        asked.append(number)
        return number * number

    for taken, answer in enumerate(map_ahead(ask, range(100), 4)):
        assert answer == taken * taken
        assert len(asked) <= taken + 8
    assert sorted(asked) == list(range(100))
    assert list(map_ahead(ask, [], 4)) == []


def test_map_ahead_works_at_several_at_once():
    together = threading.Barrier(3, timeout=30)
    assert len(list(map_ahead(lambda _: together.wait(), range(3), 3))) == 3


def test_map_ahead_error_of_one_item_is_raised_and_ends_it():
    asked = []

    def ask(number):
        asked.append(number)
        return 1 // (number - 5)

    with pytest.raises(ZeroDivisionError):
        list(map_ahead(ask, range(1000), 2))
    assert len(asked) <= 5 + 2 * 2
