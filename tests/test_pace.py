import itertools
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from pipeline import pace
from pipeline.attempts import Notes, run_bounded
from pipeline.errors import CodecError
from pipeline.pace import HAND_ON_S, Pace, hand_on
from tests.test_attempts import ITEM, images, stage, views_of
from tests.test_stages import fake_encode, pixels_table


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is moved."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(pace, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def rows(count):
    return pa.table({"row": range(count), "reason": pa.nulls(count, pa.string())})


def work_of(clock, seconds_a_row, seen=None):
    def work(table):
        clock.now += seconds_a_row * len(table)
        if seen is not None:
            seen.append(table["row"].to_pylist())
        return table

    return work


@pytest.mark.parametrize("seconds", [0, 0.001, 0.1, 1, 3, 10, 40])
@pytest.mark.parametrize("unit", [1, 3, 64])
def test_hand_on_any_speed_yields_every_row_once_and_in_time(clock, seconds, unit):
    tempo, found, last, longest = Pace(unit), [], clock.now, 0.0
    for count in (1, 128, 30, 256, 128):
        for made in hand_on(rows(count), work_of(clock, seconds), tempo, is_fair=True):
            longest, last = max(longest, clock.now - last), clock.now
            found.append(made["row"].to_pylist())
    expected = [list(range(count)) for count in (1, 128, 30, 256, 128)]
    assert list(itertools.chain(*found)) == list(itertools.chain(*expected))
    piece = unit * seconds
    assert longest <= HAND_ON_S + max(HAND_ON_S, piece) + piece


def test_hand_on_fast_codec_gets_whole_tables_once_its_speed_is_known(clock):
    tempo, seen = Pace(1), []
    work = work_of(clock, 0.001, seen)
    for _ in range(12):
        assert len(list(hand_on(rows(128), work, tempo, is_fair=True))) == 1
    assert seen[-1] == list(range(128))


def test_pace_pieces_tried_again_have_few_names(clock):
    """Three deaths under each name come before a row is looked at alone; 64 end the run."""
    rng, names = np.random.default_rng(0), {}
    for _ in range(300):
        tempo = Pace(1)
        for _ in range(rng.integers(1, 5)):
            for piece in tempo.pieces(rows(128)):
                clock.now += rng.choice([0.001, 1, 9]) * len(piece)
                first, *_, last = [*piece["row"].to_pylist()] * 2
                for row in piece["row"].to_pylist():
                    names.setdefault(row, set()).add((first, last))
    assert max(map(len, names.values())) <= 8


def test_hand_on_table_without_rows_goes_through(clock):
    (made,) = hand_on(rows(0), work_of(clock, 1), Pace(4), is_fair=True)
    assert len(made) == 0


def judged(table, *, is_fair=True, unit=4):
    def work(piece):
        return run_bounded(piece, stage(fake_encode), Notes(), ITEM)

    return pa.concat_tables(hand_on(table, work, Pace(unit), is_fair=is_fair)).to_pylist()


DARK = np.full((8, 8, 3), 10, np.uint8)
"""Not finite, says `fake_encode`."""


@pytest.mark.fault(27)
@pytest.mark.parametrize("count", [8, 30])
@pytest.mark.parametrize("unit", [1, 64])
def test_hand_on_no_finite_latents_at_all_is_not_the_images_fault(monkeypatch, count, unit):
    monkeypatch.setattr(pace, "HAND_ON_S", -1)
    with pytest.raises(CodecError, match=r"float32.*doctor") as caught:
        judged(views_of([DARK] * count), unit=unit)
    assert caught.value.exit_code == 4


@pytest.mark.fault(27)
def test_hand_on_no_finite_latents_among_what_was_rejected_before_are_rejections():
    found = judged(pixels_table([DARK] * 9), is_fair=False)
    assert [row["reason"] for row in found] == ["non_finite"] * 9


@pytest.mark.parametrize("hand_on_s", [-1, 15])
def test_hand_on_some_non_finite_latents_are_rejections(monkeypatch, hand_on_s):
    monkeypatch.setattr(pace, "HAND_ON_S", hand_on_s)
    assert [row["reason"] for row in judged(views_of([DARK] * 7))] == ["non_finite"] * 7
    for many in ([DARK] * 14 + images(1), images(1) + [DARK] * 14):
        found = [row["reason"] for row in judged(views_of(many), unit=1)]
        assert sorted(map(str, found)) == ["None"] + ["non_finite"] * 14
