import itertools
import random

import numpy as np
import pytest

from vqpipe import storage
from vqpipe.sink import layout
from vqpipe.sink.ranges import Staged, ranges_of


@pytest.mark.parametrize("seed", range(200))
def test_staged_random_ranges_agree_with_a_set_of_rows(seed):
    rng = random.Random(seed)
    total = rng.randrange(12)
    cuts = [sorted(rng.sample(range(total + 1), 2)) for _ in range(rng.randrange(6)) if total]
    ranges = tuple((first, last) for first, last in cuts)
    rows = {row for first, last in ranges for row in range(first, last)}
    staged = Staged(ranges, total)
    assert staged.complete == (rows == set(range(total)))
    assert [row for row in range(-1, total + 2) if staged.holds(row)] == sorted(rows)
    assert not Staged(ranges).complete


@pytest.mark.parametrize("name", ["a", "a/b", "00000000-00000004", "x-of-00000009"])
@pytest.mark.parametrize("ranges", [((0, 4), (4, 9)), ((0, 2**31 - 1),), ((3, 4), (0, 4), (2, 9))])
def test_parse_ranges_of_range_uris_gives_them_back(name, ranges):
    total = max(last for _, last in ranges)
    uris = [layout.range_uri("/s", name, r, total if r[1] == total else None) for r in ranges]
    assert layout.parse_ranges(uris) == Staged(ranges, total)
    assert layout.parse_ranges(uris).complete == (min(ranges)[0] == 0)


def test_parse_ranges_foreign_objects_are_no_ranges():
    assert layout.parse_ranges(["/s/staging/a/notes.txt", "/s/staging/a/x-00000000.parquet"]) == (
        Staged()
    )


def test_staged_shards_with_nested_names_do_not_see_each_other(tmp_path):
    sink = str(tmp_path)
    for name, rows, total in (("a", (0, 4), None), ("a/b", (2, 5), 5), ("a/b/c", (0, 1), 1)):
        storage.publish(layout.range_uri(sink, name, rows, total), b"rows")
    assert {name: layout.parse_ranges(uris) for name, uris in layout.list_staged(sink).items()} == {
        "a": Staged(((0, 4),), None),
        "a/b": Staged(((2, 5),), 5),
        "a/b/c": Staged(((0, 1),), 1),
    }


def test_committed_lists_the_names_of_shards(tmp_path):
    sink = str(tmp_path)
    assert layout.list_committed(sink) == {}
    assert layout.list_staged(sink) == {}
    for name in ("a", "a/b", "ü.x"):
        storage.publish(layout.data_uri(sink, name), b"rows")
    (tmp_path / "data" / "notes.txt").write_text("no shard")
    assert layout.list_committed(sink).keys() == {"a", "a/b", "ü.x"}


def test_parse_ranges_of_another_edition_are_not_seen():
    uris = [
        layout.range_uri("/s", "a", (0, 4), None),
        layout.range_uri("/s", "a", (4, 6), 6, "g1"),
        layout.range_uri("/s", "a", (0, 4), None, "r1t0f"),
    ]
    assert layout.parse_ranges(uris) == Staged(((0, 4),), None)
    assert layout.parse_ranges(uris, "g1") == Staged(((4, 6),), 6)
    assert layout.parse_ranges(uris, "r1t0f") == Staged(((0, 4),), None)
    assert layout.pick_ranges(uris, "g1") == uris[1:2]


@pytest.mark.parametrize(
    ("ranges", "least", "kept", "total"),
    [
        pytest.param([(0, 4, None), (4, 8, 8)], 0, [0, 1], 8, id="one_reading"),
        pytest.param([(2, 5, 5), (5, 8, 8)], 0, [1], 8, id="another_end_further_on"),
        pytest.param([(0, 4, None), (2, 5, 5), (5, 7, None)], 0, [0, 2], None, id="rows_behind"),
        pytest.param([(2, 5, 5), (3, 7, 7), (4, 9, 9)], 0, [2], 9, id="three_ends"),
        pytest.param([(2, 5, 5)], 8, [], None, id="rows_behind_in_the_object"),
        pytest.param([(2, 8, 8)], 8, [0], 8, id="the_same_end_as_the_object"),
    ],
)
def test_pick_ranges_of_readings_with_other_ends_takes_the_furthest(ranges, least, kept, total):
    uris = [layout.range_uri("/s", "a", (first, last), end) for first, last, end in ranges]
    assert layout.pick_ranges(uris, least=least) == [uris[i] for i in kept]
    found = layout.parse_ranges(uris, least=least)
    assert found == Staged(tuple(ranges[i][:2] for i in kept), total)


@pytest.mark.parametrize(
    ("ranges", "kept", "total"),
    [
        pytest.param([(0, 4, None), (4, 6, 6)], [0, 1], 6, id="nothing_else"),
        pytest.param([(3, 6, None), (5, 6, 6)], [0], None, id="another_row_in_its_place"),
        pytest.param([(0, 7, None), (5, 6, 6)], [0], None, id="rows_behind"),
        pytest.param([(4, 6, 6), (5, 6, 6)], [0, 1], 6, id="cut_there_twice"),
        pytest.param([(0, 5, None), (5, 6, 6)], [0, 1], 6, id="rows_before"),
    ],
)
def test_pick_ranges_row_in_place_of_what_stands_for_the_rest_refutes_it(ranges, kept, total):
    uris = [
        layout.range_uri("/s", "a", (first, last), end, is_cut=end is not None)
        for first, last, end in ranges
    ]
    assert layout.pick_ranges(uris) == [uris[i] for i in kept]
    assert layout.parse_ranges(uris).total == total


@pytest.mark.parametrize("row", [4, 5, 6])
def test_pick_ranges_end_that_was_read_counts_more_than_one_that_was_not(row):
    cut = layout.range_uri("/s", "a", (row, row + 1), row + 1, is_cut=True)
    read = layout.range_uri("/s", "a", (4, 6), 6)
    assert layout.pick_ranges([cut, read]) == [read]


@pytest.mark.parametrize(
    ("edition", "order", "tag", "is_so"),
    [
        ("", (0, 0), None, True),
        ("", (1, 0), None, True),
        ("g1", (0, 0), None, False),
        ("g1", (0, 7), None, False),
        ("g1", (1, 0), None, True),
        ("g9", (10, 0), None, True),
        ("r1tx", (0, 0), None, False),
        ("r1tx", (0, 0), "y", False),
        ("r1tx", (0, 0), "x", True),
        ("r1tx", (0, 1), "y", True),
        ("g1r2tx", (1, 1), None, False),
        ("g1r2tx", (2, 0), None, True),
        ("other", (9, 9), None, False),
    ],
)
def test_is_used_up_says_so_of_what_makes_no_later_object(edition, order, tag, is_so):
    uri = layout.range_uri("/s", "a", (0, 4), 4, edition)
    assert layout.is_used_up(uri, order, tag) == is_so


def test_edition_of_every_object_is_another():
    editions = {layout.edition((g, r), tag) for g in (0, 1, 12) for r in (0, 1, 12) for tag in "xy"}
    assert len(editions) == 3 + 3 * 2 * 2


@pytest.mark.parametrize("seed", range(50))
def test_ranges_of_rows_cover_exactly_them(seed):
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.integers(0, 20, rng.integers(0, 15)))
    ranges = ranges_of(rows)
    assert [row for first, last in ranges for row in range(first, last)] == sorted(set(rows))
    assert all(last < first for (_, last), (first, _) in itertools.pairwise(ranges))
