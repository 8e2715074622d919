import itertools
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from tests.stages.test_attempts import ITEM, images, numbered, stage, views_of
from tests.stages.test_encode import fake_encode, pixels_table
from vqpipe.engine import pace
from vqpipe.engine.pace import HAND_ON_S, Pace, hand_on
from vqpipe.errors import CodecError
from vqpipe.stages.attempts import Notes, run_bounded


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is moved."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(pace, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def rows(count, views=1):
    """Returns rows of one shard, as many for each sample as there are views of one."""
    columns = {"shard": [0] * count, "row": [number // views for number in range(count)]}
    numbers = [number % views for number in range(count)]
    return pa.table(columns | {"view": numbers, "reason": pa.nulls(count, pa.string())})


def work_of(clock, seconds_a_row, seen=None, batch=1):
    """Returns a codec that pads its last batch."""

    def work(table):
        clock.now += seconds_a_row * batch * -(-len(table) // batch)
        if seen is not None:
            seen.append(table["row"].to_pylist())
        return table

    return work


class Agreed:
    """What all codecs of a run agree on."""

    rows = None

    def __call__(self, rows):
        self.rows = self.rows or rows
        return self.rows


COUNTS = (1, 128, 30, 256, 128)


@pytest.mark.parametrize("seconds", [0, 0.001, 0.1, 1, 3, 10, 40])
@pytest.mark.parametrize("unit", [1, 3, 64])
def test_hand_on_any_speed_yields_every_row_once_and_in_time(clock, seconds, unit):
    tempo, found, longest = Pace(unit, Agreed()), [], 0.0
    for count in COUNTS:
        last = clock.now
        for made in hand_on(rows(count), work_of(clock, seconds, batch=unit), tempo, is_fair=True):
            longest, last = max(longest, clock.now - last), clock.now
            found.append(made["row"].to_pylist())
    expected = [list(range(count)) for count in COUNTS]
    assert list(itertools.chain(*found)) == list(itertools.chain(*expected))
    assert longest <= max(HAND_ON_S, 2 * unit * seconds) + 1e-6


def test_hand_on_fast_codec_gets_whole_tables_once_its_speed_is_known(clock):
    tempo, seen = Pace(1, Agreed()), []
    work = work_of(clock, 0.001, seen)
    for _ in range(2):
        assert len(list(hand_on(rows(128), work, tempo, is_fair=True))) == 1
    assert seen[-1] == list(range(128))


@pytest.mark.parametrize("unit", [1, 64])
@pytest.mark.parametrize("first_s", [0.001, 0.4, 5, 40])
def test_hand_on_table_that_is_done_again_elsewhere_has_the_same_parts(clock, unit, first_s):
    """Ray takes of a second attempt only the parts that are missing, by their number."""
    rng, agreed = np.random.default_rng(0), Agreed()

    def parts(tempo, count, seconds):
        table = rows(count)
        return [len(each) for each in hand_on(table, work_of(clock, seconds), tempo, is_fair=True)]

    parts(Pace(unit, agreed), 128, first_s)
    for count in (1, 64, 100, 128, 256):
        found = [
            parts(tempo, count, rng.choice([0, 0.01, 1, 9]))
            for tempo in (Pace(unit, agreed), Pace(unit, agreed))
            for _ in range(3)
        ]
        assert all(each == found[0] for each in found)
        assert found[0][:-1] == [agreed.rows] * (len(found[0]) - 1)


def test_hand_on_rejected_rows_say_nothing_of_the_speed(clock):
    agreed = Agreed()
    tempo = Pace(1, agreed)
    refused = pa.table({"shard": [0] * 9, "row": range(9), "reason": ["corrupt"] * 9})
    assert len(list(hand_on(refused, work_of(clock, 0), tempo, is_fair=True))) == 1
    assert agreed.rows is None
    assert len(list(hand_on(rows(30), work_of(clock, 1), tempo, is_fair=True))) == 2
    assert agreed.rows == HAND_ON_S


def test_hand_on_table_without_rows_goes_through(clock):
    (made,) = hand_on(rows(0), work_of(clock, 1), Pace(4, Agreed()), is_fair=True)
    assert len(made) == 0


def judged(table, *, is_fair=True, unit=4):
    def work(piece):
        return run_bounded(piece, stage(fake_encode), Notes(), ITEM)

    return pa.concat_tables(hand_on(table, work, Pace(unit, Agreed()), is_fair=is_fair)).to_pylist()


DARK = np.full((8, 8, 3), 10, np.uint8)
"""Not finite, says `fake_encode`."""


@pytest.mark.fault(27)
@pytest.mark.parametrize("count", [8, 30])
@pytest.mark.parametrize("unit", [1, 64])
def test_hand_on_no_finite_latents_at_all_is_not_the_images_fault(monkeypatch, count, unit):
    monkeypatch.setattr(pace, "HAND_ON_S", 0)
    with pytest.raises(CodecError, match=r"float32.*doctor") as caught:
        judged(views_of([DARK] * count), unit=unit)
    assert caught.value.exit_code == 4


@pytest.mark.fault(27)
def test_hand_on_no_finite_latents_among_what_was_rejected_before_are_rejections():
    found = judged(pixels_table([DARK] * 9), is_fair=False)
    assert [row["reason"] for row in found] == ["non_finite"] * 9


@pytest.mark.parametrize("hand_on_s", [0, 15])
def test_hand_on_some_non_finite_latents_are_rejections(monkeypatch, hand_on_s):
    monkeypatch.setattr(pace, "HAND_ON_S", hand_on_s)
    assert [row["reason"] for row in judged(views_of([DARK] * 7))] == ["non_finite"] * 7
    for many in ([DARK] * 14 + images(1), images(1) + [DARK] * 14):
        found = [row["reason"] for row in judged(views_of(many), unit=1)]
        assert sorted(map(str, found)) == ["None"] + ["non_finite"] * 14


@pytest.mark.fault(27)
@pytest.mark.parametrize("views", [8, 10, 256])
def test_hand_on_one_image_of_many_views_of_which_none_is_finite_costs_itself_alone(views):
    """As many views as it takes images to blame the codec."""
    one = numbered([DARK] * views, views)
    assert [row["reason"] for row in judged(one)] == ["non_finite"] * views
    with pytest.raises(CodecError, match="every one of 8 images"):
        judged(numbered([DARK] * 8 * views, views))


@pytest.mark.parametrize("seconds", [0, 0.01, 0.4, 3, 40])
@pytest.mark.parametrize("unit", [1, 4, 64])
@pytest.mark.parametrize("views", [2, 3, 10, 20])
def test_hand_on_never_tears_a_sample(clock, seconds, unit, views):
    tempo, found = Pace(unit, Agreed(), views), []
    for samples in (1, 30, 13, 64):
        table = rows(samples * views, views)
        parts = list(hand_on(table, work_of(clock, seconds, batch=unit), tempo, is_fair=True))
        for part in parts:
            assert part["view"].to_pylist() == list(range(views)) * (len(part) // views)
        assert pa.concat_tables(parts).equals(table)
        found += map(len, parts)
    if seconds * unit > 1:
        assert (
            max(found) <= views * -(-unit * max(1, HAND_ON_S / (unit * seconds)) // views) + views
        )


@pytest.mark.parametrize("first_s", [0.001, 0.4, 5, 40])
@pytest.mark.parametrize("views", [3, 10])
def test_hand_on_views_that_are_done_again_elsewhere_have_the_same_parts(clock, views, first_s):
    agreed, rng = Agreed(), np.random.default_rng(0)

    def parts(tempo, samples, seconds):
        table, work = rows(samples * views, views), work_of(clock, seconds, batch=4)
        return [len(each) for each in hand_on(table, work, tempo, is_fair=True)]

    parts(Pace(4, agreed, views), 64, first_s)
    assert agreed.rows % views == 0
    for samples in (1, 7, 64):
        found = [
            parts(Pace(4, agreed, views), samples, rng.choice([0, 0.01, 1, 9])) for _ in range(4)
        ]
        assert all(each == found[0] for each in found)
