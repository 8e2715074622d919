"""What a process tells the counter: all of it, and ever more rarely."""

import threading
import time

import pytest

from vqpipe.engine import report
from vqpipe.engine.report import Report, Teller
from vqpipe.occupancy import Spent


class Clock:
    """Stands in for `time`, and for the timers that look at it."""

    def __init__(self):
        self.now, self.timers = 1000.0, []

    def monotonic(self):
        return self.now

    def Timer(self, seconds, call):  # noqa: N802 (named as in threading)
        clock = self

        class Timer:
            daemon = False

            def start(self):
                clock.timers.append((clock.now + seconds, call))

        return Timer()

    def run(self, seconds):
        """Lets seconds pass, and timers run out."""
        until = self.now + seconds
        while due := [each for each in self.timers if each[0] <= until]:
            first = min(due, key=lambda each: each[0])
            self.timers.remove(first)
            self.now = max(self.now, first[0])
            first[1]()
        self.now = until


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(report, "time", made)
    monkeypatch.setattr(report, "threading", made)
    made.Lock = threading.Lock
    return made


def work(teller, clock, seconds, each_s=0.25):
    """Opens an image every so often."""
    for _ in range(int(seconds / each_s)):
        clock.run(each_s)
        teller.note(Report(opened=1))


def test_teller_of_a_young_process_tells_everything_at_once(clock):
    said = []
    teller = Teller(said.append)
    work(teller, clock, 5)
    assert said == [Report(opened=1)] * 20


@pytest.mark.parametrize(("age_s", "between_s"), [(100, 2), (500, 10), (750, 15), (10_000, 15)])
def test_teller_tells_more_rarely_the_older_its_process_is_but_all(clock, age_s, between_s):
    said = []
    teller = Teller(said.append)
    clock.run(age_s)
    work(teller, clock, 60)
    clock.run(1)
    assert sum(each.opened for each in said) == 240
    assert len(said) <= 60 / between_s + 2
    longest_s = min(15, 0.02 * (age_s + 60)) + 0.5
    assert max(each.opened for each in said) <= longest_s / 0.25


def test_teller_tells_the_rest_when_nothing_more_comes(clock):
    said = []
    teller = Teller(said.append)
    clock.run(1000)
    teller.note(Report(opened=1))
    said.clear()
    teller.note(Report(opened=2))
    clock.run(0.3)
    teller.note(Report(read=3))
    clock.run(0.3)
    assert said == []
    clock.run(0.6)
    assert said == [Report(opened=2, read=3)]
    clock.run(100)
    assert clock.timers == []
    assert len(said) == 1


def test_teller_hands_over_what_is_told_along_with_something_else_and_does_not_repeat_it(clock):
    said = []
    teller = Teller(said.append)
    clock.run(1000)
    teller.note(Report(opened=1))
    said.clear()
    teller.note(Report(opened=2))
    assert teller.take() == Report(opened=2)
    assert teller.take() == Report()
    teller.flush()
    clock.run(5)
    assert said == []


def test_teller_of_many_threads_loses_nothing_and_tells_nothing_twice():
    said = []
    teller = Teller(said.append)

    def note():
        for _ in range(500):
            teller.note(Report(opened=1, spent=Spent(open_s=1)))

    threads = [threading.Thread(target=note) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    teller.flush()
    assert sum(each.opened for each in said) == 4000
    assert sum(each.spent.open_s for each in said) == 4000


def test_teller_tells_the_rest_by_a_thread_of_its_own(monkeypatch):
    monkeypatch.setattr(report, "_SHARE", 1e9)
    monkeypatch.setattr(report, "_QUIET_S", 0.05)
    told = threading.Event()
    teller = Teller(lambda _: told.set())
    time.sleep(0.01)
    teller.note(Report(opened=1))
    assert told.wait(10)


@pytest.mark.parametrize("mine", [None, (10, 80), (40, 80)])
def test_report_plus_keeps_the_fullest_gpu(mine):
    both = Report(1, 2, 3, 4, Spent(read_s=1), mine).plus(Report(gpu_memory=(30, 80)))
    assert both == Report(1, 2, 3, 4, Spent(read_s=1), max(mine or (0, 0), (30, 80)))
