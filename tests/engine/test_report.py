"""What a process tells the counter: all of it, and ever more rarely."""

import threading
import time

import pytest

from vqpipe.engine import report
from vqpipe.engine.report import Report, Teller
from vqpipe.occupancy import Spent


class Clock:
    """Stands in for `time`, where nobody waits: the test is the thread that looks."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(report, "time", made)
    monkeypatch.setattr(Teller, "_wake", lambda _: None)
    return made


def work(teller, clock, seconds, each_s=0.25):
    """Opens an image every so often."""
    for _ in range(int(seconds / each_s)):
        clock.now += each_s
        teller.note(Report(opened=1))


def test_teller_of_a_young_process_tells_everything_at_once(clock):
    said = []
    work(Teller(said.append), clock, 10)
    assert said == [Report(opened=1)] * 40


@pytest.mark.parametrize(
    ("age_s", "longest_s", "between_s"),
    [(10, 1, 0.2), (50, 1, 1), (10_000, 1, 1), (100, 15, 2), (500, 15, 10), (10_000, 15, 15)],
)
def test_teller_tells_more_rarely_the_older_its_process_is(clock, age_s, longest_s, between_s):
    said = []
    teller = Teller(said.append, longest_s)
    clock.now += age_s
    work(teller, clock, 60, each_s=0.05)
    assert len(said) <= 60 / between_s + 2
    slowest_s = min(longest_s, 0.02 * (age_s + 60))
    assert max(each.opened for each in said) <= slowest_s / 0.05 + 1
    teller.flush()
    assert sum(each.opened for each in said) == 1200


def test_teller_hands_over_what_is_told_along_with_something_else_and_does_not_repeat_it(clock):
    said = []
    teller = Teller(said.append)
    clock.now += 1000
    teller.note(Report(opened=1))
    teller.note(Report(opened=2))
    assert teller.take() == Report(opened=2)
    assert teller.take() == Report()
    teller.flush()
    assert said == [Report(opened=1)]


@pytest.mark.parametrize("share", [0.0, 1e-3, 1e9])
def test_teller_of_many_threads_tells_all_of_it_once_by_itself(monkeypatch, share):
    monkeypatch.setattr(report, "_SHARE", share)
    said, before = [], threading.active_count()
    teller = Teller(said.append, longest_s=0.01)

    def note():
        for _ in range(500):
            teller.note(Report(opened=1, spent=Spent(open_s=1)))

    threads = [threading.Thread(target=note) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert threading.active_count() <= before + 1
    until = time.monotonic() + 30
    while sum(each.opened for each in said) < 4000 and time.monotonic() < until:
        time.sleep(0.01)
    assert sum(each.opened for each in said) == 4000
    assert sum(each.spent.open_s for each in said) == 4000


def test_teller_for_which_there_is_no_thread_raises_nothing_and_tells_it_next_time(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(report, "_SHARE", 1e9)
    said = []
    teller = Teller(said.append, longest_s=0.05)
    teller.note(Report(opened=1))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        teller.note(Report(opened=2))
    time.sleep(0.06)
    teller.note(Report(opened=3))
    assert said == [Report(opened=1), Report(opened=5)]


@pytest.mark.parametrize("mine", [None, (10, 80), (40, 80)])
def test_report_plus_keeps_the_fullest_gpu(mine):
    both = Report(1, 2, 3, 4, Spent(read_s=1), mine).plus(Report(gpu_memory=(30, 80)))
    assert both == Report(1, 2, 3, 4, Spent(read_s=1), max(mine or (0, 0), (30, 80)))
