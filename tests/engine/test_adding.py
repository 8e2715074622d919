"""Parts that are added up beside a graph, by tasks that stand in for Ray's and do their work."""

from types import SimpleNamespace

import pyarrow as pa
import pytest
import ray

from tests.sink.runs import encoded_rows, start, visible
from vqpipe.engine import adding, capacity
from vqpipe.engine.counter import Tally
from vqpipe.engine.watchdog import Tick
from vqpipe.sink import coverage
from vqpipe.sink.commit import RECEIPT, commit_rows
from vqpipe.sink.totals import add_part, read_totals

SHARDS = 9


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Has tasks be done when they are started, two shards a part."""

    def wait(tasks, **_):
        return tasks, []

    monkeypatch.setattr(ray, "wait", wait)
    monkeypatch.setattr(ray, "get", lambda answer: answer)
    monkeypatch.setattr(adding, "_task", lambda function, *given: function(*given))
    monkeypatch.setattr(capacity, "count_cores", lambda: 2)
    monkeypatch.setattr(coverage, "PART", 2)
    monkeypatch.setattr(coverage, "LEAST", 1)
    monkeypatch.setattr(adding, "LEAST", 1)


@pytest.fixture
def writer(tmp_path):
    return start(tmp_path, names=[f"{index}" for index in range(SHARDS)])


def graph(writer, indices):
    """Yields the ticks of a graph that commits some shards, of which each is reported twice."""
    for index in indices:
        receipts = commit_rows(encoded_rows(writer, index, 5, rejected=(1,)), writer)
        yield Tick(receipts, Tally())
        yield Tick(receipts, Tally())
        yield Tick(None, Tally())


def parts(writer):
    return visible(writer.sink.uri, "totals")


def check(writer, count):
    """Checks that parts have so many objects, and what they add up to is what footers say."""
    found = read_totals(writer.sink)
    files = [f"{writer.sink.uri}/data/{name}" for name in visible(writer.sink.uri, "data")]
    assert len(files) == found.shards == SHARDS
    assert (found.good, found.rejected) == (4 * SHARDS, SHARDS)
    assert len(found.parts) == count


def run(writer, indices):
    ticks = adding.add_along(graph(writer, indices), writer, list(indices), SHARDS)
    return list(ticks)


def test_add_along_has_all_objects_added_up_by_the_end_of_the_graph(writer):
    seen = run(writer, range(SHARDS))
    assert sum(tick.receipts is not None for tick in seen) == 2 * SHARDS
    check(writer, 5)


def test_add_along_resumed_adds_up_what_earlier_commands_committed_and_no_part_has(writer):
    for _ in graph(writer, range(6)):
        pass
    add_part(writer.sink, [0, 1])
    run(writer, range(6, SHARDS))
    check(writer, 5)


def test_add_along_with_tasks_that_fail_leaves_all_to_who_adds_up(writer, monkeypatch):
    def fail(*_):
        raise ray.exceptions.RayError

    monkeypatch.setattr(adding, "_add_up", fail)
    run(writer, range(SHARDS))
    assert parts(writer) == []
    check(writer, 0)


def test_add_along_with_few_shards_starts_nothing(writer, monkeypatch):
    monkeypatch.setattr(adding, "LEAST", SHARDS + 1)
    monkeypatch.setattr(adding, "_task", None)
    run(writer, range(SHARDS))
    assert parts(writer) == []


def test_add_along_that_is_closed_closes_the_graph(writer):
    state = SimpleNamespace(is_open=True)

    def ticks():
        try:
            while True:
                yield Tick(None, Tally())
        finally:
            state.is_open = False

    running = adding.add_along(ticks(), writer, list(range(SHARDS)), SHARDS)
    next(running)
    running.close()
    assert not state.is_open


def test_add_along_hands_on_what_ends_the_graph(writer):
    def ticks():
        yield Tick(pa.Table.from_pylist([], schema=RECEIPT), Tally())
        raise ValueError("the graph's own")

    with pytest.raises(ValueError, match="own"):
        list(adding.add_along(ticks(), writer, [], SHARDS))
