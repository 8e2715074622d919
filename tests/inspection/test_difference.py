"""What differs between two sinks whose differences are known, held against DuckDB."""

import threading
from dataclasses import replace

import duckdb
import pytest

from tests.sink import sinks
from tests.sink.runs import facts_of_codes, make_run, tar_shard
from vqpipe.code_layout import CodeLayout
from vqpipe.errors import StorageError
from vqpipe.inspection import difference
from vqpipe.inspection.difference import (
    compare_codes,
    compare_fields,
    compare_plans,
    why_incomparable,
)
from vqpipe.sink.plan import Plan

NAMES = ("a", "b/c", "d")
ROWS = (9, 4, 6)


def turn(size, numbers, codes):
    """Returns a change that turns the first codes of some rows of a shard into others."""

    def change(listed):
        for row in listed:
            if row["row"] in numbers and row["codes"]:
                row["codes"][:codes] = [(code + 1) % size for code in row["codes"][:codes]]

    return change


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two sinks: the second rejects other samples, and has other codes in three of them."""
    root = tmp_path_factory.mktemp("pair")
    for name, dtype in (("first", "float32"), ("second", "bfloat16")):
        writer = sinks.begin(root / name, NAMES, dtype=dtype)
        for index, rows in enumerate(ROWS):
            is_second = name == "second"
            change = turn(16, {0: (1, 5), 2: (0,)}.get(index, ()), 2) if is_second else None
            sinks.commit(writer, index, rows, rejected=(3,) if is_second else (2,), change=change)
    return root / "first", root / "second"


def by_duckdb(first, second, what):
    """Returns what DuckDB finds over the samples that both sinks have."""
    query = """
        WITH a AS (SELECT replace(filename, $1, '') AS shard, key, view, codes
                   FROM read_parquet($1 || '/data/**/*.parquet', filename=true)),
             b AS (SELECT replace(filename, $2, '') AS shard, key, view, codes
                   FROM read_parquet($2 || '/data/**/*.parquet', filename=true)),
             pairs AS (SELECT shard, key, unnest(a.codes) AS x, unnest(b.codes) AS y
                       FROM a JOIN b USING (shard, key, view))
        SELECT """
    found = duckdb.execute(query + what + " FROM pairs", [str(first), str(second)])
    return found.fetchall()[0]


def test_compare_codes_counts_what_duckdb_counts(pair):
    found = compare_codes(*map(str, pair), NAMES)
    expected = by_duckdb(
        *pair,
        "count(*), count(*) FILTER (x <> y), count(DISTINCT (shard, key)), "
        "count(DISTINCT (shard, key)) FILTER (x <> y)",
    )
    measured = (found.codes, found.unlike_codes, found.samples, found.unlike_samples)
    assert measured == expected
    assert expected[1] == 3 * 2  # three samples, two codes each
    assert found.equal == 1 - expected[1] / expected[0]
    assert (found.only_first, found.only_second) == (3, 3)
    assert found.shards == 3
    assert found.worst == ("a", pytest.approx(4 / (7 * 6)))


def test_compare_codes_of_some_shards_reads_no_others(pair):
    found = compare_codes(*map(str, pair), ["b/c"])
    assert (found.names, found.unlike_codes, found.equal) == (["b/c"], 0, 1.0)
    assert found.samples == 2


def test_compare_codes_reads_several_shards_at_a_time(pair, monkeypatch):
    read, together = difference.read_whole, threading.Barrier(len(NAMES), timeout=5)

    def wait(*what):
        together.wait()
        return read(*what)

    monkeypatch.setattr(difference, "read_whole", wait)
    found = compare_codes(*map(str, pair), NAMES)
    assert (found.names, found.worst[0]) == (list(NAMES), "a")


def test_compare_codes_of_a_sink_with_itself_are_equal(pair):
    found = compare_codes(str(pair[1]), str(pair[1]), NAMES)
    assert (found.equal, found.unlike_samples) == (1.0, 0)
    assert (found.only_first, found.only_second) == (0, 0)


def test_compare_codes_samples_are_found_by_key_not_by_place(tmp_path):
    def reverse_keys(listed):
        for row, other in zip(listed[: len(listed) // 2], reversed(listed), strict=False):
            row["key"], other["key"] = other["key"], row["key"]

    first, second = sinks.begin(tmp_path / "first", ["a"]), sinks.begin(tmp_path / "second", ["a"])
    sinks.commit(first, 0, 4)
    sinks.commit(second, 0, 4, change=reverse_keys)
    found = compare_codes(first.sink.uri, second.sink.uri, ["a"])
    unlike = by_duckdb(first.sink.uri, second.sink.uri, "count(*) FILTER (x <> y)")[0]
    assert found.unlike_codes == unlike > 0
    assert found.samples == 4


def test_compare_codes_shard_without_common_samples_has_no_share(tmp_path):
    def rename(listed):
        for row in listed:
            row["key"] += "x"

    first, second = sinks.begin(tmp_path / "first", ["a"]), sinks.begin(tmp_path / "second", ["a"])
    sinks.commit(first, 0, 4)
    sinks.commit(second, 0, 4, change=rename)
    found = compare_codes(first.sink.uri, second.sink.uri, ["a"])
    assert (found.equal, found.only_first, found.only_second) == (None, 4, 4)


@pytest.mark.parametrize("damage", [lambda p: p.unlink(), lambda p: p.write_bytes(b"PAR1no")])
def test_compare_codes_damaged_object_is_storage_error_that_names_it(tmp_path, damage):
    writer = sinks.begin(tmp_path, ["a"])
    sinks.commit(writer, 0, 4)
    damage(tmp_path / "data" / "a.parquet")
    with pytest.raises(StorageError, match=r"data/a\.parquet"):
        compare_codes(writer.sink.uri, writer.sink.uri, ["a"])


def test_compare_fields_names_both_values_nested_ones_by_dots():
    config = {"in_channels": 3, "block_out_channels": [64, 128]}
    first = make_run(model_config=config, keep=[], facts={"versions": {}})
    other = config | {"block_out_channels": [64, 256]}
    facts = {"versions": {"torch": "2"}, "created": "now"}
    second = make_run(model_config=other, keep=["txt"], facts=facts)
    assert compare_fields(first, second) == {
        "model_config.block_out_channels": ([64, 128], [64, 256]),
        "keep": ([], ["txt"]),
        "versions.torch": (None, "2"),
    }
    assert compare_fields(second, second) == {}


def test_compare_plans_tells_changed_from_moved():
    first = Plan.of([tar_shard("a"), tar_shard("b"), tar_shard("c"), tar_shard("d")])
    second = Plan.of([tar_shard("a"), tar_shard("b", version="2"), tar_shard("e"), moved("c")])
    found = compare_plans(first, second)
    assert (found.both, found.only_first, found.only_second) == (["a", "b", "c"], ["d"], ["e"])
    assert (found.changed, found.elsewhere) == (["b"], ["c"])


def moved(name):
    shard = tar_shard(name)
    return replace(shard, files=(replace(shard.files[0], uri=f"/mirror/{name}.tar"),))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, None),
        (facts_of_codes(CodeLayout.grid(4, 4, 16)), "layouts"),
        (facts_of_codes(CodeLayout("sequence", ((6,),), (16,))), "layouts"),
        (facts_of_codes(CodeLayout.grid(2, 3, 8)), "codebook sizes"),
    ],
)
def test_why_incomparable_names_what_differs(change, words):
    found = why_incomparable(make_run(), make_run(facts=change))
    assert found is None if words is None else words in found


def test_why_incomparable_stage_without_codes_is_named():
    assert "decode" in why_incomparable(make_run(), make_run("decode"))
