from types import SimpleNamespace

import pyarrow as pa
import pytest

from vqpipe import storage
from vqpipe.engine import capacity, stopwatch, timesheet
from vqpipe.engine.counter import Counter, Tally
from vqpipe.engine.report import Report
from vqpipe.engine.stopwatch import Stopwatch
from vqpipe.engine.timesheet import Timesheet, stamp
from vqpipe.occupancy import Spent


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is moved."""
    clock = SimpleNamespace(now=1000.0)
    for module in (stopwatch, timesheet):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_stopwatch_gives_each_second_to_one_thing(clock):
    watch = Stopwatch()
    for seconds, doing in ((1, "read_s"), (4, "held_s"), (2, "read_s"), (8, "asked_s")):
        clock.now += seconds
        watch.turn_to(doing)
    clock.now += 16
    found = watch.take()
    assert (found.asked_s, found.read_s, found.held_s) == (1 + 16, 4 + 8, 2)
    clock.now += 1
    assert watch.take() == Spent(asked_s=1), "what was taken is not told again"


def test_stopwatch_tells_what_the_store_was_asked_meanwhile(tmp_path):
    uri = storage.join_uri(str(tmp_path), "a")
    storage.publish(uri, b"x" * 100)
    watch = Stopwatch()
    storage.read(uri)
    found = watch.take()
    assert found.fetched_bytes == 100
    assert found.read_wait_s > 0
    assert watch.take().fetched_bytes == 0


def test_timesheet_adds_up_what_there_was_as_it_changed(clock):
    sheet = Timesheet(4)
    for seconds, codecs, is_full in ((10, 0, False), (20, 1, True), (5, 2, True)):
        clock.now += seconds
        sheet.note(Tally(codecs=codecs), is_full=is_full, can_ask=True)
    found = sheet.add_to(Tally(spent=Spent(codec_s=7))).spent
    assert found == Spent(codec_s=7, core_s=140, codec_there_s=30, full_s=25, seconds=35)


@pytest.mark.usefixtures("clock")
def test_timesheet_adds_what_is_stamped_on_receipts():
    sheet, receipts = Timesheet(4), pa.table({"shard": [3]})
    for spent in (Spent(commit_s=2, written_bytes=100), Spent(commit_s=0.5, commit_wait_s=0.25)):
        sheet.receive(stamp(receipts, spent))
    sheet.receive(receipts)
    expected = Spent(commit_s=2.5, commit_wait_s=0.25, written_bytes=100)
    assert sheet.add_to(Tally()).spent == expected
    assert stamp(receipts, Spent()).equals(receipts), "nothing else changes"


def test_timesheet_of_a_cluster_asks_for_its_cores_every_ten_seconds(clock, monkeypatch):
    cores = iter((2.0, 8.0))
    monkeypatch.setattr(capacity, "count_cores", lambda: next(cores))
    sheet = Timesheet(None)
    for _ in range(11):
        clock.now += 1
        sheet.note(Tally(), is_full=False, can_ask=True)
    assert sheet.add_to(Tally()).spent.core_s == 10 * 2 + 8


def test_timesheet_does_not_ask_a_head_that_is_gone(clock, monkeypatch):
    monkeypatch.setattr(capacity, "count_cores", lambda: pytest.fail("it would wait without end"))
    sheet = Timesheet(None)
    clock.now += 60
    sheet.note(Tally(), is_full=False, can_ask=False)
    assert sheet.add_to(Tally()).spent.core_s == 0


def test_counter_adds_up_what_workers_spend_and_keeps_the_fullest_gpu():
    counter = Counter()
    counter.tell(Report(5, 100, spent=Spent(read_s=2)), "a")
    counter.tell(Report(opened=5, spent=Spent(open_s=3)), "a")
    counter.tell(Report(encoded=4, spent=Spent(codec_s=4), gpu_memory=(10, 80)), "a")
    counter.tell(Report(encoded=1, spent=Spent(codec_s=1), gpu_memory=(30, 80)), "a")
    counter.tell(Report(gpu_memory=(20, 80)), "a")
    counter.tell(Report(spent=Spent(commit_s=6)), "a")
    found = counter.read()
    assert found.spent == Spent(read_s=2, open_s=3, codec_s=5, commit_s=6)
    assert (found.encoded, found.gpu_memory) == (5, (30, 80))
