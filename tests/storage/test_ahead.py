import threading

import pytest

from vqpipe.storage.ahead import do_all, map_ahead


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


def test_map_ahead_of_a_caller_that_wants_no_more_begins_no_more():
    begun, go_on = [], threading.Event()

    def ask(number):
        begun.append(number)
        if number:
            go_on.wait(30)

    answers = map_ahead(ask, range(100), 2)
    next(answers)
    threading.Timer(0.2, go_on.set).start()
    answers.close()  # waits for those that have begun
    assert len(begun) <= 1 + 2


def test_do_all_does_each_and_raises_what_goes_wrong():
    done = []
    do_all(done.append, range(100), 4)
    assert sorted(done) == list(range(100))
    with pytest.raises(ZeroDivisionError):
        do_all(lambda number: 1 // number, [1, 0, 1], 2)
