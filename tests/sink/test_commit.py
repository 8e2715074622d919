import functools
import io
import itertools
import json
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.makers import jpeg, tar_of
from tests.sink.runs import (
    KEPT,
    check_committed,
    codes_of,
    encoded_rows,
    flips_of,
    no_rows,
    psnr_of,
    query,
    read_data,
    rows_left,
    start,
    visible,
)
from tests.storage.intercept import Crash, Standing
from vqpipe import schema, storage
from vqpipe.errors import AccountingError, StorageError
from vqpipe.images import Preprocess, square
from vqpipe.schema import Selection
from vqpipe.sink import layout, todo
from vqpipe.sink.commit import RECEIPT, commit_rows
from vqpipe.sink.footer import unpack_histogram
from vqpipe.sink.totals import read_totals
from vqpipe.sources import list_shards, read_shard
from vqpipe.stages.encode import encode_rows
from vqpipe.stages.open import open_rows
from vqpipe.stages.read import read_rows

TOTAL = 8
REJECTED = (2, 5)
VIEWS = (1, 3)
"""Of a sample."""


class Calls(Standing):
    """Counts the storage calls of a block and does something at the n-th: before or after it."""

    def __init__(self, number, action, *, after=False):
        self.count = 0
        self._number, self._action, self._after = number, action, after
        self._is_acting = False

    def _call(self, real, *args, **options):
        if self._is_acting:
            return real(*args, **options)
        is_due = self.count == self._number
        self.count += 1
        if is_due and not self._after:
            self._act()
        try:
            return real(*args, **options)
        finally:  # an answer that is an error is an answer
            if is_due and self._after:
                self._act()

    def _act(self):
        self._is_acting = True
        self._action()
        self._is_acting = False


def crash():
    raise Crash


def pieces(writer, ranges, index=0):
    return [encoded_rows(writer, index, TOTAL, range(*r), REJECTED) for r in ranges]


def commit_all(writer, tables):
    return [receipt for table in tables for receipt in commit_rows(table, writer).to_pylist()]


def resume(writer, index=0):
    left = rows_left(writer, index, TOTAL, REJECTED)
    if left is not None:
        commit_rows(left, writer)


def check_whole(writer):
    """Checks that what is visible in `data/` is final: nothing, or all that belongs there (P2)."""
    if visible(writer.sink.uri, "data"):
        check_committed(writer, [TOTAL], REJECTED)


def counted(tmp_path):
    """Yields an endless row of new sinks."""
    return (tmp_path / str(n) for n in itertools.count())


@pytest.mark.parametrize("count", VIEWS)
def test_commit_rows_whole_shard_needs_no_staging(tmp_path, count):
    writer = start(tmp_path, count=count)
    (receipt,) = commit_all(writer, [encoded_rows(writer, 0, TOTAL, rejected=REJECTED)])
    assert receipt == {
        "shard": 0,
        "good": 6,
        "rejected": 2,
        "left_out": 0,
        "reasons": ["corrupt"] * 2,
        "rejected_images": 2,
        "committed": TOTAL,
        "dropped": [],
    }
    assert not (tmp_path / "staging").exists()
    check_committed(writer, [TOTAL], REJECTED)


@pytest.mark.parametrize("count", VIEWS)
def test_commit_rows_shuffled_rows_of_many_shards_commit_each(tmp_path, count):
    writer = start(tmp_path, names=("a", "a/b", "c"), count=count)
    rows = pa.concat_tables([encoded_rows(writer, i, 3 + i) for i in range(3)])
    order = np.random.default_rng(0).permutation(len(rows))
    receipts = commit_rows(rows.take(order), writer)
    assert receipts.schema == RECEIPT
    assert receipts.sort_by("shard")["committed"].to_pylist() == [3, 4, 5]
    check_committed(writer, [3, 4, 5])


def test_commit_rows_nothing_gives_no_receipts(tmp_path):
    writer = start(tmp_path)
    receipts = commit_rows(encoded_rows(writer, 0, TOTAL, []), writer)
    assert (len(receipts), receipts.schema) == (0, RECEIPT)


@pytest.mark.parametrize("count", VIEWS)
@pytest.mark.parametrize("order", list(itertools.permutations([(0, 2), (2, 3), (3, 6), (6, 8)])))
def test_commit_rows_pieces_in_any_order_equal_the_whole(tmp_path, order, count):
    writer, reference = (start(tmp_path / each, count=count) for each in ("pieces", "whole"))
    commit_all(reference, pieces(reference, [(0, TOTAL)]))
    receipts = commit_all(writer, pieces(writer, order))
    assert [receipt["committed"] for receipt in receipts] == [None] * 3 + [TOTAL]
    assert sum(receipt["good"] for receipt in receipts) == 6
    check_committed(writer, [TOTAL], REJECTED)
    table, footer = read_data(writer)
    expected, expected_footer = read_data(reference)
    assert table.equals(expected)
    assert footer == expected_footer
    assert visible(tmp_path / "pieces", "staging") == []


@pytest.mark.parametrize("count", VIEWS)
@pytest.mark.parametrize(
    "ranges",
    [
        [(0, 4), (0, 4), (4, 8)],
        [(0, 5), (3, 8)],
        [(3, 8), (0, 5)],
        [(4, 8), (1, 6), (2, 3), (0, 2)],
        [(0, 1), (7, 8), (0, 8)],
        [(0, 8), (0, 8)],
        [(0, 8), (2, 5)],
        [(0, 4), (4, 8), (4, 8), (0, 4)],
    ],
)
def test_commit_rows_overlapping_and_repeated_pieces_commit_each_row_once(tmp_path, ranges, count):
    writer = start(tmp_path, count=count)
    commit_all(writer, pieces(writer, ranges))
    check_committed(writer, [TOTAL], REJECTED)


@pytest.mark.parametrize("count", VIEWS)
def test_commit_rows_rows_with_gaps_and_duplicates_are_staged_as_runs(tmp_path, count):
    writer = start(tmp_path, count=count)
    rows = encoded_rows(writer, 0, TOTAL, [0, 1, 1, 3, 6, 7, 7], REJECTED)
    commit_rows(rows, writer)
    staged = layout.parse_ranges(layout.list_staged(writer.sink.uri)["a"])
    assert staged == layout.Staged(((0, 2), (3, 4), (6, 8)), TOTAL)
    resume(writer)
    check_committed(writer, [TOTAL], REJECTED)


def test_commit_rows_nested_names_do_not_mix(tmp_path):
    writer = start(tmp_path, names=("a", "a/b"))
    commit_all(writer, pieces(writer, [(0, 4)], 0) + pieces(writer, [(4, 8)], 1))
    assert visible(tmp_path, "data") == []
    commit_all(writer, pieces(writer, [(0, 4)], 1))
    assert visible(tmp_path, "data") == ["a/b.parquet"]
    commit_all(writer, pieces(writer, [(4, 8)], 0))
    check_committed(writer, [TOTAL, TOTAL], REJECTED)


@pytest.mark.parametrize("total", [1, TOTAL])
def test_commit_rows_all_rejected_still_leaves_a_data_object(tmp_path, total):
    writer = start(tmp_path)
    commit_rows(encoded_rows(writer, 0, total, rejected=range(total)), writer)
    table, footer = read_data(writer)
    assert len(table) == 0
    assert table.schema.equals(schema.data_schema(KEPT, writer.product.codes))
    assert not unpack_histogram(footer[b"vqpipe.histogram"]).any()
    check_committed(writer, [total], range(total))


@pytest.mark.parametrize("count", VIEWS)
def test_commit_rows_empty_shard_leaves_an_empty_data_object(tmp_path, count):
    writer = start(tmp_path, count=count)
    (receipt,) = commit_all(writer, [no_rows(writer, 0, 0)])
    assert (receipt["good"], receipt["rejected"], receipt["committed"]) == (0, 0, 0)
    check_committed(writer, [0])


@pytest.mark.parametrize("count", VIEWS)
def test_commit_rows_complete_staging_is_merged_by_a_row_without_a_sample(tmp_path, count):
    writer = start(tmp_path, count=count)
    commit_all(writer, pieces(writer, [(0, 4)]))
    with Calls(2, crash), pytest.raises(Crash):  # before it looks at the staging
        commit_all(writer, pieces(writer, [(4, 8)]))
    assert layout.parse_ranges(layout.list_staged(writer.sink.uri)["a"]).complete
    (receipt,) = commit_all(writer, [rows_left(writer, 0, TOTAL)])
    assert (receipt["good"], receipt["rejected"], receipt["committed"]) == (0, 0, TOTAL)
    check_committed(writer, [TOTAL], REJECTED)


@pytest.mark.parametrize("count", VIEWS)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    "ranges", [[(0, 8)], [(0, 4), (4, 8)], [(5, 8), (0, 3), (2, 6)]], ids=["whole", "two", "three"]
)
def test_commit_rows_crash_at_every_storage_call_loses_nothing(tmp_path, ranges, after, count):
    for number, sink in enumerate(counted(tmp_path)):
        writer, durable = start(sink, count=count), set()
        calls = Calls(number, crash, after=after)
        try:
            with calls:
                for rows in pieces(writer, ranges):
                    commit_rows(rows, writer)
                    durable.update(rows["row"].to_pylist())
        except Crash:
            check_whole(writer)
            left = rows_left(writer, 0, TOTAL)
            assert left is None or durable.isdisjoint(left["row"].to_pylist())
            resume(writer)
        else:
            assert calls.count == number >= 2  # every call has had its crash
            break
        check_committed(writer, [TOTAL], REJECTED)
        resume(writer)
        check_committed(writer, [TOTAL], REJECTED)


@pytest.mark.parametrize("count", VIEWS)
@pytest.mark.parametrize("second_crash", range(4))
def test_commit_rows_crash_while_resuming_loses_nothing(tmp_path, second_crash, count):
    for number, sink in enumerate(counted(tmp_path)):
        writer = start(sink, count=count)
        try:
            with Calls(number, crash, after=True):
                commit_all(writer, pieces(writer, [(5, 8), (0, 3), (3, 5)]))
        except Crash:
            left = rows_left(writer, 0, TOTAL, REJECTED)
        else:
            break
        if left is not None:
            try:
                with Calls(second_crash, crash):
                    commit_rows(left, writer)
            except Crash:
                check_whole(writer)
        resume(writer)
        check_committed(writer, [TOTAL], REJECTED)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("staged", "first", "second"),
    [
        pytest.param([], [(0, 4)], [(4, 8)], id="halves"),
        pytest.param([], [(0, 8)], [(0, 8)], id="same_whole"),
        pytest.param([(0, 4)], [(4, 8)], [(4, 8)], id="same_half"),
        pytest.param([(0, 3)], [(3, 6), (6, 8)], [(5, 8), (2, 5)], id="overlapping"),
        pytest.param([(0, 4)], [(4, 8)], [(0, 8)], id="half_and_whole"),
    ],
)
def test_commit_rows_two_writers_interleaved_at_every_call_commit_once(
    tmp_path, staged, first, second, after
):
    for number, sink in enumerate(counted(tmp_path)):
        writer = start(sink)
        commit_all(writer, pieces(writer, staged))
        other = functools.partial(commit_all, writer, pieces(writer, second))
        with Calls(number, other, after=after) as calls:
            commit_all(writer, pieces(writer, first))
        if calls.count <= number:
            assert number >= 2
            break
        check_committed(writer, [TOTAL], REJECTED)


def test_commit_rows_two_writers_one_crashing_at_every_call_lose_nothing(tmp_path):
    for number, sink in enumerate(counted(tmp_path)):
        writer = start(sink)

        def other(writer=writer):
            commit_all(writer, pieces(writer, [(4, 8)]))
            raise Crash

        try:
            with Calls(number, other):
                commit_all(writer, pieces(writer, [(0, 4)]))
        except Crash:
            check_whole(writer)
            resume(writer)
        else:
            break
        check_committed(writer, [TOTAL], REJECTED)


@pytest.mark.parametrize("count", VIEWS)
def test_commit_rows_racing_threads_commit_once(tmp_path, count):
    ranges = [(0, 2), (2, 5), (4, 6), (6, 8)]
    for number in range(10):
        writer = start(tmp_path / str(number), count=count)
        barrier = threading.Barrier(len(ranges))

        def work(rows, writer=writer, barrier=barrier):
            barrier.wait()
            commit_rows(rows, writer)

        threads = [threading.Thread(target=work, args=(p,)) for p in pieces(writer, ranges)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        check_committed(writer, [TOTAL], REJECTED)


def test_commit_rows_crash_after_rejections_has_them_visible_before_data(tmp_path):
    writer = start(tmp_path)
    with Calls(1, crash, after=True), pytest.raises(Crash):
        commit_all(writer, pieces(writer, [(0, TOTAL)]))
    assert visible(tmp_path, "rejected") == ["a.parquet"]
    assert visible(tmp_path, "data") == []
    rejected = pq.read_table(tmp_path / "rejected" / "a.parquet")
    assert rejected.schema.equals(schema.REJECTED)
    assert rejected.to_pylist() == [
        {"key": f"a/{row}", "row": row, "reason": "corrupt", "message": f"row {row} is bad"}
        | {"lost": None, "lost_by": None}
        for row in REJECTED
    ]


def test_commit_rows_data_has_exactly_the_documented_schema(tmp_path):
    writer = start(tmp_path)
    commit_all(writer, pieces(writer, [(0, TOTAL)]))
    table, _ = read_data(writer)
    assert table.schema.remove_metadata() == pa.schema(
        [
            ("key", pa.string()),
            ("row", pa.int32()),
            ("view", pa.uint8()),
            ("codes", pa.list_(pa.uint8(), 6)),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("crop", pa.list_(pa.int32(), 4)),
            ("flip", pa.bool_()),
            ("caption", pa.string()),
            ("score", pa.float32()),
        ]
    )
    assert table.to_pylist()[3] == {
        "key": "a/4",
        "row": 4,
        "view": 0,
        "codes": codes_of(writer, 0, 4),
        "width": 104,
        "height": 50,
        "crop": [25, 0, 75, 50],
        "flip": False,
        "caption": "caption 4",
        "score": 2.0,
    }


def test_commit_rows_kept_column_named_like_one_between_stages_stays(tmp_path):
    kept = pa.schema([pa.field("shard", pa.string()), pa.field("total", pa.float64())])
    writer = start(tmp_path, kept=kept)
    rows = encoded_rows(writer, 0, 2)
    for name, values in (("kept.shard", ["x", None]), ("kept.total", [0.5, 1.5])):
        at = rows.column_names.index(name)
        rows = rows.set_column(at, rows.schema.field(at), pa.array(values, rows.schema.types[at]))
    commit_rows(rows, writer)
    assert query(tmp_path, "data", "row, shard, total") == [(0, "x", 0.5), (1, None, 1.5)]


def test_commit_rows_objects_are_dictionary_encoded_and_zstd(tmp_path):
    writer = start(tmp_path)
    commit_all(writer, pieces(writer, [(0, TOTAL)]))
    for folder in ("data", "rejected"):
        group = pq.read_metadata(tmp_path / folder / "a.parquet").row_group(0)
        columns = [group.column(i) for i in range(group.num_columns)]
        assert {column.compression for column in columns} == {"ZSTD"}
        plain = {c.path_in_schema for c in columns if "RLE_DICTIONARY" not in c.encodings}
        assert plain <= {"flip"}  # Parquet has no dictionary for booleans


@pytest.mark.fault(29)
@pytest.mark.parametrize(
    ("size", "kind"),
    [
        (2, pa.uint8()),
        (256, pa.uint8()),
        (257, pa.uint16()),
        (65_536, pa.uint16()),
        (65_537, pa.uint32()),
        (262_144, pa.uint32()),
    ],
)
@pytest.mark.parametrize("ranges", [[(0, 4)], [(2, 4), (0, 2)]], ids=["whole", "pieces"])
def test_commit_rows_any_codebook_size_comes_back_exactly(tmp_path, size, kind, ranges):
    writer = start(tmp_path, codebook_size=size, kept=pa.schema([]))
    images = np.random.default_rng(size).integers(0, size, (4, 2, 3))
    images[0, 0, 0], images[3, 1, 2] = size - 1, 0
    pixels = pa.array([bytes(12)] * 4, pa.large_binary())
    opened = pa.table(
        {
            **{f.name: pa.nulls(4, f.type) for f in schema.HEAD + schema.VIEW},
            "shard": pa.array([0] * 4, pa.int32()),
            "row": pa.array(range(4), pa.int32()),
            "total": pa.array([None, None, None, 4], pa.int32()),
            "view": pa.array([0] * 4, pa.uint8()),
            "pixels": pixels,
            "pixels_height": pa.array([2] * 4, pa.int32()),
            "pixels_width": pa.array([2] * 4, pa.int32()),
        }
    )
    encoded = encode_rows(opened, lambda _: (images, np.ones(4, bool)), writer.product.codes)
    for first, last in ranges:
        commit_rows(encoded.slice(first, last - first), writer)
    table, footer = read_data(writer)
    assert table.schema.field("codes").type == pa.list_(kind, 6)
    assert table["codes"].to_pylist() == images.reshape(4, 6).tolist()
    histogram = unpack_histogram(footer[b"vqpipe.histogram"])
    assert np.array_equal(histogram, np.bincount(images.ravel(), minlength=size))


@pytest.mark.parametrize("ranges", [[(0, TOTAL)], [(4, 8), (0, 4)]], ids=["whole", "pieces"])
def test_commit_rows_footer_equals_a_recount_by_duckdb(tmp_path, ranges):
    writer = start(tmp_path)
    commit_all(writer, pieces(writer, ranges))
    _, metadata = read_data(writer)
    footer = json.loads(metadata[b"vqpipe"])
    assert footer.pop("rejections")
    assert footer.pop("rejections_bytes")
    listed = query(tmp_path, "rejected", "key, row, message")
    examples = [
        (each["key"], each["row"], each["message"]) for each in footer["examples"]["corrupt"]
    ]
    assert examples == listed
    del footer["examples"]
    encoded = query(tmp_path, "data", "count(*)")[0][0]
    reasons = Counter(reason for (reason,) in query(tmp_path, "rejected", "reason"))
    rows = [row for (row,) in query(tmp_path, "data", "row")]
    flips = [flips_of(row) for row in rows]
    known = [psnr_of(row) for row in rows if psnr_of(row) is not None]
    audited = [count for count in flips if count is not None]
    assert 0 < len(audited) < len(flips)
    assert footer == {
        "fingerprint": json.loads((tmp_path / "run.json").read_bytes())["fingerprint"],
        "shard": "a",
        "source": {"uri": "s3://photos/a.tar", "size": 100, "version": "1"},
        "generation": 0,
        "revision": 0,
        "layout": {
            "kind": "grid",
            "shapes": [[2, 3]],
            "order": "row-major",
            "codebooks": [16],
            "bits": 4,
        },
        "codebook_size": 16,
        "seen": TOTAL,
        "good": encoded,
        "rejected": reasons.total(),
        "reasons": dict(reasons),
        "rejected_images": reasons.total(),
        "damage": None,
        "passed_over": 0,
        "kept_nulls": {"caption": 0, "score": 0},
        "audited": len(audited),
        "flips": sum(audited),
        "psnr_images": len(known),
        "psnr_db_sum": sum(known),
    }
    counts = Counter(code for (code,) in query(tmp_path, "data", "unnest(codes)"))
    histogram = unpack_histogram(metadata[b"vqpipe.histogram"])
    assert histogram.tolist() == [counts[code] for code in range(16)]


def with_codes(rows, row, codes):
    at = rows.column_names.index("codes")
    values = rows["codes"].to_pylist()
    values[row] = codes
    return rows.set_column(at, "codes", pa.array(values, rows.schema.field(at).type))


@pytest.mark.parametrize(
    "codes", [[0, 0, 16, 0, 0, 0], [255] * 6, None], ids=["one_above", "far_above", "none"]
)
@pytest.mark.parametrize("ranges", [[(0, 8)], [(0, 4), (4, 8)]], ids=["whole", "pieces"])
def test_commit_rows_impossible_codes_are_an_accounting_error(tmp_path, ranges, codes):
    writer = start(tmp_path)
    *others, last = pieces(writer, ranges)
    commit_all(writer, others)
    with pytest.raises(AccountingError):
        commit_rows(with_codes(last, len(last) - 1, codes), writer)
    assert visible(tmp_path, "data") == visible(tmp_path, "rejected") == []


@pytest.mark.parametrize("numbers", [[0, 1, 3, 4], [0, 0, 1, 3, 4], [1, 2, 3, 9]])
def test_commit_rows_as_many_rows_but_not_the_right_ones_are_an_accounting_error(tmp_path, numbers):
    writer = start(tmp_path)
    rows = encoded_rows(writer, 0, 100, numbers)
    totals = pa.array([None] * (len(rows) - 1) + [4], pa.int32())
    with pytest.raises(AccountingError):
        commit_rows(rows.set_column(rows.column_names.index("total"), "total", totals), writer)
    assert visible(tmp_path, "data") == []


def test_commit_rows_missing_row_is_never_committed(tmp_path):
    writer = start(tmp_path)
    (receipt,) = commit_all(writer, [encoded_rows(writer, 0, TOTAL, [0, 1, 2, 4, 5, 6, 7])])
    assert receipt["committed"] is None
    assert visible(tmp_path, "data") == []


def test_commit_rows_staging_of_another_run_is_refused(tmp_path):
    commit_all(writer := start(tmp_path, model="old"), pieces(writer, [(0, 4)]))
    (tmp_path / "run.json").unlink()
    new = start(tmp_path, model="new")
    with pytest.raises(StorageError):
        commit_all(new, pieces(new, [(4, 8)]))
    assert visible(tmp_path, "data") == []


def test_commit_rows_staging_vanished_without_a_commit_is_no_success(tmp_path):
    writer = start(tmp_path)
    commit_all(writer, pieces(writer, [(0, 4)]))

    def remove():
        for path in (tmp_path / "staging").rglob("*.parquet"):
            path.unlink()

    with Calls(3, remove):  # before it reads the first range
        (receipt,) = commit_all(writer, pieces(writer, [(4, 8)]))
    assert receipt["committed"] is None
    assert visible(tmp_path, "data") == []


def test_stages_in_a_plain_loop_with_crashes_equal_the_uninterrupted_run(tmp_path):
    images = {f"k{i}.jpg": jpeg(seed=i) if i % 4 else b"no image" for i in range(10)}
    storage.publish(f"{tmp_path}/photos/a.tar", tar_of(images))
    (shard,) = list_shards(f"{tmp_path}/photos").shards

    def encode(pixels):
        return pixels[:, :2, :3, 0].astype(np.int64) % 16, np.ones(len(pixels), bool)

    def run(writer):
        left = todo.unfinished(writer.sink)
        if not left:
            return
        samples = read_shard(shard, Selection(), writer.product.kept)
        for rows in read_rows(samples, 0, left[0], writer.product.kept, 3):
            opened = open_rows(rows, Preprocess(square(8)))
            commit_rows(encode_rows(opened, encode, writer.product.codes), writer)

    reference = start(tmp_path / "whole", kept=pa.schema([]))
    run(reference)
    expected, expected_footer = read_data(reference)
    assert expected["row"].to_pylist() == [i for i in range(10) if i % 4]
    for number, sink in enumerate(counted(tmp_path)):
        writer = start(sink, kept=pa.schema([]))
        try:
            with Calls(number, crash, after=bool(number % 2)):
                run(writer)
        except Crash:
            run(writer)
        else:
            break
        table, footer = read_data(writer)
        assert table.equals(expected)
        assert footer == expected_footer
        assert [row for (row,) in query(sink, "rejected", "row")] == [0, 4, 8]


@pytest.mark.s3
def test_commit_rows_in_a_bucket_equals_the_commit_on_disk(bucket, tmp_path):
    local, remote = start(tmp_path), start(bucket + "/run")
    for writer in (local, remote):
        receipts = commit_all(writer, pieces(writer, [(4, 8), (0, 5), (4, 8)]))
        assert [receipt["committed"] for receipt in receipts] == [None, TOTAL, None]
    for folder in ("data", "rejected"):
        found = pq.read_table(io.BytesIO(storage.read(f"{remote.sink.uri}/{folder}/a.parquet")))
        assert found.equals(pq.read_table(Path(local.sink.uri, folder, "a.parquet")))
    names = [
        file.uri.removeprefix(remote.sink.uri + "/") for file in storage.list_files(remote.sink.uri)
    ]
    late = ("00000000-00000000", "00000004-00000008-of-00000008")  # of the late retry
    left = [f"staging/a/{name}.parquet" for name in late]
    first = f"plans/{remote.sink.run.plan_sha256}.parquet"
    others = ["plan.parquet", first, "rejected/a.parquet", "run.json"]
    assert names == ["data/a.parquet", *others, *left]
    totals = read_totals(remote.sink)
    assert (totals.seen, totals.rejected) == (TOTAL, len(REJECTED))
    assert pc.sum(pa.array(totals.histogram)).as_py() == 6 * 6
