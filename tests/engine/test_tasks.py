"""What workers run, without Ray around it."""

import itertools
import threading
from types import SimpleNamespace

import pyarrow as pa
import pytest

from tests.stages.test_encode import eight, read
from vqpipe.engine import graph, tasks
from vqpipe.engine.tasks import ahead, open_views, read_views
from vqpipe.images import Preprocess, open_images, square

__all__ = ["eight"]  # a fixture


def tables(count):
    return [pa.table({"row": [number]}) for number in range(count)]


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_ahead_gives_all_in_order(count):
    assert list(ahead(iter(tables(count)))) == tables(count)


def test_ahead_makes_the_next_while_one_is_used():
    made, events = [], [threading.Event() for _ in range(3)]

    def make():
        for number, table in enumerate(tables(3)):
            made.append(number)
            events[number].set()
            yield table

    found = ahead(make())
    next(found)
    assert events[1].wait(10)
    assert made == [0, 1]
    assert len(list(found)) == 2


def test_ahead_raises_what_making_one_raises_behind_those_before():
    def make():
        yield from tables(2)
        raise ValueError("no more")

    found = ahead(make())
    assert list(itertools.islice(found, 2)) == tables(2)
    with pytest.raises(ValueError, match="no more"):
        next(found)


def test_ahead_that_is_closed_leaves_no_thread():
    before = threading.active_count()
    found = ahead(iter(tables(9)))
    next(found)
    found.close()
    assert threading.active_count() == before


def test_read_views_are_those_of_reading_and_then_opening(eight, monkeypatch):
    counter = SimpleNamespace(opened=SimpleNamespace(remote=lambda _: None))
    monkeypatch.setattr(tasks, "open_sandboxed", lambda images, how, **_: open_images(images, how))
    monkeypatch.setattr(tasks, "read", lambda *_: iter(read(eight, block_rows=3)))
    how = Preprocess(square(8))
    found = list(read_views(None, None, None, 3, counter, how))
    expected = [open_views(table, how, counter) for table in read(eight, block_rows=3)]
    assert len(found) == 3
    assert all(one.equals(other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("sizes", "are_enough"),
    [
        ([10] * 32, True),
        ([10] * 31, False),
        ([2**30] * 32, True),
        ([2**31] * 32, False),
        ([10] * 63 + [60 * 2**30], False),  # seven cores would have nothing to do
        ([10] * 63 + [90], True),
        ([], False),
    ],
)
def test_shards_are_enough_for_cores_that_read_what_they_open(sizes, are_enough):
    assert graph._are_enough(sizes, cores=8) is are_enough
