"""Samples of several views from the source to the sink, in a plain loop: nothing lost, or twice."""

import itertools
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from tests.makers import encoded, jpeg, picture, tar_of
from tests.sink.runs import query, start, visible
from vqpipe import storage
from vqpipe.engine.pace import Pace, hand_on
from vqpipe.images import Preprocess, square
from vqpipe.inspection.verify import verify
from vqpipe.picks import is_picked
from vqpipe.schema import Selection
from vqpipe.sink import layout, todo
from vqpipe.sink.commit import commit_rows
from vqpipe.sink.totals import read_totals
from vqpipe.sources import list_shards, read_shard
from vqpipe.stages.attempts import Notes, run_bounded
from vqpipe.stages.audit import NO_AUDIT, Audit
from vqpipe.stages.encode import encode_rows
from vqpipe.stages.open import open_rows
from vqpipe.stages.read import gather_tables, read_rows
from vqpipe.stages.step import pixels_item

HOW = Preprocess(square(8), kinds=("five-crop:2",), flip="both", resize="crop-first")
VIEWS = 10
BAD = (3, 7, 8)
"""Samples that are no images."""


def white_at(corner):
    """Returns an image of which one corner is white, and with it one view of the first five."""
    pixels = np.full((32, 32, 3), 90, np.uint8)
    y, x = {1: (0, 16), 2: (16, 0), 3: (16, 16)}[corner]
    pixels[y : y + 16, x : x + 16] = 255
    return encoded(pixels, "PNG")


def images_of(count):
    """Returns images by key; of the first of three, no other view than one is white."""
    found = {f"k{i:02}": jpeg(40, 30, seed=i) for i in range(count)}
    found |= {f"k{i:02}": b"<html>" for i in BAD if i < count}
    return found | {f"w{corner}": white_at(corner) for corner in (1, 2, 3)}


def codes(pixels):
    """Returns codes that depend on all pixels, and which images have no white view."""
    levels = pixels.reshape(len(pixels), -1).astype(np.int64)
    sums = levels @ np.arange(1, levels.shape[1] + 1)
    found = (sums[:, None] // 7 ** np.arange(6) % 16).reshape(-1, 2, 3)
    return found, (pixels < 250).any((1, 2, 3))


@pytest.fixture
def shard(tmp_path):
    storage.publish(f"{tmp_path}/photos/a.tar", tar_of(
        {f"{key}.png": data for key, data in images_of(12).items()}
    ))  # fmt: skip
    (found,) = list_shards(f"{tmp_path}/photos").shards
    return found


def run(writer, shard, cut, audit=NO_AUDIT):
    """Does what is left of a shard.

    Args:
        writer: The run.
        shard: What is read.
        cut: Samples of a block, rows that the codec is given at a time, and of its batch.
        audit: What is looked at twice.
    """
    block, rows, batch = cut
    left = todo.unfinished(writer.sink).get(0)
    if left is None:
        return
    kept = writer.product.kept
    samples = read_shard(shard, Selection(), kept)
    tables = gather_tables(read_rows(samples, 0, left, kept, block), block)
    opened = pa.concat_tables([open_rows(table, HOW) for table in tables])

    def work(table):
        def encode(part):
            return encode_rows(part, codes, writer.product.codes, audit)

        return run_bounded(table, encode, Notes(), pixels_item((8, 8)))

    pace = Pace(batch, lambda rows: rows, VIEWS)
    for start_row in range(0, len(opened), rows):
        part = opened.slice(start_row, rows)
        for done in hand_on(part, work, pace, is_fair=True):
            commit_rows(done, writer)


CUTS = [(100, 1000, 64), (1, 10, 1), (3, 30, 7), (4, 20, 3), (2, 50, 64)]


@pytest.mark.parametrize("cut", CUTS)
def test_views_however_they_are_cut_give_the_same_sink(shard, tmp_path, cut):
    reference = start(tmp_path / "whole", kept=pa.schema([]), count=VIEWS)
    run(reference, shard, CUTS[0])
    writer = start(tmp_path / "cut", kept=pa.schema([]), count=VIEWS)
    run(writer, shard, cut)
    columns = "key, row, view, codes, crop, flip"
    assert query(tmp_path / "cut", "data", columns) == query(tmp_path / "whole", "data", columns)
    check(writer)


def check(writer):
    """Checks, by DuckDB, that every sample is there with all of its views, or rejected once."""
    sink, names = writer.sink.uri, list(images_of(12))
    bad = [(names[i], i, "not_an_image") for i in BAD]
    bad += [(f"w{corner}", 11 + corner, "non_finite") for corner in (1, 2, 3)]
    assert query(sink, "rejected", "key, row, reason") == sorted(bad)
    good = [name for name in names if name not in {key for key, _, _ in bad}]
    expected = sorted(itertools.product(good, range(VIEWS)))
    assert query(sink, "data", "key, view") == expected
    flips = {(view, flip) for (view, flip) in query(sink, "data", "view, flip")}
    assert flips == {(view, view % 2 == 1) for view in range(VIEWS)}
    assert visible(sink, "staging") == []
    assert list(verify(writer.sink, is_complete=False)) == []


@pytest.mark.parametrize("lost", range(1, 6))
def test_views_of_a_run_that_ends_after_any_block_are_made_once(shard, tmp_path, lost):
    """Blocks that are not there when it ends are made by the next command, and those alone."""
    writer = start(tmp_path / "sink", kept=pa.schema([]), count=VIEWS)
    left = todo.unfinished(writer.sink)[0]
    kept = writer.product.kept
    tables = read_rows(read_shard(shard, Selection(), kept), 0, left, kept, 3)
    for number, table in enumerate(tables):
        if number % lost:
            opened = open_rows(table, HOW)
            commit_rows(encode_rows(opened, codes, writer.product.codes), writer)
    before = layout.parse_ranges(layout.list_staged(writer.sink.uri).get("a", ()))
    run(writer, shard, (2, 40, 7))
    check(writer)
    assert before.total in {None, 15}
    run(writer, shard, (2, 40, 7))  # nothing is left
    check(writer)


def test_shard_all_of_whose_views_are_staged_is_merged_by_rows_of_no_sample(tmp_path):
    writer = start(tmp_path / "sink", kept=pa.schema([]), count=VIEWS)
    kept = writer.product.kept
    staged = replace(todo.unfinished(writer.sink)[0], ranges=((0, 15),), total=15)
    (table,) = read_rows((), 0, staged, kept, 3)
    opened = open_rows(table, HOW)
    assert opened["view"].to_pylist() == list(range(VIEWS))
    assert set(opened["row"].to_pylist()) == {-1}
    (receipt,) = commit_rows(encode_rows(opened, codes, writer.product.codes), writer).to_pylist()
    assert (receipt["good"], receipt["rejected"], receipt["committed"]) == (0, 0, None)


def test_audit_looks_at_first_views_alone(shard, tmp_path):
    """And at no sample of which any view is rejected, whatever its first one was."""
    looked = []

    def decode(found):
        looked.append(len(found))
        return lambda: (np.zeros((len(found), 8, 8, 3), np.uint8), np.ones(len(found), bool))

    writer = start(tmp_path / "sink", kept=pa.schema([]), count=VIEWS)
    run(writer, shard, (4, 40, 7), Audit(1.0, decode, lambda pixels: lambda: codes(pixels)))
    found = read_totals(writer.sink)
    assert sum(looked) == 12  # first views of good samples, and of those with another white one
    assert (found.audited, found.flips) == (9, 0)
    assert found.psnr_images == 9
    names = [key for key, _ in query(writer.sink.uri, "data", "key, view")]
    assert {is_picked(key, 1.0) for key in names} == {True}


def test_codec_that_fails_at_one_view_costs_the_sample_and_no_other(tmp_path):
    images = {f"k{i}": encoded(picture(40, 30, i), "PNG") for i in range(6)}
    storage.publish(f"{tmp_path}/photos/a.tar", tar_of({f"{k}.png": d for k, d in images.items()}))
    (shard,) = list_shards(f"{tmp_path}/photos").shards
    writer = start(tmp_path / "sink", kept=pa.schema([]), count=VIEWS)
    kept = writer.product.kept
    (table,) = read_rows(
        read_shard(shard, Selection(), kept), 0, todo.unfinished(writer.sink)[0], kept, 99
    )
    opened = open_rows(table, HOW)
    fatal = opened["pixels"][2 * VIEWS + 6].as_py(), opened["pixels"][5 * VIEWS].as_py()

    def encode(part):
        def raising(pixels):
            if any(image.tobytes() in fatal for image in pixels):
                raise LookupError("no codes for this one")
            return codes(pixels)

        return encode_rows(part, raising, writer.product.codes)

    made = run_bounded(opened, encode, Notes(), pixels_item((8, 8)))
    assert made["reason"].null_count == 6 * VIEWS - 2
    commit_rows(made, writer)
    assert query(writer.sink.uri, "rejected", "row, reason") == [
        (2, "codec_failed"),
        (5, "codec_failed"),
    ]
    assert query(writer.sink.uri, "data", "row, view") == [
        (row, view) for row in (0, 1, 3, 4) for view in range(VIEWS)
    ]
