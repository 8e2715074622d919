import io
import itertools
from types import SimpleNamespace

import pytest
from rich.console import Console

from vqpipe.commands import progress
from vqpipe.commands.progress import Display, Progress, announce
from vqpipe.occupancy import Spent


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


def test_rate_leaves_the_start_out_and_is_the_mean_of_the_curve(clock):
    state = at(clock, start_up_s=None)
    for _ in range(30):
        clock.now += 1
        state.note()
    assert (state.rate, state.curve) == (0.0, [])
    state.start_up_s = 30.0
    for _ in range(50):
        clock.now += 0.7
        state.encoded += 7
        state.note()
    state.end()
    clock.now += 1000  # adding up
    assert state.rate == pytest.approx(10)
    assert state.seconds == pytest.approx(65)
    (begin, none), (end, images) = state.curve[0], (round(state.seconds, 1), state.images)
    assert (begin, none) == (30.0, 0)
    assert images / (end - begin) == pytest.approx(state.rate)


def run_curve(clock, *, images, speed, start_s=27.0, ramp_s=8.0, step_s=0.5):
    """Yields seconds left, shown and true, of a run whose speed grows in `ramp_s` to its full one.

    Of two minutes, images of one size, and a first image that comes late: as a run on a laptop is.
    """
    state = at(clock, bytes_total=images * 1000, start_up_s=start_s)
    ends = start_s + ramp_s / 2 + images / speed
    clock.now += start_s
    while state.encoded < images:
        clock.now += step_s
        worked = state.seconds - start_s
        done = speed * (worked**2 / (2 * ramp_s) if worked < ramp_s else worked - ramp_s / 2)
        state.encoded = min(images, int(done))
        state.read = min(images, state.encoded + 128)
        state.read_bytes = state.read * 1000
        state.note()
        yield state.left_s, ends - state.seconds, worked


@pytest.mark.parametrize("speed", [0.2, 1, 7, 20, 600])
@pytest.mark.parametrize("ramp_s", [0.1, 8, 15])
@pytest.mark.parametrize("minutes", [2, 30])
def test_left_s_first_told_is_about_right_and_comes_soon(clock, speed, ramp_s, minutes):
    images = round(speed * minutes * 60)
    told = [
        (shown, true, worked)
        for shown, true, worked in run_curve(clock, images=images, speed=speed, ramp_s=ramp_s)
        if shown is not None
    ]
    shown, true, worked = told[0]
    assert true / 2 <= shown <= 2 * true
    assert worked <= 20 + ramp_s + 11 / speed
    late = [(shown, true) for shown, true, worked in told if worked > ramp_s + 45 + 11 / speed]
    assert all(shown == pytest.approx(true, rel=0.1, abs=2 + 2 / speed) for shown, true in late)


def test_left_s_follows_the_speed_of_the_last_half_minute(clock):
    state = at(clock, bytes_total=10_000, read=100, read_bytes=100, start_up_s=0.0)
    for second in range(100):
        clock.now += 1
        state.durable += 10 if second < 50 else 2
        state.note()
    assert state.left_s == pytest.approx((10_000 - 600) / 2)


def test_left_s_of_a_standstill_grows(clock):
    state = at(clock, bytes_total=10_000, read=100, read_bytes=100, start_up_s=0.0)
    found = []
    for second in range(200):
        clock.now += 1
        state.durable = 10 * min(second, 40)
        state.note()
        found.append(state.left_s)
    assert found[199] > found[100] > found[41]


def test_describe_before_the_first_image_tells_how_long_it_takes(clock):
    state = at(clock)
    clock.now += 75
    assert state.describe() == ("starting workers, 1:15",)
    state.devices = ("cpu x2",)
    assert state.describe() == ("waiting for the first images, 1:15",)


def test_describe_running_gives_counts_and_time_left(clock):
    state = at(clock, shards_before=1, shards=2, read=400, read_bytes=100, start_up_s=0.0)
    state.reasons.update(["corrupt"] * 3)
    for _ in range(20):
        clock.now += 1
        state.durable += 50
        state.note()
    assert state.describe() == (
        "3/10 shards",
        "1,000/~4,000 images",
        "50.0 images/s",
        "3 rejected",
        "ETA 1:00",
    )
    state.images_known = 3_000
    assert state.describe()[1] == "1,000/3,000 images"


def test_describe_long_runs_show_hours(clock):
    state = at(clock, bytes_total=10**6, shards=1, read=100, read_bytes=100, start_up_s=0.0)
    for _ in range(100):
        clock.now += 1
        state.durable += 1
        state.note()
    assert state.describe()[-1] == "ETA 277:45:00"


@pytest.mark.parametrize("read_bytes", [0, 100])
def test_describe_unknown_has_no_time_left(clock, read_bytes):
    state = at(clock, durable=10, read=10, read_bytes=read_bytes, shards=1, start_up_s=0.0)
    for _ in range(5):
        clock.now += 1
        state.durable += 10
        state.note()
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


def test_progress_curve_stays_short_and_ends_far_apart(clock):
    begun, counted = clock.now, at(clock, start_up_s=0.0)
    for second in range(5000):
        clock.now = begun + second
        counted.durable = 10 * second
        counted.note()
    assert 100 <= len(counted.curve) <= progress.CURVE_POINTS
    assert counted.curve[0] == (0.0, 0)
    assert all(images == 10 * seconds for seconds, images in counted.curve)
    steps = {b - a for (a, _), (b, _) in itertools.pairwise(counted.curve)}
    assert max(steps) <= 2 * min(steps)


def test_progress_occupancy_is_of_the_time_from_the_first_images_to_the_last(clock):
    counted = at(clock, devices=("cpu x2",), start_up_s=10.0)
    # Seconds, images that are through, and seconds of two codecs that worked until then.
    for now, images, worked in ((20, 0, 9), (30, 5, 10), (50, 9, 40), (60, 20, 55), (90, 20, 55)):
        clock.now = 1000.0 + now
        counted.encoded, counted.spent = images, Spent(codec_s=worked, codec_there_s=2 * now)
        counted.note()
        if not images:
            assert counted.occupancy is None
    found = counted.occupancy
    assert (found.seconds, found.images, found.codec) == (30, 15, 0.75)
    assert (found.kind, found.codecs) == ("cpu", 2)


def test_progress_occupancy_goes_on_while_images_are_committed(clock):
    counted = at(clock, devices=("NVIDIA H200",), start_up_s=0.0, encoded=40)
    for now, durable, full in ((10, 0, 0), (20, 20, 5), (30, 40, 15), (70, 40, 15)):
        clock.now = 1000.0 + now
        counted.durable, counted.spent = durable, Spent(full_s=full)
        counted.note()
    found = counted.occupancy
    assert (found.seconds, found.committing, found.kind) == (20, 0.75, "cuda")


def test_announce_says_what_takes_a_while_and_nothing_of_a_few_shards(capsys):
    announce("adding up", 100)
    assert capsys.readouterr().err == ""
    announce("adding up", 100_000)
    captured = capsys.readouterr()
    assert "adding up 100,000 shards" in captured.err
    assert captured.out == ""


def test_describe_first_images_at_once_show_no_speed(clock):
    state = at(clock, devices=("cpu",), start_up_s=0.0)
    state.encoded = 9
    clock.now += 0.0001
    assert state.describe()[2] == "? images/s"
    clock.now += 2.9
    assert state.describe()[2] == "? images/s"
    clock.now += 0.1
    assert state.describe()[2] == "3.0 images/s"
