import itertools
from contextlib import closing

import numpy as np
import pyarrow as pa
import pytest

from tests.images.test_preprocess import Three
from tests.makers import jpeg, tar_of
from vqpipe import schema, storage
from vqpipe.code_layout import CodeLayout
from vqpipe.errors import ConfigError
from vqpipe.images import Preprocess, open_image, square, views_of
from vqpipe.images.sandbox import Sandbox
from vqpipe.rejections import Loss, Reason, Rejection
from vqpipe.schema import Sample, Selection
from vqpipe.sink.ranges import Staged
from vqpipe.sources import kept_schema, list_shards, read_shard
from vqpipe.stages import read as stages
from vqpipe.stages.audit import Audit
from vqpipe.stages.columns import images_by_shape
from vqpipe.stages.encode import encode_rows
from vqpipe.stages.open import compressed_of, open_rows
from vqpipe.stages.read import NO_ROW, gather_tables, read_rows

SELECTION = Selection(keep=("txt",))
HOW = Preprocess(square(8))
NOTHING = Staged()
CODES = schema.codes_field(CodeLayout.grid(2, 2, 65_536))


def make_shard(folder, images):
    """Writes a tar of images by key, each with a text, and returns it as a shard with its kept."""
    members = [(f"{key}.{e}", d) for key, data in images.items() for e, d in
               (("jpg", data), ("txt", f"text of {key}".encode()))]  # fmt: skip
    storage.replace(f"{folder}/a.tar", tar_of(members))
    listing = list_shards(str(folder))
    return listing.shards[0], kept_schema(listing, SELECTION)


@pytest.fixture
def eight(tmp_path):
    return make_shard(tmp_path, {f"k{i}": jpeg(seed=i) for i in range(8)})


def read(shard_and_kept, staged=NOTHING, block_rows=100):
    shard, kept = shard_and_kept
    samples = read_shard(shard, SELECTION, kept)
    return list(read_rows(samples, 5, staged, kept, block_rows))


def column(tables, name):
    return pa.concat_tables(tables)[name].to_pylist()


def fake_encode(pixels):
    """Codes that depend on every corner of an image; images with a dark corner are not finite."""
    corners = pixels[:, :: pixels.shape[1] - 1, :: pixels.shape[2] - 1]
    return corners.astype(np.int64) @ [256, 1, 0], corners[:, 0, 0, 0] >= 128


def begun(work):
    """Returns work that is begun first and waited for later, as a codec's for an audit."""
    return lambda items: lambda: work(items)


def pixels_table(images):
    """Returns what `open_rows` would: (H, W, 3) uint8 arrays, or None for a rejection."""
    rows = [
        {
            "shard": 0,
            "row": i,
            "key": f"k{i}",
            "reason": "corrupt" if image is None else None,
            **pixels_of(image),
        }
        for i, image in enumerate(images)
    ]
    return pa.Table.from_pylist(rows, schema=schema.opened_schema(pa.schema([])))


def pixels_of(image):
    """Returns the columns of an array's pixels; none for None."""
    if image is None:
        return {}
    height, width, _ = image.shape
    return {"pixels": image.tobytes(), "pixels_height": height, "pixels_width": width}


def random_images(count, side=8, seed=0):
    rng = np.random.default_rng(seed)
    return list(rng.integers(0, 256, (count, side, side, 3), np.uint8))


@pytest.mark.parametrize("block_rows", [1, 3, 8, 100])
def test_read_rows_whole_shard_numbers_rows_and_marks_the_last(eight, block_rows):
    tables = read(eight, block_rows=block_rows)
    assert all(len(table) <= block_rows for table in tables)
    assert all(table.schema == schema.read_schema(eight[1]) for table in tables)
    assert column(tables, "row") == list(range(8))
    assert column(tables, "total") == [None] * 7 + [8]
    assert column(tables, "shard") == [5] * 8
    assert column(tables, "key") == [f"k{i}" for i in range(8)]
    assert column(tables, "image") == [jpeg(seed=i) for i in range(8)]
    assert column(tables, "kept.txt") == [f"text of k{i}" for i in range(8)]
    assert column(tables, "reason") == [None] * 8


def test_read_rows_large_images_start_new_tables(eight, monkeypatch):
    monkeypatch.setattr(stages, "BLOCK_BYTES", len(jpeg()) // 2)
    tables = read(eight)
    assert [len(table) for table in tables] == [1] * 8
    assert column(tables, "row") == list(range(8))


@pytest.mark.parametrize("sizes", [[9] * 20, [10, 1, 10, 10, 30, 1, 1], [40], [0] * 9, [4, 7, 4]])
def test_read_rows_tables_hold_no_more_bytes_than_they_may_or_one_image(monkeypatch, sizes):
    monkeypatch.setattr(stages, "BLOCK_BYTES", 20)
    samples = [Sample(row, f"k{row}", bytes(size)) for row, size in enumerate(sizes)]
    tables = list(read_rows(samples, 5, NOTHING, pa.schema([]), 4))
    assert column(tables, "row") == list(range(len(sizes)))
    held = [[len(image) for image in table["image"].to_pylist()] for table in tables]
    assert all(sum(sizes) <= 20 or len(sizes) == 1 for sizes in held)
    assert all(len(sizes) <= 4 for sizes in held)
    joined = [sum(a) + b[0] > 20 or len(a) == 4 for a, b in itertools.pairwise(held)]
    assert all(joined), "a table is not begun before it has to be"


@pytest.mark.parametrize("lengths", [[1] * 50, [3, 8, 1, 1, 8, 20], [20], [], [5, 5, 5]])
def test_gather_tables_small_ones_come_together_and_none_is_cut(lengths):
    first = [sum(lengths[:i]) for i in range(len(lengths))]
    tables = [pa.table({"row": range(at, at + n)}) for at, n in zip(first, lengths, strict=True)]
    found = list(gather_tables(iter(tables), 10))
    assert [row for table in found for row in table["row"].to_pylist()] == list(range(sum(lengths)))
    assert all(len(table) <= 10 or len(table) in lengths for table in found)
    assert all(len(a) >= 5 or len(a) + len(b) > 10 for a, b in itertools.pairwise(found))


def test_gather_tables_large_ones_go_on_at_once():
    seen = []

    def tables():
        for row in range(3):
            seen.append(row)
            yield pa.table({"row": [row] * 8})

    for row, table in enumerate(gather_tables(tables(), 10)):
        assert table["row"].to_pylist() == [row] * 8
        assert seen[-1] == row


@pytest.mark.parametrize("block_rows", [1, 2, 100])
@pytest.mark.parametrize(
    ("staged", "left"),
    [
        (Staged(((0, 3),)), [3, 4, 5, 6, 7]),
        (Staged(((2, 3), (4, 6))), [0, 1, 3, 6, 7]),
        (Staged(((0, 5), (3, 7))), [7]),
        (Staged(((5, 8),), 8), [0, 1, 2, 3, 4]),
        (Staged(((0, 3), (4, 8)), 8), [3]),
    ],
)
def test_read_rows_staged_rows_are_left_out(eight, staged, left, block_rows):
    tables = read(eight, staged, block_rows)
    assert column(tables, "row") == left
    total_of_last = 8 if left[-1] == 7 else None
    assert column(tables, "total") == [None] * (len(left) - 1) + [total_of_last]
    assert column(tables, "key") == [f"k{i}" for i in left]


def test_read_rows_empty_shard_is_one_row_without_a_sample(tmp_path):
    (table,) = read(make_shard(tmp_path, {}))
    assert (table["row"].to_pylist(), table["total"].to_pylist()) == ([NO_ROW], [0])
    assert table["shard"].to_pylist() == [5]


def test_read_rows_all_staged_reads_nothing_of_the_source(eight):
    storage.delete(eight[0].files[0].uri)
    (table,) = read(eight, Staged(((0, 5), (4, 8)), 8))
    assert (table["row"].to_pylist(), table["total"].to_pylist()) == ([NO_ROW], [8])


@pytest.mark.parametrize(
    ("staged", "lost", "total"),
    [
        pytest.param(Staged(), [3], 4, id="nothing"),
        pytest.param(Staged(((0, 3),)), [3], 4, id="all_before"),
        pytest.param(Staged(((2, 4),)), [4], 5, id="the_row_in_its_place"),
        pytest.param(Staged(((5, 7),)), [3, 4, 7], 8, id="rows_behind"),
        pytest.param(Staged(((5, 7),), 7), [3, 4], None, id="rows_behind_to_the_end"),
        pytest.param(Staged(((0, 2), (4, 5)), 7), [3, 5, 6], 7, id="the_end_is_known"),
    ],
)
def test_read_rows_of_a_shard_that_could_once_be_read_further_lose_none_without_a_word(
    staged, lost, total
):
    samples = [Sample(row, f"k{row}", b"image") for row in range(3)]
    cut = Rejection(Reason.SHARD_DAMAGED, "cut", Loss(9, "estimated"))
    samples.append(Sample(3, None, rejection=cut))
    (table,) = read_rows(samples, 5, staged, pa.schema([]), 100)
    rows = dict(zip(table["row"].to_pylist(), table["reason"].to_pylist(), strict=True))
    assert [row for row in rows if rows[row] == "shard_damaged"] == lost
    assert [row for row in rows if rows[row] is None] == [
        r for r in range(3) if not staged.holds(r)
    ]
    assert table["total"].drop_null().to_pylist() == ([] if total is None else [total])
    numbers = dict(zip(table["row"].to_pylist(), table["lost"].to_pylist(), strict=True))
    is_open = staged.total is None  # nobody knows where it ends
    assert [numbers[row] for row in lost] == [1] * (len(lost) - is_open) + [12 - lost[-1]] * is_open


def test_read_rows_rejected_samples_stay_as_rows(tmp_path):
    data = tar_of([("a.jpg", jpeg()), ("b.txt", b"x"), ("c.jpg", jpeg(seed=1))])
    cut = data.index(jpeg(seed=1)) + 100
    storage.publish(f"{tmp_path}/a.tar", data[:cut])
    listing = list_shards(str(tmp_path))
    tables = read((listing.shards[0], kept_schema(listing, SELECTION)))
    rows = pa.concat_tables(tables).to_pylist()
    assert [row["row"] for row in rows] == list(range(len(rows)))
    assert rows[-1]["total"] == len(rows)
    assert all((row["image"] is None) == (row["reason"] is not None) for row in rows)
    assert rows[-1]["reason"] == "shard_damaged"


@pytest.mark.fault(18)
def test_open_rows_bad_images_become_rejections_in_their_place(tmp_path):
    images = {"a": jpeg(40, 30), "b": b"", "c": b"<html>", "d": jpeg()[:200], "e": jpeg(9, 90)}
    shard = make_shard(tmp_path, images)
    opened = open_rows(pa.concat_tables(read(shard, block_rows=2)), HOW)
    assert opened.schema == schema.opened_schema(shard[1])
    rows = opened.to_pylist()
    assert [row["key"] for row in rows] == list("abcde")
    assert [row["reason"] for row in rows] == [None, "empty", "not_an_image", "truncated", None]
    assert [row["message"] is None for row in rows] == [True, False, False, False, True]
    assert [row["pixels"] is None for row in rows] == [False, True, True, True, False]
    assert [row["total"] for row in rows] == [None] * 4 + [5]
    assert [row["kept.txt"] for row in rows] == [f"text of {key}" for key in "abcde"]
    assert [row["width"] for row in rows] == [40, None, None, None, 9]
    assert [row["height"] for row in rows] == [30, None, None, None, 90]
    assert rows[0]["crop"] == [5, 0, 35, 30]
    assert rows[4]["crop"] == [0, 40, 9, 49]
    assert [row["view"] for row in rows] == [0] * 5
    assert rows[0]["pixels"] == open_image(images["a"], HOW).pixels.tobytes()
    assert rows[4]["pixels"] == open_image(images["e"], HOW).pixels.tobytes()


def test_open_rows_in_a_child_gives_the_same(eight):
    table = pa.concat_tables(read(eight))
    with closing(Sandbox(HOW)) as sandbox:
        for rows in (table, table.slice(2, 5), table.slice(0, 0)):
            opened = open_rows(rows, HOW, lambda images, _: sandbox.open(images))
            assert opened.equals(open_rows(rows, HOW))


def test_compressed_of_takes_values_from_where_they_lie():
    image = pa.array([b"ab", None, b"", b"cde", None, b"f"], pa.large_binary())
    assert list(compressed_of(pa.chunked_array([image]))) == image.to_pylist()
    chunks = pa.chunked_array([image.slice(1, 3), image.slice(0, 0), image.slice(3)])
    assert list(compressed_of(chunks)) == chunks.to_pylist()
    assert len(compressed_of(pa.chunked_array([], pa.large_binary()))) == 0


def test_compressed_of_leaves_out_what_lies_under_a_null():
    hidden = pa.Array.from_buffers(
        pa.large_binary(),
        3,
        [pa.py_buffer(b"\5"), pa.py_buffer(np.array([0, 2, 4, 6])), pa.py_buffer(b"ab--cd")],
    )
    assert list(compressed_of(pa.chunked_array([hidden]))) == [b"ab", None, b"cd"]


def test_open_rows_rejections_of_the_reader_keep_their_reason(tmp_path):
    storage.publish(f"{tmp_path}/a.tar", tar_of([("a.txt", b"no image"), ("b.jpg", jpeg())]))
    listing = list_shards(str(tmp_path))
    (table,) = read((listing.shards[0], kept_schema(listing, SELECTION)))
    opened = open_rows(table, HOW)
    assert opened["reason"].to_pylist() == table["reason"].to_pylist() == ["no_image", None]
    assert opened["message"].to_pylist() == table["message"].to_pylist()


def test_open_and_encode_row_without_a_sample_passes_through(tmp_path):
    (table,) = read(make_shard(tmp_path, {}))
    encoded = encode_rows(open_rows(table, HOW), fake_encode, CODES)
    (row,) = encoded.to_pylist()
    assert (row["shard"], row["row"], row["total"]) == (5, NO_ROW, 0)
    assert all(row[name] is None for name in ("key", "reason", "codes", "width"))


def test_open_rows_image_of_several_views_is_as_many_rows(tmp_path):
    images = {"a": jpeg(80, 48), "b": b"<html>", "c": jpeg(80, 48, seed=1)}
    shard = make_shard(tmp_path, images)
    opened = open_rows(pa.concat_tables(read(shard)), Three(((12, 20),)))
    assert opened.schema == schema.opened_schema(shard[1])
    opened.validate(full=True)
    rows = opened.to_pylist()
    assert [row["key"] for row in rows] == ["a"] * 3 + ["b"] * 3 + ["c"] * 3
    assert [row["row"] for row in rows] == [0] * 3 + [1] * 3 + [2] * 3
    assert [row["kept.txt"] for row in rows] == [f"text of {row['key']}" for row in rows]
    assert [row["reason"] for row in rows] == [None] * 3 + ["not_an_image"] * 3 + [None] * 3
    assert [row["view"] for row in rows] == [0, 1, 2] * 3
    assert [row["flip"] for row in rows] == [False, True, False, *[None] * 3, False, True, False]
    assert [row["pixels_height"] for row in rows] == [12] * 3 + [None] * 3 + [12] * 3
    assert [row["pixels_width"] for row in rows] == [20] * 3 + [None] * 3 + [20] * 3
    for first, key in ((0, "a"), (6, "c")):
        views = views_of(images[key], Three(((12, 20),)))
        for row, view in zip(rows[first : first + 3], views, strict=True):
            assert row["pixels"] == view.pixels.tobytes()
            assert row["crop"] == list(view.crop)
    for start in range(9):
        part = encode_rows(opened.slice(start, 3), fake_encode, CODES)
        assert part.equals(encode_rows(opened, fake_encode, CODES).slice(start, 3))


@pytest.mark.parametrize("chunks", [1, 3])
def test_open_rows_slices_and_chunks_give_the_same_as_the_whole(eight, chunks):
    (table,) = read(eight)
    whole = open_rows(table, HOW)
    size = -(-8 // chunks)
    parts = [table.slice(i, size) for i in range(0, 8, size)]
    assert open_rows(pa.concat_tables(parts), HOW).equals(whole)
    assert open_rows(table.slice(3, 4), HOW).equals(whole.slice(3, 4))


def test_encode_rows_codes_are_those_of_their_images():
    images = random_images(9)
    images[2] = images[8] = None
    table = pixels_table(images)
    encoded = encode_rows(table, fake_encode, CODES)
    assert encoded.schema == schema.encoded_schema(pa.schema([]), CODES)
    for row, image in zip(encoded.to_pylist(), images, strict=True):
        if image is None:
            assert (row["reason"], row["codes"]) == ("corrupt", None)
            continue
        corners = [image[y, x] for y in (0, 7) for x in (0, 7)]
        if image[0, 0, 0] < 128:
            assert (row["reason"], row["codes"]) == ("non_finite", None)
            assert row["message"]
        else:
            assert row["reason"] is None
            assert row["codes"] == [int(r) * 256 + int(g) for r, g, _ in corners]


def test_encode_rows_only_real_images_reach_the_codec():
    images = random_images(5)
    images[0] = images[3] = None
    seen = []

    def encode(pixels):
        seen.extend(pixels)
        return fake_encode(pixels)

    encode_rows(pixels_table(images), encode, CODES)
    assert np.array_equal(seen, [image for image in images if image is not None])


def test_encode_rows_nothing_but_rejections_needs_no_codec():
    images = [*random_images(1), None, None]
    table = pixels_table(images).slice(1)
    encoded = encode_rows(table, None, CODES)
    assert encoded["codes"].null_count == len(encoded) == 2
    assert encode_rows(table.slice(0, 0), None, CODES).schema == encoded.schema


@pytest.mark.parametrize("codebook_size", [65_536, 65_537])
def test_encode_rows_slices_and_chunks_give_the_same_as_the_whole(codebook_size):
    images = random_images(21)
    images[4] = images[9] = None
    field = schema.codes_field(CodeLayout.grid(2, 2, codebook_size))
    table = pixels_table(images)
    whole = encode_rows(table, fake_encode, field)
    for start in range(21):
        for size in (1, 2, 9):
            part = encode_rows(table.slice(start, size), fake_encode, field)
            assert part.equals(whole.slice(start, size))
    chunked = pa.concat_tables([table.slice(0, 5), table.slice(5, 0), table.slice(5)])
    assert encode_rows(chunked, fake_encode, field).equals(whole)
    assert whole["codes"].chunk(0).values.null_count == 0
    whole.validate(full=True)


def test_encode_rows_pixels_of_any_shape_meet_the_codec_with_their_like():
    rng = np.random.default_rng(3)
    shapes = [(8, 8), (4, 6), (8, 8), None, (4, 6), (3, 90), (8, 8)]
    images = [shape and rng.integers(128, 256, (*shape, 3), np.uint8) for shape in shapes]
    seen = []

    def encode(pixels):
        seen.append(pixels.shape)
        return fake_encode(pixels)

    encoded = encode_rows(
        pixels_table(images), encode, CODES, Audit(1.0, reference=begun(fake_encode))
    )
    assert sorted(seen) == [(1, 3, 90, 3), (2, 4, 6, 3), (3, 8, 8, 3)]
    assert encoded["flips"].to_pylist() == [shape and 0 for shape in shapes]
    for image, codes in zip(images, encoded["codes"].to_pylist(), strict=True):
        alone = None if image is None else fake_encode(image[np.newaxis])[0].ravel().tolist()
        assert codes == alone
    assert not set(encoded.column_names) & {field.name for field in schema.PIXELS}


def test_images_by_shape_are_no_copies_where_they_lie_one_behind_the_other(eight):
    opened = open_rows(pa.concat_tables(read(eight)), HOW)
    _, _, data = opened["pixels"].chunk(0).buffers()
    flat = np.frombuffer(data, np.uint8)
    for table in (opened, opened.slice(2, 5)):
        ((rows, images),) = images_by_shape(table)
        assert np.shares_memory(images, flat)
        assert rows.tolist() == list(range(len(table)))
        assert [image.tobytes() for image in images] == table["pixels"].to_pylist()


def test_encode_rows_without_an_audit_looks_at_nothing():
    encoded = encode_rows(pixels_table(random_images(4)), fake_encode, CODES)
    assert encoded["flips"].null_count == encoded["psnr_db"].null_count == 4


def test_encode_rows_flips_are_counted_on_the_audited_images_alone():
    images = [np.maximum(image, 128) for image in random_images(12)]
    images[5] = None
    table = pixels_table(images)
    seen = []

    def reference(pixels):
        seen.extend(pixels)
        codes, finite = fake_encode(pixels)
        codes[:, 0, 1] += 1  # one flip an image
        return codes, finite

    encoded = encode_rows(table, fake_encode, CODES, Audit(reference=begun(reference)))
    assert encoded["flips"].to_pylist() == [1, *[None] * 11]  # the first of the shard
    encoded = encode_rows(table, fake_encode, CODES, Audit(1.0, reference=begun(reference)))
    assert encoded["flips"].to_pylist() == [1] * 5 + [None] + [1] * 6
    assert len(seen) == 1 + 11
    assert encoded["psnr_db"].null_count == 12


def test_encode_rows_non_finite_images_are_not_audited():
    images = [np.full((8, 8, 3), level, np.uint8) for level in (10, 200, 20)]
    audit = Audit(1.0, reference=begun(fake_encode))
    encoded = encode_rows(pixels_table(images), fake_encode, CODES, audit)
    assert encoded["flips"].to_pylist() == [None, 0, None]


def test_encode_rows_psnr_is_that_of_what_the_codes_decode_to():
    images = [np.maximum(image, 128) for image in random_images(4)]
    seen = []

    def decode(codes):  # off by 16 levels, then equal, then not finite, then by 1
        seen.extend(codes)
        off = np.array([16, 0, 5, 1])[:, None, None, None]
        return np.stack(images) - off.astype(np.uint8), np.array([True, True, False, True])

    encoded = encode_rows(pixels_table(images), fake_encode, CODES, Audit(1.0, begun(decode)))
    expected = [20 * np.log10(255 / 16), 100.0, None, 20 * np.log10(255)]
    assert encoded["psnr_db"].to_pylist() == [e and pytest.approx(e, abs=1e-4) for e in expected]
    np.testing.assert_array_equal(seen, fake_encode(np.stack(images))[0])
    assert encoded["flips"].null_count == 4


@pytest.mark.parametrize("error", [RuntimeError("no kernel"), ConfigError("out of memory")])
def test_encode_rows_audit_that_fails_costs_no_codes(error):
    def decode(_):
        raise error

    images = [np.maximum(image, 128) for image in random_images(3)]
    encoded = encode_rows(pixels_table(images), fake_encode, CODES, Audit(1.0, begun(decode)))
    plain = encode_rows(pixels_table(images), fake_encode, CODES)
    assert encoded.equals(plain)
    assert encoded["psnr_db"].null_count == 3
    black = np.zeros((3, 8, 8, 3), np.uint8), np.ones(3, bool)
    audit = Audit(
        1.0, begun(lambda _: black), begun(decode)
    )  # encoding in float32 fails, decoding does not
    encoded = encode_rows(pixels_table(images), fake_encode, CODES, audit)
    assert (encoded["flips"].null_count, encoded["psnr_db"].null_count) == (3, 0)
    assert encoded["codes"].equals(plain["codes"])


@pytest.mark.parametrize("error", [RuntimeError("no kernel"), ConfigError("out of memory")])
def test_encode_rows_audit_that_cannot_begin_costs_no_codes(error):
    def begin(_):
        raise error

    images = [np.maximum(image, 128) for image in random_images(3)]
    table = pixels_table(images)
    encoded = encode_rows(table, fake_encode, CODES, Audit(1.0, begin, begin))
    assert encoded.equals(encode_rows(table, fake_encode, CODES))


def test_encode_rows_audits_are_waited_for_when_all_images_are_encoded():
    shapes = [(8, 8), (4, 6)]
    images = [np.full((*shape, 3), 200, np.uint8) for shape in shapes]
    happened = []

    def encode(pixels):
        happened.append("encode")
        return fake_encode(pixels)

    def reference(pixels):
        happened.append("look")

        def wait():
            happened.append("wait")
            return fake_encode(pixels)

        return wait

    encoded = encode_rows(pixels_table(images), encode, CODES, Audit(1.0, reference=reference))
    assert happened == [*["encode", "look"] * 2, *["wait"] * 2]
    assert encoded["flips"].to_pylist() == [0, 0]


def test_encode_rows_audit_of_no_share_looks_at_nothing():
    images = [np.maximum(image, 128) for image in random_images(3)]
    encoded = encode_rows(
        pixels_table(images), fake_encode, CODES, Audit(0.0, None, begun(fake_encode))
    )
    assert encoded["flips"].null_count == 3


def test_encode_rows_audit_picks_about_its_share_and_the_same_in_any_block():
    count = 20_000
    table = pixels_table([np.full((1, 1, 3), 200, np.uint8)] * count)
    field = schema.codes_field(CodeLayout.grid(1, 1, 65_536))

    def encode(pixels):
        return np.zeros((len(pixels), 1, 1), np.int64), np.ones(len(pixels), bool)

    audit = Audit(reference=begun(encode))
    whole = encode_rows(table, encode, field, audit)
    picked = count - whole["flips"].null_count
    assert abs(picked - count / 1000) < 5 * (count / 1000) ** 0.5
    parts = [encode_rows(table.slice(i, 777), encode, field, audit) for i in range(0, count, 777)]
    assert pa.concat_tables(parts)["flips"].combine_chunks().equals(whole["flips"].combine_chunks())
