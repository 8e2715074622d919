"""Conditions on stored columns, against DuckDB's WHERE, and what becomes of rows."""

import datetime
from decimal import Decimal

import duckdb
import pyarrow as pa
import pytest

from vqpipe.conditions.expression import columns_of, parse
from vqpipe.conditions.judge import check, judge
from vqpipe.errors import ConfigError
from vqpipe.rejections import UNKNOWN, Reason, Rejection
from vqpipe.schema import KEPT, Sample
from vqpipe.sink.ranges import Staged
from vqpipe.stages.conditions import Conditions
from vqpipe.stages.read import read_rows

DAYS = [datetime.date(2020, 1, 1), None, datetime.date(1999, 1, 1), datetime.date(2024, 5, 5)]
TIMES = [each and datetime.datetime(each.year, each.month, each.day, 5) for each in DAYS]
TABLE = pa.table(
    {
        "i": pa.array([1, None, 300, -5], pa.int16()),
        "big": pa.array([2**53 + 1, 2**53, None, -1], pa.int64()),
        "u": pa.array([2**63 + 5, 0, None, 7], pa.uint64()),
        "f": pa.array([0.1, None, 2.5, -1.0], pa.float64()),
        "s": ["a", None, "ß", "b"],
        "large": pa.array(["a", "x", None, ""], pa.large_string()),
        "b": [True, False, None, True],
        "d": pa.array(
            [Decimal("19.99"), None, Decimal("0.10"), Decimal("-3")], pa.decimal128(10, 2)
        ),
        "day": DAYS,
        "time": pa.array(TIMES, pa.timestamp("us")),
        "l": [[1], None, [], [2]],
        "two words": [1, 2, 3, None],
        "none": pa.nulls(4, pa.string()),
    }
)
SQL = {
    "i > 0": None,
    "not i > 0": None,
    "i == 300 or f > 2": "i = 300 OR f > 2",
    "i > 70000 or i < -70000": None,
    "big == 9007199254740993": "big = 9007199254740993",
    "u > 9223372036854775807": None,
    "u == 7": "u = 7",
    "u > -1": None,
    "u > i": None,
    "i + f * 2 >= 1": None,
    "-i > 1 or f - 1 < i": None,
    "i / (i - 1) > 0": "i::DOUBLE / nullif(i - 1, 0) > 0",
    "s == 'a'": "s = 'a'",
    "s >= 'b'": None,
    "s != large": None,
    "s in ['ß', 'b', 'B']": "s IN ('ß', 'b', 'B')",
    "s not in ['ß', 'b']": "s NOT IN ('ß', 'b')",
    "i in [1, 2.5, -5]": "i IN (1, 2.5, -5)",
    "b": None,
    "not b": None,
    "b == False": "b = false",
    "(i > 0) == b": "(i > 0) = b",
    "d == 19.99": "d = 19.99",
    "d in [0.1, -3]": "d IN (0.1, -3)",
    "day >= '2020-01-01'": None,
    "'2020-01-01T05:00:00' < time": None,
    "l is not None": "l IS NOT NULL",
    "i is None or i > 5": "i IS NULL OR i > 5",
    "none == 'a'": "none = 'a'",
    "not none == 'a'": "NOT none = 'a'",
    "none != 'a' or b": None,
    "column['two words'] > 1": '"two words" > 1',
    "0 < i < 400": "0 < i AND i < 400",
    "not (s == 'a' and i > 5)": "NOT (s = 'a' AND i > 5)",
    "f > 1 or 1 < 2": None,
}


@pytest.mark.parametrize("text", SQL)
def test_judge_says_what_sql_says(text):
    (condition,) = parse(text).stored
    columns = {name: TABLE[name].combine_chunks() for name in columns_of(condition)}
    rows = TABLE  # which DuckDB finds by its name
    found = duckdb.sql(f"SELECT ({SQL[text] or text}) FROM rows").fetchall()
    assert judge(condition, columns).to_pylist() == [row[0] for row in found]
    assert len(rows) == 4
    empty = {name: each.slice(0, 0) for name, each in columns.items()}
    assert len(judge(condition, empty)) == 0


def test_judge_nan_is_equal_to_nothing_as_in_python():
    nan = pa.array([float("nan"), 1.0, None])
    for text, expected in {
        "x > 0.5": [False, True, None],
        "not x > 0.5": [True, False, None],
        "x == x": [False, True, None],
        "x != 1": [True, False, None],
        "x in [1, 2]": [False, True, None],
        "x is None": [False, False, True],
    }.items():
        assert judge(text, {"x": nan}).to_pylist() == expected


def test_judge_decimals_are_compared_by_their_digits():
    texts = [f"{cents / 1000:.3f}" for cents in range(0, 5000, 7)]
    values = pa.array(map(Decimal, texts), pa.decimal128(20, 3))
    for text in texts[::50]:
        assert judge(f"x == {text}", {"x": values}).to_pylist() == [each == text for each in texts]


@pytest.mark.parametrize(
    "text",
    ["s > 5", "s == True", "b > True", "b == 1", "l == 1", "i", "not i", "s + 1 > 2", "-b > 1",
     "time > '20x'", "day < time", "i == 'a'", "s in ['a', 1]", "l in [1]", "day > 5",
     "i == b"],
)  # fmt: skip
def test_check_types_that_do_not_go_together_are_refused_with_the_columns_type(text):
    (condition,) = parse(text).stored
    with pytest.raises(ConfigError) as refused:
        check(condition, TABLE.schema)
    kinds = {str(TABLE.schema.field(name).type) for name in columns_of(condition)}
    assert any(kind in str(refused.value) for kind in kinds)
    assert condition in str(refused.value)


KEPT_SCHEMA = pa.schema([("x", pa.int64()), ("asked", pa.string())])


def sample(row, x, asked, reason=None, **loss):
    values = {"x": pa.array([x], pa.int64()), "asked": pa.array([asked], pa.string())}
    rejection = reason and Rejection(reason, "bad", **loss)
    return Sample(row, f"key {row}", None if reason else b"image", rejection, values)


def read(samples):
    conditions = Conditions(("x > 1", "asked != 'no' or x == 7"), KEPT_SCHEMA.remove(0))
    for table in read_rows(samples, 3, Staged(), KEPT_SCHEMA, 100):
        yield conditions.leave_out(table)


def test_leave_out_says_the_first_condition_that_is_not_met():
    rows = [(5, "yes"), (1, "no"), (None, "yes"), (5, "no"), (7, "no"), (5, None), (7, None)]
    (found,) = read(sample(row, *each) for row, each in enumerate(rows))
    first, second = "x > 1", "asked != 'no' or x == 7"
    assert found["message"].to_pylist() == [None, first, first, second, None, second, None]
    assert found["reason"].to_pylist() == [
        why and "left_out" for why in found["message"].to_pylist()
    ]
    images = found["image"].to_pylist()
    assert images == [None if why else b"image" for why in found["message"].to_pylist()]
    assert f"{KEPT}asked" not in found.column_names
    assert found[f"{KEPT}x"].to_pylist() == [each[0] for each in rows]
    assert found["total"].to_pylist() == [None] * 6 + [7]


def test_leave_out_what_is_rejected_only_where_its_columns_are_known():
    """What could not be read, above all the rest of a damaged shard, is never out of sight."""
    damaged = {"loss": UNKNOWN}
    (found,) = read(
        [
            sample(0, 0, "yes", Reason.NO_IMAGE),
            sample(1, 5, "yes", Reason.NO_IMAGE),
            sample(2, None, "yes", Reason.NO_IMAGE),
            sample(3, 5, "no", Reason.DUPLICATE_KEY),
            Sample(4, "k", None, Rejection(Reason.BAD_METADATA, "bad")),
            Sample(5, None, None, Rejection(Reason.SHARD_DAMAGED, "cut", **damaged)),
        ]
    )
    reasons = ["left_out", "no_image", "no_image", "left_out", "bad_metadata", "shard_damaged"]
    assert found["reason"].to_pylist() == reasons
    assert found["lost_by"].to_pylist() == [None] * 5 + ["unknown"]


def test_leave_out_row_that_is_no_sample_stays():
    (found,) = read([])
    assert found.select(["row", "total", "reason"]).to_pylist() == [
        {"row": -1, "total": 0, "reason": None}
    ]
