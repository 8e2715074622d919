"""One shard's whole life, dying at every storage call, and two writers in every order of calls.

Bounded and complete: every call of the life has its crash, before and after, and every schedule of
two writers with up to so many switches between them is run.
"""

import contextlib
import functools
import itertools
import shutil
import threading
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from tests.sink.runs import (
    KEPT,
    check_committed,
    encoded_rows,
    facts_of_kept,
    make_run,
    no_rows,
    start,
    tar_shard,
    visible,
)
from tests.storage.intercept import Crash, Crashing, intercept
from vqpipe import schema, storage
from vqpipe.code_layout import CodeLayout
from vqpipe.errors import IncompleteError
from vqpipe.inspection.verify import verify
from vqpipe.sink import success, todo, totals
from vqpipe.sink.commit import commit_rows
from vqpipe.sink.growth import Growth
from vqpipe.sink.plan import Plan
from vqpipe.sink.run import find_run, is_complete, open_sink
from vqpipe.sink.slot import Attempt
from vqpipe.sink.start import start_run
from vqpipe.sink.writer import Writer
from vqpipe.stages.encode import CodesProduct

TOTAL, CUTS = 6, (0, 2, 3, 6)
CODES = CodeLayout.grid(2, 3, 16)


def live(sink, version="1", tag=None, rejected=(), left_out=()):
    """One command on a sink with one shard, as vqpipe encode goes about it, in a plain loop."""
    listed = Plan.of([tar_shard("a", version=version)])
    asked = make_run(plan_sha256=listed.sha256(), facts=facts_of_kept(KEPT))
    opened = start_run(sink, asked, listed, Growth(replace_changed=True))
    left = todo.unfinished(opened)
    again = todo.retriable(opened, left) if tag else {}
    revisions = {index: staged.revision + 1 for index, staged in again.items()}
    attempt = Attempt(tag, revisions, 5, "13") if again else None
    product = CodesProduct(KEPT, schema.codes_field(CODES), CODES)
    writer = Writer(opened, product, attempt)
    if left or again:
        storage.delete(f"{sink}/_SUCCESS")
    for index, staged in (left | again).items():
        for rows in pieces(writer, index, staged, rejected, left_out):
            commit_rows(rows, writer)
    found = totals.read_totals(opened)
    success.write_summary(opened, found, {})
    success.mark_success(opened, found)
    return writer


def pieces(writer, index, staged, rejected, left_out):
    """Yields what the codec would bring to the commit, in pieces."""
    if staged.complete:
        yield no_rows(writer, index, staged.total)
    for first, last in itertools.pairwise(CUTS):
        numbers = [row for row in range(first, last) if not staged.holds(row)]
        if numbers:
            yield encoded_rows(writer, index, TOTAL, numbers, rejected, left_out)


def check_whole(sink, *allowed):
    """Checks that a visible data object is one of those that a life may leave (P2)."""
    for name in visible(sink, "data"):
        found = pq.read_table(f"{sink}/data/{name}")["row"].to_pylist()
        assert found in [[row for row in range(TOTAL) if row not in each] for each in allowed]


def check_success(sink):
    """Checks that what says that it is complete is so, whatever died (P1)."""
    if is_complete(sink):
        assert list(verify(open_sink(sink, find_run(sink)), is_complete=True)) == []


def check_done(writer, rejected, left_out=()):
    check_committed(writer, [TOTAL], rejected, left_out)
    breaches = verify(writer.sink, is_complete=True)
    assert list(breaches) == []
    assert visible(writer.sink.uri, "staging") == []


LIVES = {
    "first": ([], {"rejected": (2, 5)}),
    "changed": ([{"rejected": (1,)}], {"version": "2", "rejected": (2, 5)}),
    "retried": ([{"rejected": (0, 2, 5)}], {"tag": "r1", "rejected": (2, 5)}),
    "retried_all": ([{"rejected": (0, 2, 5)}], {"tag": "r1"}),
    "left_out": ([], {"rejected": (2,), "left_out": (0, 1, 5)}),
    "left_out_retried": (
        [{"rejected": (2, 3), "left_out": (0, 5)}],
        {"tag": "r1", "rejected": (2,), "left_out": (0, 5)},
    ),
    "all_left_out": ([], {"left_out": range(TOTAL)}),
}


@pytest.mark.fault(7)
@pytest.mark.parametrize(
    ("name", "after"),
    [
        ("first", True),
        *(
            pytest.param(*life, marks=pytest.mark.soak)
            for life in [
                ("first", False),  # before a call is after the one before
                ("changed", True),
                ("retried", True),
                ("retried_all", True),
                ("left_out", True),
                ("left_out_retried", True),
                ("all_left_out", True),
            ]
        ),
    ],
)
def test_life_that_dies_at_any_storage_call_is_completed_by_the_next(tmp_path, name, after):
    before, life = LIVES[name]
    rejected, left_out = life.get("rejected", ()), life.get("left_out", ())
    (tmp_path / "before").mkdir()
    for earlier in before:
        live(str(tmp_path / "before"), **earlier)
    for number in itertools.count():
        sink = str(shutil.copytree(tmp_path / "before", tmp_path / str(number)))
        with Crashing(number, after=after) as calls, contextlib.suppress(Crash):
            live(sink, **life)
        if not calls.died:
            assert calls.count == number > 15  # every call has had its crash
            break
        had = [each["rejected"] for each in before]
        check_whole(sink, *([*each, *left_out] for each in (rejected, *had)))
        check_success(sink)
        again = {**life, "tag": "r2"} if "tag" in life else life
        writer = live(sink, **again)
        check_done(writer, rejected, left_out)
        check_done(live(sink, **again), rejected, left_out)


class Turns:
    """Has two threads make their storage calls one at a time, changing over where it is told."""

    def __init__(self, first, switches):
        self.count = 0
        self._turn, self._switches = first, switches
        self._left = {0, 1}
        self._changed = threading.Condition()

    def run(self, works):
        """Runs two functions to their ends; raises what they raise."""
        errors = []

        def work(number):
            threading.current_thread().writer = number
            try:
                works[number]()
            except BaseException as error:  # noqa: BLE001 (the test raises it)
                errors.append(error)
            finally:
                self._leave(number)

        threads = [threading.Thread(target=work, args=(number,)) for number in (0, 1)]
        with intercept(self._call):
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        if errors:
            raise errors[0]

    def _call(self, real, *args, **options):
        me = getattr(threading.current_thread(), "writer", None)
        if me is None:  # a thread of a pool, whose parent waits for it
            return real(*args, **options)
        with self._changed:
            self._changed.wait_for(lambda: self._turn == me or self._left == {me})
            if self.count in self._switches and len(self._left) == 2:
                self._turn = 1 - me
                self._changed.notify_all()
            self.count += 1
            self._changed.wait_for(lambda: self._turn == me or self._left == {me})
            return real(*args, **options)

    def _leave(self, number):
        with self._changed:
            self._left.discard(number)
            self._turn = 1 - number
            self._changed.notify_all()


HALVES = {
    "halves": ([(0, 4)], [(4, 6)]),
    "overlapping": ([(0, 4)], [(2, 6)]),
    "same_pieces": ([(0, 3), (3, 6)], [(0, 3), (3, 6)]),
    "whole_and_pieces": ([(0, 6)], [(3, 6), (0, 3)]),
}


def check_schedules(tmp_path, first_ranges, second_ranges, most_switches):
    """Runs every schedule of two writers with up to so many switches between them."""
    rejected, ran = (2, 5), 0
    for switches in schedules(tmp_path, (first_ranges, second_ranges), most_switches):
        for first in (0, 1):
            writer = start(tmp_path / f"{ran}")
            Turns(first, switches).run(works(writer, (first_ranges, second_ranges)))
            check_committed(writer, [TOTAL], rejected)
            ran += 1
    return ran


def works(writer, ranges):
    def work(mine):
        for each in mine:
            commit_rows(encoded_rows(writer, 0, TOTAL, range(*each), (2, 5)), writer)

    return [functools.partial(work, mine) for mine in ranges]


def schedules(tmp_path, ranges, most):
    """Yields sets of calls at which the other writer goes on; the last call is the bound."""
    turns = Turns(0, ())
    turns.run(works(start(tmp_path / "count"), ranges))
    calls = range(turns.count + 4)  # a writer that loses a race makes a few calls more
    for count in range(most + 1):
        yield from (set(each) for each in itertools.combinations(calls, count))


@pytest.mark.fault(6, 7)
@pytest.mark.parametrize("name", HALVES)
def test_two_writers_in_every_order_with_one_switch_commit_once(tmp_path, name):
    assert check_schedules(tmp_path, *HALVES[name], most_switches=1) > 15


@pytest.mark.fault(6, 7)
@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", HALVES)
def test_two_writers_in_every_order_with_three_switches_commit_once(tmp_path, name):
    assert check_schedules(tmp_path, *HALVES[name], most_switches=3) > 500


@pytest.mark.fault(6)
def test_two_commands_of_which_one_replaces_a_changed_shard_leave_the_new_one(tmp_path):
    """Whatever the older command does last, the object of the newer version stays."""
    sink = str(tmp_path)
    old = live(sink, rejected=(1,))
    new = live(sink, version="2", rejected=(2, 5))
    commit_rows(encoded_rows(old, 0, TOTAL, rejected=(1,)), old)
    found = totals.read_totals(new.sink)
    with pytest.raises(IncompleteError):
        success.mark_success(old.sink, found)
    check_done(live(sink, version="2"), (2, 5))
    later = live(sink, version="2")
    same = replace(later, sink=replace(later.sink, plan=new.sink.plan))
    assert replace(new, attempt=None) == same
