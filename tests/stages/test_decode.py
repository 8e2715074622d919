import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from vqpipe import schema
from vqpipe.code_layout import CodeLayout
from vqpipe.images import ImageFormat
from vqpipe.rejections import Reason
from vqpipe.stages.decode import Form, compress_rows, decode_rows

FORM = Form(CodeLayout.grid(2, 3, 16))
LATENTS = Form(CodeLayout.grid(2, 3, 16), (4, 2, 3))
SIZE = (4, 6)
KEPT = pa.schema([pa.field("caption", pa.string())])


def rows_of(*values, holds="codes"):
    rows = [
        {"shard": 0, "row": i, "key": f"k{i}", holds: value, "kept.caption": f"c{i}"}
        for i, value in enumerate(values)
    ]
    return pa.Table.from_pylist(rows, schema=schema.read_schema(KEPT, holds))


def codes(*numbers):
    return np.array(numbers, "<i8").tobytes()


def paint(given):
    """Stands for a network: every pixel has the level of the first number; 15 is not finite."""
    first = np.array([each.flat[0] for each in given])
    images = (
        np.zeros((len(given), *SIZE, 3), np.uint8) + first.astype(np.uint8)[:, None, None, None]
    )
    return images, first != 15


def test_decode_rows_gives_pixels_in_order_and_carries_the_rest():
    table = rows_of(codes(*range(6)), None, codes(*range(9, 3, -1)))
    decoded = decode_rows(table, paint, FORM)
    assert [None if p is None else set(p) for p in decoded["pixels"].to_pylist()] == [
        {0},
        None,
        {9},
    ]
    assert decoded["pixels_height"].to_pylist() == [4, None, 4]
    assert decoded["pixels_width"].to_pylist() == [6, None, 6]
    assert decoded["key"].to_pylist() == ["k0", "k1", "k2"]
    assert decoded["kept.caption"].to_pylist() == ["c0", "c1", "c2"]
    assert "codes" not in decoded.column_names


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (codes(1, 2, 3), "3 numbers, where 2 x 3 make 6"),
        (codes(), "0 numbers"),
        (codes(*[0] * 7), "7 numbers"),
        (codes(0, 0, 0, 0, 0, 16), "code 16 is not in 0 to 15"),
        (codes(0, 0, -1, 0, 0, 0), "code -1 is not in 0 to 15"),
        (codes(0, 0, 2**63 - 1, 0, 0, 0), "code 9223372036854775807"),
    ],
)
def test_decode_rows_what_is_no_codes_is_one_rejection(bad, said):
    rows = decode_rows(rows_of(codes(*[1] * 6), bad), paint, FORM).to_pylist()
    assert [row["reason"] for row in rows] == [None, Reason.BAD_CODES]
    assert said in rows[1]["message"]
    assert rows[1]["pixels"] is None


def test_decode_rows_of_nothing_but_bad_codes_asks_the_codec_for_nothing():
    def refuse(_):
        raise AssertionError

    rows = decode_rows(rows_of(codes(1)), refuse, FORM).to_pylist()
    assert rows[0]["reason"] == Reason.BAD_CODES


def test_decode_rows_pixels_that_are_not_finite_are_a_rejection():
    rows = decode_rows(rows_of(codes(*[15] * 6), codes(*[3] * 6)), paint, FORM).to_pylist()
    assert [row["reason"] for row in rows] == [Reason.NON_FINITE, None]


def test_decode_rows_latents_have_their_shape():
    seen = []

    def look(given):
        seen.append(given)
        return paint(given)

    values = np.arange(24, dtype="<f4")
    decoded = decode_rows(rows_of(values.tobytes(), holds="latents"), look, LATENTS)
    assert "latents" not in decoded.column_names
    np.testing.assert_array_equal(seen[0], values.reshape(1, 4, 2, 3))


def test_form_plain_is_what_parses_to_zeros():
    for form in (FORM, LATENTS):
        parsed = form.parse(form.plain())
        assert parsed.shape == form.shape
        assert not parsed.any()


def test_compress_rows_png_holds_the_pixels():
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, (*size, 3), np.uint8) for size in (SIZE, (5, 3))]
    table = pa.table(
        {
            "row": [0, 1, 2],
            "pixels": pa.array([*(p.tobytes() for p in pixels), None], pa.large_binary()),
            "pixels_height": [4, 5, None],
            "pixels_width": [6, 3, None],
        }
    )
    compressed = compress_rows(table, ImageFormat("png"))
    assert compressed.column_names == ["row", "image"]
    found = compressed["image"].to_pylist()
    assert found[2] is None
    for data, expected in zip(found[:2], pixels, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), expected)
