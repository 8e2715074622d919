import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from vqpipe import schema
from vqpipe.rejections import Reason
from vqpipe.stages.evaluate import Measured, measure_rows, pick_rows, picture_rows, share_out

SCORES = schema.score_fields(has_lpips=False, has_features=False)
HEIGHT, WIDTH = 4, 6


def rows_of(*levels):
    """Opened rows whose pixels all have one level, or that are rejected (None)."""
    data = [None if level is None else bytes([level]) * (HEIGHT * WIDTH * 3) for level in levels]
    count = len(levels)
    head = {field.name: pa.nulls(count, field.type) for field in schema.HEAD}
    return pa.table(
        head
        | {
            "shard": pa.array([0] * count, pa.int32()),
            "row": pa.array(range(count), pa.int32()),
            "key": pa.array([f"k{i}" for i in range(count)]),
            "reason": pa.array([None if each else "corrupt" for each in data], pa.string()),
            "place": pa.array([10 * i for i in range(count)], pa.int32()),
            "codes": pa.array([[i, i] for i in range(count)], pa.list_(pa.uint16(), 2)),
            "pixels": pa.array(data, pa.large_binary()),
            "pixels_height": pa.array([each and HEIGHT for each in data], pa.int32()),
            "pixels_width": pa.array([each and WIDTH for each in data], pa.int32()),
        }
    )


def measure(views, codes):
    level = views[:, 0, 0, 0].astype(float)
    scores = {"psnr_db": level, "ssim": level / 255, "l1": level * 0}
    return Measured(255 - views, level != 13, scores, codes[:, 0])


def test_measure_rows_puts_scores_beside_their_rows():
    rows = measure_rows(rows_of(7, None, 9), measure, SCORES).to_pylist()
    assert [row["psnr_db"] for row in rows] == [7, None, 9]
    assert [row["unlike"] for row in rows] == [0, None, 2]
    assert [row["decoded"] and row["decoded"][0] for row in rows] == [248, None, 246]
    assert [row["reason"] for row in rows] == [None, "corrupt", None]


def test_measure_rows_image_that_is_not_finite_is_rejected():
    rows = measure_rows(rows_of(13, 9), measure, SCORES).to_pylist()
    assert [row["reason"] for row in rows] == [Reason.NON_FINITE, None]


def test_measure_rows_without_one_view_measures_nothing():
    rows = measure_rows(rows_of(None, None), None, SCORES).to_pylist()
    assert [row["psnr_db"] for row in rows] == [None, None]


def test_picture_rows_makes_jpegs_and_keeps_the_columns_named():
    columns = schema.measured_schema(SCORES).names
    table = picture_rows(measure_rows(rows_of(200, None), measure, SCORES), columns)
    assert table.column_names == columns
    first, second = table.to_pylist()
    for name, level in (("original", 200), ("decoded", 55)):
        image = np.asarray(Image.open(io.BytesIO(first[name])))
        assert image.shape == (HEIGHT, WIDTH, 3)
        assert np.abs(image.astype(int) - level).max() <= 2
        assert second[name] is None


@pytest.mark.parametrize("samples", [0, 1, 7, 100, 10_000])
def test_share_out_is_in_proportion_and_adds_up(samples):
    counts = {"a": 1000, "b": 10, "c": 333, "d": 1}
    quotas = share_out(samples, counts)
    total = sum(counts.values())
    assert sum(quotas.values()) == min(samples, total)
    for name, quota in quotas.items():
        assert 0 < quota <= counts[name]
        assert abs(quota - min(samples, total) * counts[name] / total) < 1


def test_share_out_of_nothing_is_nothing():
    assert share_out(10, {}) == share_out(10, {"a": 0}) == {}


def test_pick_rows_does_not_depend_on_order_and_grows():
    keys = [f"key {i}" for i in range(100)]
    few, more = pick_rows(keys, 10), pick_rows(keys, 20)
    assert set(few) < set(more)
    assert few == sorted(few)
    backwards = {keys[::-1][place] for place in pick_rows(keys[::-1], 10)}
    assert backwards == {keys[place] for place in few}
    assert pick_rows(keys, 1000) == list(range(100))
