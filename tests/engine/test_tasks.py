"""What workers run, without Ray around it."""

import contextlib
import itertools
import threading
from types import SimpleNamespace

import pyarrow as pa
import pytest
import ray

from tests.engine.counters import Direct
from tests.stages.test_encode import eight, read
from vqpipe.engine import tasks
from vqpipe.engine.stopwatch import Stopwatch
from vqpipe.engine.tasks import TODO, ahead, open_views, read_views, todo_rows
from vqpipe.images import Preprocess, open_images, square
from vqpipe.sink.ranges import Staged

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


class Deaf:
    """A counter that listens to nobody."""

    tell = SimpleNamespace(remote=lambda *_: None)


COUNTER = Deaf()


def tell_of(shards, counter, fails_at=None):
    """Reads shards of two images each, as a task does; one of them breaks off after the first."""
    with contextlib.closing(tasks._Told(counter, Stopwatch())) as told:
        for shard in shards:
            with told.shard(shard, is_again=False) as deaths:
                assert deaths == 0
                told.saw(1, 10)
                if shard == fails_at:
                    raise LookupError("on purpose")
                told.saw(1, 10)


@pytest.fixture
def counter(monkeypatch):
    monkeypatch.setattr(ray, "get", lambda answer, **_: answer)
    made = Direct()
    made.real.hand_out([0, 1, 2], [20] * 3, "a")
    return made


def test_task_says_with_one_message_that_a_shard_ends_and_the_next_begins(counter):
    tell_of([0, 1, 2], counter)
    assert [name for name in counter.called if name != "tell"] == ["begin_shard"] * 3 + [
        "end_shard"
    ]
    assert [counter.real.is_read(shard) for shard in range(3)] == [True] * 3
    found = counter.real.read()
    assert (found.read, found.read_bytes) == (6, 60)
    assert [counter.real.begin(f"read {shard}") for shard in range(3)] == [0] * 3


def test_task_that_fails_in_a_shard_says_that_it_ended_and_was_not_read(counter):
    with pytest.raises(LookupError, match="on purpose"):
        tell_of([0, 1, 2], counter, fails_at=1)
    assert [counter.real.is_read(shard) for shard in range(3)] == [True, False, False]
    assert counter.real.read().read == 3
    assert [counter.real.begin(f"read {shard}") for shard in range(3)] == [0] * 3


def test_spare_task_says_that_it_has_read_a_shard_before_it_asks_for_another(counter):
    told = tasks._Told(counter, Stopwatch())
    for shard in range(3):
        with told.shard(shard, is_again=True):
            pass
    assert told.again() is None, "all is read"


class InProcess:
    """Opens images as the sandbox does, without a child."""

    def __init__(self, how):
        self._how = how

    def prepare(self, images):
        return images

    def open_prepared(self, images, _):
        return open_images(images, self._how)


def test_read_views_are_those_of_reading_and_then_opening(eight, monkeypatch):
    monkeypatch.setattr(tasks, "_sandbox", InProcess)
    monkeypatch.setattr(tasks, "read", lambda *_: iter(read(eight, block_rows=3)))
    how = Preprocess(square(8))
    found = list(read_views(None, None, None, 3, COUNTER, how))
    expected = [open_views(table, how, COUNTER) for table in read(eight, block_rows=3)]
    assert len(found) == 3
    assert all(one.equals(other) for one, other in zip(found, expected, strict=True))


def test_read_views_of_a_source_that_fails_come_first(eight, monkeypatch):
    def fail():
        yield from read(eight, block_rows=3)[:2]
        raise ValueError("no more")

    monkeypatch.setattr(tasks, "_sandbox", InProcess)
    monkeypatch.setattr(tasks, "read", lambda *_: fail())
    found = read_views(None, None, None, 3, COUNTER, Preprocess(square(8)))
    assert [len(table) for table in itertools.islice(found, 2)] == [3, 3]
    with pytest.raises(ValueError, match="no more"):
        next(found)


def test_read_views_come_while_the_source_is_slow(eight, monkeypatch):
    go_on = threading.Event()

    def wait():
        yield from read(eight, block_rows=3)[:1]
        assert go_on.wait(30)

    monkeypatch.setattr(tasks, "_sandbox", InProcess)
    monkeypatch.setattr(tasks, "read", lambda *_: wait())
    found = read_views(None, None, None, 3, COUNTER, Preprocess(square(8)))
    assert len(next(found)) == 3
    assert not go_on.is_set()
    go_on.set()
    assert list(found) == []


def test_todo_rows_are_all_shards_in_order_so_many_at_a_time():
    todo = {3: Staged(), 5: Staged(((0, 7), (9, 12)), 20), 6: Staged()}
    first, second = todo_rows(todo, [2, 1])
    assert first.schema == second.schema == TODO
    assert first["shard"].to_pylist() == [3, 5]
    assert first["ranges"].to_pylist() == [[], [[0, 7], [9, 12]]]
    assert first["total"].to_pylist() == [None, 20]
    assert second["shard"].to_pylist() == [6]
