import itertools
import signal
from types import SimpleNamespace

import pyarrow as pa
import pytest

from tests.stages.test_encode import eight, read
from vqpipe.engine import capacity, tasks, watchdog
from vqpipe.engine.committer import Committer
from vqpipe.engine.counter import Tally
from vqpipe.engine.tasks import open_views
from vqpipe.engine.watchdog import Needs
from vqpipe.errors import IncompleteError, NoProgressError, stopped_by
from vqpipe.images import Preprocess, open_images, square
from vqpipe.sink.commit import RECEIPT
from vqpipe.stages.open import open_rows

__all__ = ["eight"]  # a fixture


CPU = Needs("cpu", opens=True)


class Head:
    def is_there(self):
        return False


class Closed:
    """A graph that hands nothing on."""

    def __init__(self, _):
        pass

    def take(self, _):
        return [], False

    def close(self):
        pass


@pytest.fixture
def alone(monkeypatch):
    """A graph that hands nothing on, a cluster without anything, and a clock of whole seconds."""
    seconds = itertools.count()
    monkeypatch.setattr(watchdog, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    monkeypatch.setattr(watchdog, "Outlet", Closed)
    monkeypatch.setattr(watchdog, "_POLL_S", 0.001)
    monkeypatch.setattr(watchdog, "_ASK_S", 0.0)
    monkeypatch.setattr(watchdog, "Head", Head)
    monkeypatch.setattr(capacity, "resources", dict)
    monkeypatch.setattr(capacity, "free_resources", dict)


def watch(monkeypatch, polls, receipts=(), needs=CPU):
    """Watches a graph that ends in a standstill; returns its ticks and the error's message."""
    seen, commits = [], Receipts(receipts)
    monkeypatch.setattr(watchdog, "_poll", lambda *_: next(polls))
    with pytest.raises(NoProgressError, match="for 10 s") as caught:
        seen.extend(watchdog.watch(None, commits, None, 10, needs))
    return seen, caught.value.message


class Receipts(Committer):
    """Commits that end when they do."""

    def __init__(self, receipts):
        super().__init__(None)
        self._receipts = iter(receipts)

    def work(self, **_):
        yield from next(self._receipts, ())


def receipt(rows):
    said = {"shard": 0, "good": rows, "rejected": 0, "reasons": [], "committed": None}
    return pa.Table.from_pylist([said], schema=RECEIPT)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("field", ["encoded", "opened", "read"])
def test_watch_images_that_are_opened_or_encoded_are_progress_and_those_read_are_not(
    monkeypatch, field
):
    polls = (Tally(**{field: min(number, 40)}) for number in itertools.count(1))
    seen, _ = watch(monkeypatch, polls)
    assert (len(seen) > 40) == (field != "read")


@pytest.mark.usefixtures("alone")
def test_watch_rows_that_become_durable_are_progress(monkeypatch):
    polls = itertools.repeat(Tally(encoded=400))
    seen, message = watch(monkeypatch, polls, [[receipt(10)] for _ in range(40)])
    assert sum(tick.receipts is not None for tick in seen) == 40
    assert "400 rows committed or staged" in message


def committed(*shards):
    said = {"good": 1, "rejected": 0, "reasons": [], "committed": 1}
    return pa.Table.from_pylist([{**said, "shard": each} for each in shards], schema=RECEIPT)


@pytest.mark.usefixtures("alone")
def test_watch_all_committed_ends_though_a_task_never_does(monkeypatch):
    told = []
    monkeypatch.setattr(watchdog, "_poll", lambda _, before, new: told.extend(new) or before)
    commits = Receipts([[committed(4, 7)], [], [committed(9)], [committed(7)]])
    needs = Needs("cpu", shards=frozenset({4, 7, 9}))
    ticks = list(watchdog.watch(None, commits, None, 1000, needs))
    assert sum(tick.receipts is not None for tick in ticks) == 3
    assert told == [4, 7, 9, 7]


@pytest.mark.usefixtures("alone")
def test_watch_some_committed_goes_on(monkeypatch):
    commits = Receipts([[committed(4, 7)]])
    needs = Needs("cpu", shards=frozenset({4, 7, 9}))
    monkeypatch.setattr(watchdog, "_poll", lambda *_: Tally())
    with pytest.raises(NoProgressError):
        list(watchdog.watch(None, commits, None, 100, needs))


WAITING = [
    (Tally(), "No codec is ready"),
    (Tally(codecs=1), "store of the source"),
    (Tally(codecs=1, read=7), "wait to be opened"),
    (Tally(codecs=1, read=7, opened=7), "codecs have work"),
]


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(("counts", "said"), WAITING)
def test_watch_standstill_says_what_waits_for_what(monkeypatch, counts, said):
    _, message = watch(monkeypatch, itertools.repeat(counts))
    assert said in message
    assert f"{counts.read} images were read" in message
    assert f"{counts.opened} opened, {counts.encoded} through a codec" in message
    assert "needs 0.5 cores" in message
    others = [other for _, other in WAITING if other != said]
    assert not any(other in message for other in others)


@pytest.mark.usefixtures("alone")
def test_watch_standstill_of_a_commit_blames_the_store_whatever_was_done_twice(monkeypatch):
    monkeypatch.setattr(Receipts, "is_idle", False)
    _, message = watch(monkeypatch, itertools.repeat(Tally(codecs=1, read=9, encoded=4)))
    assert "store of the sink" in message


@pytest.mark.usefixtures("alone")
def test_watch_standstill_of_what_opens_nothing_blames_no_opening(monkeypatch):
    polls = itertools.repeat(Tally(codecs=1, read=7))
    _, message = watch(monkeypatch, polls, needs=Needs("cuda", opens=False))
    assert "codecs have work" in message


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("where", ["work", "poll"])
def test_watch_stopped_in_a_wait_of_ray_ends_as_the_signal_says(monkeypatch, where):
    """Ray 2.60 has what a handler raises in its C++ come out as `SystemError`, raised from it."""

    def wait(*_, **__):
        try:
            raise stopped_by(signal.SIGTERM)
        except IncompleteError as error:
            raise SystemError("returned a result with an exception set") from error

    commits = Receipts([])
    monkeypatch.setattr(watchdog, "_poll", lambda *_: Tally())
    monkeypatch.setattr(*{"work": (commits, "work"), "poll": (watchdog, "_poll")}[where], wait)
    with pytest.raises(IncompleteError, match="SIGTERM"):
        list(watchdog.watch(None, commits, None, 10, CPU))


@pytest.mark.usefixtures("alone")
def test_watch_error_of_the_interpreter_that_no_signal_led_to_is_seen_in_full(monkeypatch):
    def fail(*_):
        raise SystemError("a bug")

    monkeypatch.setattr(watchdog, "_poll", fail)
    with pytest.raises(SystemError, match="a bug"):
        list(watchdog.watch(None, Receipts([]), None, 10, CPU))


@pytest.mark.usefixtures("alone")
def test_watch_head_that_does_not_answer_is_asked_for_nothing(monkeypatch):
    def cores():
        raise AssertionError("Ray would wait for it without end")

    monkeypatch.setattr(capacity, "count_cores", cores)
    watch(monkeypatch, itertools.repeat(Tally()))


def test_open_views_says_from_time_to_time_how_many_are_through(eight, monkeypatch):
    said = []
    told = SimpleNamespace(note=lambda report: said.append(report.opened))
    monkeypatch.setattr(tasks, "teller", lambda _: told)
    through = [3, 3, 6]

    def open_slowly(images, seen):
        for count in through:
            seen(count)
        return open_images(images, how)

    slow = SimpleNamespace(prepare=lambda images: images, open_prepared=open_slowly)
    monkeypatch.setattr(tasks, "_sandbox", lambda _: slow)
    table, how = pa.concat_tables(read(eight)), Preprocess(square(8))
    opened = open_views(table, how, None)
    assert opened.equals(open_rows(table, how))
    assert said == [3, 3, 2]
    through.clear()
    said.clear()
    assert open_views(table, how, None).equals(opened)
    assert said == [8]


def test_watch_of_a_graph_without_codecs_says_what_was_read_and_where_to_look(monkeypatch, alone):  # noqa: ARG001
    polls = itertools.chain([Tally(read=5, opened=5)], itertools.repeat(Tally(read=9, opened=9)))
    ticks, said = watch(monkeypatch, polls, needs=None)
    assert len(ticks) > 2
    assert "9 images were read and 0 committed" in said
    assert "codec" not in said


class Ended(Closed):
    """A graph that is through."""

    def take(self, _):
        return [], True


class Slow(Receipts):
    """Commits of which one takes three rounds."""

    rounds = 3

    @property
    def is_idle(self):
        self.rounds -= 1
        return self.rounds < 0


@pytest.mark.usefixtures("alone")
def test_watch_counts_the_time_for_commits_where_nothing_else_is_left(monkeypatch):
    monkeypatch.setattr(watchdog, "Outlet", Ended)
    monkeypatch.setattr(watchdog, "_poll", lambda *_: Tally(codecs=2))
    ticks = list(watchdog.watch(None, Slow([]), None, 1000, CPU, 4))
    spent = ticks[-1].counts.spent
    assert spent.full_s == spent.seconds > 0
    assert spent.core_s == pytest.approx(4 * spent.seconds)
