import functools

import numpy as np
import pyarrow as pa
import pytest

from tests.stages.test_encode import CODES, fake_encode, pixels_table, random_images
from vqpipe import schema
from vqpipe.errors import CodecError, StorageError, WorkersLostError
from vqpipe.rejections import Loss
from vqpipe.schema import Sample
from vqpipe.stages.attempts import ATTEMPTS, Notes, keep_reading, noted, run_bounded
from vqpipe.stages.encode import encode_rows
from vqpipe.stages.step import pixels_item

BAD = 7
"""Value of the pixels that make a codec fail; all others are 128 and more."""


ITEM = pixels_item((8, 8))


def images(count, bad=()):
    found = [np.maximum(image, 128) for image in random_images(count)]
    for i in bad:
        found[i][:] = BAD
    return found


def is_bad(pixels):
    return bool((pixels == BAD).all((1, 2, 3)).any())


def stage(encode):
    return functools.partial(encode_rows, encode=encode, codes=CODES)


def raise_at_bad(pixels):
    if is_bad(pixels):
        raise LookupError("no code\nfor <object at 0x7f12>")
    return fake_encode(pixels)


def expected(pictures, bad, reason):
    """Rows as they would have been, but for the bad ones."""
    rows = encode_rows(pixels_table(pictures), fake_encode, CODES).to_pylist()
    return [
        row | {"codes": None, "reason": reason, "message": None} if i in bad else row
        for i, row in enumerate(rows)
    ]


def without_messages(table):
    return [row | {"message": None} for row in table.to_pylist()]


@pytest.mark.parametrize("bad", [{0}, {3}, {8}, {2, 3, 6}])
def test_run_bounded_image_that_raises_costs_itself_alone(bad):
    pictures = images(9, bad)
    encoded = run_bounded(pixels_table(pictures), stage(raise_at_bad), Notes(), ITEM)
    assert encoded.schema == schema.encoded_schema(pa.schema([]), CODES)
    assert without_messages(encoded) == expected(pictures, bad, "codec_failed")
    messages = [row["message"] for row in encoded.to_pylist() if row["reason"]]
    assert messages == ["LookupError: no code for <object>"] * len(bad)


@pytest.mark.parametrize("failures", [1, 2, 5])
def test_run_bounded_failure_that_does_not_last_rejects_nothing(failures):
    left = iter(range(failures))

    def flaky(pixels):
        if next(left, None) is not None:
            raise LookupError("for now")
        return fake_encode(pixels)

    pictures = images(5)
    encoded = run_bounded(pixels_table(pictures), stage(flaky), Notes(), ITEM)
    assert encoded.to_pylist() == expected(pictures, (), None)


@pytest.mark.parametrize("count", [1, 5, 20])
def test_run_bounded_codec_that_always_raises_stops_the_run_soon(count):
    calls = []

    def broken(pixels):
        calls.append(len(pixels))
        raise LookupError("no codes today")

    with pytest.raises(CodecError, match="no codes today") as caught:
        run_bounded(pixels_table(images(count)), stage(broken), Notes(), ITEM)
    assert caught.value.exit_code == 4
    assert len(calls) == 3 * ATTEMPTS  # the batch, its first image, a grey one


@pytest.mark.parametrize("error", [StorageError("403"), MemoryError("none"), ImportError("torch")])
def test_run_bounded_errors_that_are_not_the_inputs_fly_at_once(error):
    calls = []

    def refuse(pixels):
        calls.append(len(pixels))
        raise error

    notes = Notes()
    with pytest.raises(type(error)):
        run_bounded(pixels_table(images(5)), stage(refuse), notes, ITEM)
    assert calls == [5]
    with noted(notes, "run 0/0/None to 0/4/None") as deaths:  # an error is no death
        assert deaths == 0


class Died(BaseException):
    """In place of the death of a process, which no handler sees."""


class Surviving(Notes):
    """A ledger that learns of no end once the process has died."""

    is_dead = False

    def end(self, what):
        if not self.is_dead:
            super().end(what)


def do_bounded(table, run, ledger, _):
    return run_bounded(table, run, ledger, ITEM)


def encode_with_deaths(table, encode, most, live=do_bounded):
    """Encodes as an actor does that is put up again after each death; returns rows and deaths.

    Args:
        table: Rows with pixels.
        encode: What may die.
        most: Lives.
        live: Does the table, given what to run, the ledger, and how many have died before.
    """
    ledger = Surviving()
    for deaths in range(most):
        ledger.is_dead = False

        def mortal(pixels):
            try:
                return encode(pixels)
            except Died:
                ledger.is_dead = True
                raise

        try:
            return live(table, stage(mortal), ledger, deaths), deaths
        except Died:
            continue
    raise AssertionError(f"not done after {most} deaths")


def die_at_bad(pixels):
    if is_bad(pixels):
        raise Died
    return fake_encode(pixels)


@pytest.mark.parametrize("bad", [{0}, {8}, {2, 3, 6}])
def test_run_bounded_image_that_kills_is_rejected_after_three_deaths_alone(bad):
    pictures = images(9, bad)
    encoded, deaths = encode_with_deaths(pixels_table(pictures), die_at_bad, 40)
    assert without_messages(encoded) == expected(pictures, bad, "codec_crashed")
    assert deaths == ATTEMPTS * (1 + len(bad))


def test_run_bounded_deaths_at_random_only_make_it_slower():
    rng = np.random.default_rng(0)

    def unlucky(pixels):
        if rng.random() < 0.3:
            raise Died
        return fake_encode(pixels)

    pictures = images(4)
    for _ in range(20):
        encoded, _ = encode_with_deaths(pixels_table(pictures), unlucky, 200)
        rejected = [row for row in encoded.to_pylist() if row["reason"]]
        kept = [row for row in encoded.to_pylist() if not row["reason"]]
        assert len(rejected) <= 1  # three of three at one image: 0.3 ** 3
        assert kept == [
            row for row in expected(pictures, (), None) if row["row"] in {k["row"] for k in kept}
        ]


def test_run_bounded_process_that_always_dies_stops_the_run():
    def die(_):
        raise Died

    with pytest.raises(WorkersLostError) as caught:
        encode_with_deaths(pixels_table(images(5)), die, 40)
    assert caught.value.exit_code == 5


def test_run_bounded_rows_without_pixels_pass_through():
    pictures = images(6, {4})
    pictures[1] = None
    rows = run_bounded(pixels_table(pictures), stage(raise_at_bad), Notes(), ITEM).to_pylist()
    found = [row["reason"] for row in rows]
    assert found == [None, "corrupt", None, None, "codec_failed", None]
    empty = pixels_table(pictures).slice(0, 0)
    assert len(run_bounded(empty, stage(raise_at_bad), Notes(), ITEM)) == 0


def views_of(pictures):
    table = pixels_table(pictures)
    views = pa.array([None if picture is None else 0 for picture in pictures], pa.uint8())
    return table.set_column(table.schema.get_field_index("view"), table.schema.field("view"), views)


def numbered(pictures, views):
    """Returns rows of samples that have so many views each."""
    table = pixels_table(pictures)
    places = {"row": [i // views for i in range(len(pictures))]}
    places["view"] = [i % views for i in range(len(pictures))]
    for name, values in places.items():
        at, kind = table.schema.get_field_index(name), table.schema.field(name)
        table = table.set_column(at, kind, pa.array(values, kind.type))
    return table


@pytest.mark.parametrize("views", [3, 9])
@pytest.mark.parametrize("bad", [{0}, {1}, {4}, {8}, {0, 1, 2}, {2, 3}, {1, 7}])
@pytest.mark.parametrize(
    ("encode", "reason"), [(die_at_bad, "codec_crashed"), (raise_at_bad, "codec_failed")]
)
def test_run_bounded_view_that_kills_or_fails_costs_itself_alone(views, bad, encode, reason):
    """Whatever becomes of other views of its sample before and after it."""
    pictures = images(9, bad)
    table = numbered(pictures, views)
    encoded, deaths = encode_with_deaths(table, encode, 40)
    found = dict(enumerate(encoded["reason"].to_pylist()))
    assert {place for place, said in found.items() if said} == bad
    assert {found[place] for place in bad} == {reason}
    assert encoded["codes"].is_null().to_pylist() == [place in bad for place in range(9)]
    assert deaths == (ATTEMPTS * (1 + len(bad)) if encode is die_at_bad else 0)


@pytest.mark.parametrize("bad", [{0}, {4}, {8}])
def test_run_bounded_parts_of_one_sample_are_counted_each_for_itself(bad):
    """A table that is measured goes through in batches, which begin and end in a sample."""
    table, ledger, died = numbered(images(9, bad), 9), Surviving(), 0

    def mortal(pixels):
        ledger.is_dead = is_bad(pixels)
        return die_at_bad(pixels)

    def in_batches():
        parts = (table.slice(at, 3) for at in (0, 3, 6))
        return pa.concat_tables(run_bounded(part, stage(mortal), ledger, ITEM) for part in parts)

    encoded = None
    while encoded is None and died < 40:
        ledger.is_dead = False
        try:
            encoded = in_batches()
        except Died:
            died += 1
    assert died == 2 * ATTEMPTS
    assert {place for place, said in enumerate(encoded["reason"].to_pylist()) if said} == bad


BUG = LookupError("a bug")


def samples(count, fail_at=(), error=BUG):
    """Begins to read so many samples; fails at rows as often as they are named."""
    left = list(fail_at)

    def start():
        for row in range(count):
            if row in left:
                left.remove(row)
                raise error
            yield Sample(row, f"k{row}", b"image")

    return start


def test_keep_reading_failures_that_do_not_last_leave_no_trace():
    start = samples(6, [0, 0, 3, 3, 5])
    assert list(keep_reading(start, "a", lambda: None)) == list(samples(6)())


@pytest.mark.parametrize("row", [0, 3, 5])
def test_keep_reading_third_failure_at_a_row_ends_in_one_rejection(row):
    *kept, last = keep_reading(samples(6, [row] * ATTEMPTS), "shards/a", lambda: 6)
    assert kept == list(samples(row)())
    assert (last.row, last.key, last.data) == (row, None, None)
    assert last.rejection.reason == "shard_damaged"
    assert last.rejection.loss == Loss(6 - row, "known")
    assert f"row {row} " in last.rejection.message
    assert "LookupError: a bug" in last.rejection.message
    assert "shards/a" in last.rejection.message


@pytest.mark.parametrize("error", [StorageError("403"), MemoryError("none"), ImportError("gzip")])
def test_keep_reading_errors_that_are_not_the_inputs_fly_at_once(error):
    found = keep_reading(samples(6, [2], error), "a", lambda: 6)
    assert [next(found).row, next(found).row] == [0, 1]
    with pytest.raises(type(error)):
        next(found)
