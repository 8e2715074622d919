"""What a thread makes, and what becomes of it when nobody wants it any more."""

import threading

import pytest

from vqpipe.engine import abandon
from vqpipe.engine.abandon import until_done


def never():
    raise AssertionError("nothing took long")


def test_until_done_yields_all_items_in_order_one_when_it_is_asked_for():
    made = []

    def items():
        for number in range(4):
            made.append(number)
            yield number

    found = until_done(items(), never)
    assert next(found) == 0
    assert made == [0]
    assert list(found) == [1, 2, 3]


def test_until_done_raises_what_is_raised_after_the_items_before():
    def items():
        yield 1
        raise KeyError("of its own")

    found = until_done(items(), never)
    assert next(found) == 1
    with pytest.raises(KeyError, match="of its own"):
        next(found)


def test_until_done_item_that_never_comes_is_left_once_nobody_wants_it(monkeypatch):
    monkeypatch.setattr(abandon, "_LOOK_S", 0.01)
    released, closed, asked = threading.Event(), threading.Event(), []

    def items():
        try:
            yield 1
            released.wait(60)
            yield 2
        finally:
            closed.set()

    def is_done():
        asked.append(True)
        return len(asked) == 3

    assert list(until_done(items(), is_done)) == [1]
    assert len(asked) == 3
    released.set()
    assert closed.wait(60)


def test_until_done_left_early_closes_what_makes_the_items():
    closed = threading.Event()

    def items():
        try:
            yield from range(10)
        finally:
            closed.set()

    found = until_done(items(), never)
    assert next(found) == 0
    found.close()
    assert closed.wait(60)
