import io
import itertools
from types import SimpleNamespace

import pytest
from rich.console import Console

from pipeline import progress
from pipeline.progress import Display, Progress, announce


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is moved."""
    clock = SimpleNamespace(now=1000.0)
    fake = SimpleNamespace(monotonic=lambda: clock.now, strftime=lambda _: "12:00:00")
    monkeypatch.setattr(progress, "time", fake)
    return clock


def at(clock, **counts):
    counts = {"shards_total": 10, "bytes_total": 1000} | counts
    return Progress(started=clock.now, **counts)


def test_images_before_any_are_durable_are_those_of_the_codec(clock):
    state = at(clock, encoded=30)
    state.reasons.update(["corrupt", "empty", "empty"])
    assert (state.rejected, state.images) == (3, 33)
    state.durable = 50
    assert state.images == 50


def test_images_total_is_judged_from_the_bytes_read(clock):
    state = at(clock)
    assert state.images_total is None
    state.shards, state.read, state.read_bytes, state.durable = 2, 50, 200, 60
    assert state.images_total == 250
    state.durable = 300
    assert state.images_total == 300


def test_images_total_of_a_finished_run_is_what_was_seen(clock):
    state = at(clock, shards_before=7, shards=3, read=90, read_bytes=999, durable=90)
    assert state.images_total == 90


def test_rate_covers_the_last_half_minute(clock):
    state = at(clock)
    for second in range(100):
        clock.now += 1
        state.durable += 10 if second < 50 else 2
        rate = state.rate()
        if second == 49:
            assert rate == pytest.approx(10)
    assert rate == pytest.approx(2)
    assert state.seconds == 100


def test_rate_first_asked_covers_all_since_the_start(clock):
    state = at(clock, durable=40)
    clock.now += 8
    assert state.rate() == pytest.approx(5)


def test_rate_after_a_long_silence_is_that_of_the_silence(clock):
    state = at(clock)
    clock.now += 1
    state.rate()
    clock.now += 1000
    state.durable = 500
    assert state.rate() == pytest.approx(0.5)


def test_rate_without_time_passed_is_finite(clock):
    assert at(clock, durable=1).rate() < float("inf")


def test_describe_before_the_first_image_tells_how_long_it_takes(clock):
    state = at(clock)
    clock.now += 75
    assert state.describe() == ("starting workers, 1:15",)
    state.devices = ("cpu x2",)
    assert state.describe() == ("waiting for the first images, 1:15",)


def test_describe_running_gives_counts_and_time_left(clock):
    state = at(clock, shards_before=1, shards=2, read=400, read_bytes=100, durable=1000)
    state.reasons.update(["corrupt"] * 3)
    clock.now += 10  # 100 images a second; 4,000 images, 3,000 left
    assert state.describe() == (
        "3/10 shards",
        "1,000/~4,000 images",
        "100.0 images/s",
        "3 rejected",
        "ETA 0:30",
    )


def test_describe_long_runs_show_hours(clock):
    state = at(clock, bytes_total=10**6, shards=1, read=100, read_bytes=100, durable=100)
    clock.now += 100
    assert state.describe()[-1] == "ETA 277:45:00"


@pytest.mark.parametrize("read_bytes", [0, 100])
def test_describe_unknown_or_stopped_has_no_time_left(clock, read_bytes):
    state = at(clock, durable=10, read=10, read_bytes=read_bytes, shards=1)
    clock.now += 1
    state.rate()
    clock.now += 1
    assert state.describe()[-1] == "ETA ?"


def test_display_without_a_terminal_prints_a_line_every_few_seconds(clock):
    console = Console(file=io.StringIO(), width=40)
    state = at(clock, durable=123_456, shards=1, read=1000, read_bytes=10)
    with Display(console, "encode") as display:
        for _ in range(200):
            clock.now += 0.1
            display.show(state)
    lines = console.file.getvalue().splitlines()
    assert 3 <= len(lines) <= 5
    assert all("123,456" in line and "1/10 shards" in line and "ETA" in line for line in lines)


def test_display_on_a_terminal_shows_every_state(clock):
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    state = at(clock)
    with Display(console, "encode") as display:
        display.show(state)
        state.durable = 10
        display.show(state)
        state.shards, state.read, state.read_bytes = 5, 10, 500
        display.show(state)
    shown = console.file.getvalue()
    assert "starting workers" in shown
    assert "5/10 shards" in shown


@pytest.mark.parametrize("terminal", [True, False])
def test_display_left_by_an_error_lets_it_fly_and_gives_the_terminal_back(clock, terminal):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120)

    def fail():
        with Display(console, "encode") as display:
            display.show(at(clock))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    hidden, visible = (console.file.getvalue().rfind(f"\x1b[?25{c}") for c in "lh")  # the cursor
    assert visible > hidden if terminal else visible == hidden == -1


def test_mean_rate_leaves_the_start_out(clock):
    state = at(clock, durable=8)
    clock.now += 10
    assert state.mean_rate == 0.8
    state.start_up_s = 6.0
    assert state.mean_rate == 2.0


def test_progress_curve_stays_short_and_ends_far_apart(clock):
    begun, counted = clock.now, at(clock)
    for second in range(5000):
        clock.now = begun + second
        counted.durable = 10 * second
        counted.note()
    assert 100 <= len(counted.curve) <= progress.CURVE_POINTS
    assert counted.curve[0] == (0.0, 0)
    assert all(images == 10 * seconds for seconds, images in counted.curve)
    steps = {b - a for (a, _), (b, _) in itertools.pairwise(counted.curve)}
    assert max(steps) <= 2 * min(steps)


def test_progress_busy_is_the_share_of_all_codecs_time(clock):
    counted = at(clock)
    assert counted.busy is None
    clock.now += 30
    counted.start_up_s, counted.codecs, counted.busy_s = 10.0, 2, 30.0
    assert counted.busy == 0.75


def test_announce_says_what_takes_a_while_and_nothing_of_a_few_shards(capsys):
    announce("adding up", 100)
    assert capsys.readouterr().err == ""
    announce("adding up", 100_000)
    captured = capsys.readouterr()
    assert "adding up 100,000 shards" in captured.err
    assert captured.out == ""
