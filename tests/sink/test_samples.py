"""Rows of several views a sample: what is kept of them, what an account lets pass, and commits."""

import itertools
import random
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.sink.runs import check_committed, codes_of, encoded_rows, no_rows, query, start, visible
from tests.sink.test_commit import Calls, counted, crash
from tests.storage.intercept import Crash
from vqpipe.errors import AccountingError
from vqpipe.sink import todo
from vqpipe.sink.commit import commit_rows
from vqpipe.sink.samples import Account, count_samples, first_views, in_order, settle
from vqpipe.sink.slot import Attempt
from vqpipe.sink.totals import read_totals

SCHEMA = pa.schema(
    [
        ("row", pa.int32()),
        ("view", pa.uint8()),
        ("total", pa.int32()),
        ("reason", pa.string()),
        ("made", pa.int32()),  # which of several attempts a row is of
    ]
)
NO_ROW = -1


def rows_of(number, bad, views, total=None, made=0):
    """Returns the rows of a sample, of which some views are rejected."""
    return [
        {"row": number, "view": view, "total": total, "made": made}
        | {"reason": f"bad {view}" if view in bad else None}
        for view in range(views)
    ]


def table(rows):
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def settled(rows, views):
    """Returns what has to become of rows, by plain Python."""
    found = []
    for number in sorted({row["row"] for row in rows}):
        of_it = [row for row in rows if row["row"] == number]
        bad = sorted((row for row in of_it if row["reason"]), key=lambda row: row["view"])
        if bad:
            found.append(bad[0])
            continue
        by_view = {row["view"]: row for row in reversed(of_it)}
        if len(by_view) != views:
            return None
        found += [by_view[view] for view in range(views)]
    return found


def draw(rng, views):
    """Returns rows of some samples in any order, some of them twice, and some torn perhaps."""
    numbers = rng.sample(range(9), rng.randrange(1, 7))
    total = 9 if rng.random() < 0.5 else None
    rows = []
    for number in [*numbers, *rng.choices(numbers, k=rng.randrange(3)), *[NO_ROW] * (total == 9)]:
        bad = {view for view in range(views) if rng.random() < rng.choice((0, 0, 0.3, 1))}
        bad = bad if number >= 0 else set()
        last = total if number in {max(numbers), NO_ROW} else None
        rows += rows_of(number, bad, views, last, made=len(rows))
    if rng.random() < 0.2:
        rows.pop(rng.randrange(len(rows)))
    rng.shuffle(rows)
    return rows


@pytest.mark.parametrize("views", [1, 2, 3, 10])
def test_settle_equals_plain_python_on_random_rows(views):
    rng, torn = random.Random(views), 0
    for _ in range(400):
        rows = draw(rng, views)
        expected = settled(rows, views)
        if expected is None:
            torn += 1
            with pytest.raises(AccountingError, match=f"lack some of their {views} views"):
                settle(table(rows), views)
            continue
        found = settle(table(rows), views)
        if views == 1:  # the first that came of two, rejected or not
            names = {(row["row"], row["reason"]) for row in rows}
            assert {(row["row"], row["reason"]) for row in found.to_pylist()} <= names
            assert found["row"].to_pylist() == sorted({row["row"] for row in rows})
        else:
            for row in found.to_pylist():
                assert row in rows
            seen = [{name: row[name] for name in row if name != "made"} for row in expected]
            assert found.drop_columns("made").to_pylist() == seen
        assert count_samples(found) == len({row["row"] for row in rows})
        assert settle(found, views).equals(found) or views == 1
    assert (torn > 0) == (views > 1)


@pytest.mark.parametrize("views", [1, 3])
def test_settle_nothing_is_nothing(views):
    assert len(settle(SCHEMA.empty_table(), views)) == 0
    assert count_samples(SCHEMA.empty_table()) == 0


def test_settle_total_stays_where_the_last_sample_is_rejected_at_any_view():
    for bad in [{0}, {2}, {1, 2}, {0, 1, 2}]:
        rows = [*rows_of(0, set(), 3), *rows_of(1, bad, 3, total=2)]
        found = settle(table(rows), 3)
        assert found["row"].to_pylist() == [0, 0, 0, 1]
        assert found["total"].to_pylist()[-1] == 2
        assert found["reason"].to_pylist() == [None] * 3 + [f"bad {min(bad)}"]


def test_settle_keeps_what_stands_for_no_sample_whole():
    rows = [*rows_of(4, {1}, 3), *rows_of(NO_ROW, set(), 3, total=9)]
    found = settle(table(rows[::-1]), 3)
    assert found["row"].to_pylist() == [NO_ROW] * 3 + [4]
    assert found["total"].to_pylist() == [9] * 3 + [None]


def test_settle_copies_no_row_of_good_samples():
    rows = in_order(table([*rows_of(0, set(), 3), *rows_of(1, set(), 3)]))
    found = settle(rows, 3)
    assert found.equals(rows)
    assert first_views(found, 3)["row"].to_pylist() == [0, 1]
    assert first_views(rows, 1).equals(rows)


def passes(tables, total, views):
    """Tells whether an account lets tables pass and ends at so many samples."""
    account = Account(views)
    return all(account.find_gap(each) is None for each in tables) and account.samples == total


def cut(rng, whole):
    """Returns a table in pieces, empty ones among them."""
    cuts = sorted(rng.choices(range(len(whole) + 1), k=rng.randrange(5)))
    ends = itertools.pairwise([0, *cuts, len(whole)])
    return [whole.slice(start, end - start) for start, end in ends]


@pytest.mark.parametrize("views", [1, 3, 10])
def test_account_lets_pass_all_rows_in_order_and_nothing_else(views):
    rng = random.Random(views)
    for _ in range(300):
        total = rng.randrange(7)
        bad = [rng.random() < rng.choice((0, 0.5, 1)) for _ in range(total)]
        sets = [{rng.randrange(views)} if each else set() for each in bad]
        rows = [row for i in range(total) for row in rows_of(i, sets[i], views)]
        whole = settle(table(rows), views)
        assert passes(cut(rng, whole), total, views)
        if not len(whole):
            continue
        place = rng.randrange(len(whole))
        mask = np.arange(len(whole)) != place
        assert not passes(cut(rng, whole.filter(pa.array(mask))), total, views), "one is missing"
        order = sorted([*range(len(whole)), place])
        assert not passes(cut(rng, whole.take(order)), total, views), "one is there twice"
        other = rng.randrange(len(whole))
        if other != place:
            order = list(range(len(whole)))
            order[place], order[other] = other, place
            assert not passes(cut(rng, whole.take(order)), total, views), "two change places"


TOTAL, REJECTED = 8, (2, 3, 4, 5)
"""In all views, the last one, the first one, some (`runs.encoded_rows`)."""
RETRIED = (3, 4)
"""Rejected samples that are still so when they are tried again."""


def pieces(writer, ranges, rejected=REJECTED):
    return [encoded_rows(writer, 0, TOTAL, range(*each), rejected) for each in ranges]


def commit_all(writer, tables):
    return [receipt for each in tables for receipt in commit_rows(each, writer).to_pylist()]


def test_commit_of_views_says_how_many_samples_there_are(tmp_path):
    writer = start(tmp_path, count=3)
    (receipt,) = commit_all(writer, pieces(writer, [(0, TOTAL)]))
    assert receipt == {
        "shard": 0,
        "good": 4,
        "left_out": 0,
        "rejected": 4,
        "reasons": ["corrupt"] * 4,
        "rejected_images": 4,
        "committed": TOTAL,
        "dropped": [],
    }
    check_committed(writer, [TOTAL], REJECTED)
    found = read_totals(writer.sink)
    assert (found.good, found.rows, found.rejected, found.seen) == (4, 12, 4, TOTAL)
    assert found.kept_nulls["caption"] == 0
    assert found.audited == 2  # of every other good sample the first view: of rows 0 and 6


def test_commit_of_a_torn_sample_is_an_accounting_error(tmp_path):
    writer = start(tmp_path, count=3)
    rows = encoded_rows(writer, 0, TOTAL)
    for place in (0, 4, len(rows) - 1):
        mask = pa.array(np.arange(len(rows)) != place)
        with pytest.raises(AccountingError, match="lack some of their 3 views"):
            commit_rows(rows.filter(mask), writer)
    assert visible(tmp_path, "data") == visible(tmp_path, "staging") == []


def revise(writer, ranges, tag="a1"):
    """Returns what commits the rejected samples of a shard once more, in pieces."""
    left = todo.retriable(writer.sink, {})
    if 0 not in left:
        return
    again = replace(writer, attempt=Attempt(tag, {0: left[0].revision + 1}, 10_000, "13"))
    for first, last in ranges:
        numbers = [row for row in range(first, last) if not left[0].holds(row)]
        if numbers:
            commit_rows(encoded_rows(again, 0, TOTAL, numbers, RETRIED), again)
        else:
            commit_rows(no_rows(again, 0, TOTAL), again)


@pytest.mark.parametrize(
    "ranges", [[(0, 8)], [(0, 4), (4, 8)], [(5, 8), (2, 5), (0, 4)], [(4, 6), (2, 4), (4, 6)]]
)
@pytest.mark.parametrize("count", [2, 3, 10])
def test_revision_adds_all_views_of_samples_that_pass_by_now(tmp_path, ranges, count):
    writer = start(tmp_path, count=count)
    commit_all(writer, pieces(writer, [(3, 8), (0, 3)]))
    before = check_object(writer, REJECTED)
    revise(writer, ranges)
    after = check_object(writer, RETRIED)
    assert (before["revision"], after["revision"]) == (0, 1)
    revise(writer, ranges, "a2")  # rejected in the same words: nothing changes
    assert check_object(writer, RETRIED) == after


def check_object(writer, rejected):
    """Checks a shard by DuckDB, and that its rows lie in order; returns what its footer says."""
    check_committed(writer, [TOTAL], rejected)
    rows = pq.read_table(f"{writer.sink.uri}/data/a.parquet").select(["row", "view"]).to_pylist()
    assert rows == [
        {"row": row, "view": view}
        for row in range(TOTAL)
        if row not in rejected
        for view in range(writer.product.views)
    ]
    found = read_totals(writer.sink)
    assert (found.good, found.rejected) == (TOTAL - len(rejected), len(rejected))
    (order,) = found.counted.orders({"a"}).values()
    return {"revision": order[1], "objects": found.objects}


@pytest.mark.parametrize(
    "after",
    [pytest.param(False, marks=pytest.mark.soak, id="before"), pytest.param(True, id="after")],
)
@pytest.mark.parametrize("ranges", [[(0, 8)], [(4, 8), (0, 4)]], ids=["whole", "pieces"])
def test_revision_of_views_that_crashes_at_any_call_loses_and_doubles_nothing(
    tmp_path, ranges, after
):
    for number, sink in enumerate(counted(tmp_path)):
        writer = start(sink, count=3)
        commit_all(writer, pieces(writer, [(0, TOTAL)]))
        calls = Calls(number, crash, after=after)
        try:
            with calls:
                revise(writer, ranges)
        except Crash:
            whole = {row for (row,) in query(sink, "data", "row")}
            assert whole in ({0, 1, 6, 7}, {0, 1, 2, 5, 6, 7})
            revise(writer, ranges, "a3")
        else:
            assert calls.count == number >= 2
            break
        good = {row for (row,) in query(sink, "data", "row")}
        assert good == {0, 1, 2, 5, 6, 7}
        found = query(sink, "data", "row, view, codes::UINTEGER[]")
        assert found == [(r, v, codes_of(writer, 0, r, v)) for r in sorted(good) for v in range(3)]
