"""JPEGs that were cut and closed again are truncated; grey pictures are not."""

import io
from itertools import product

import numpy as np
import pytest
from PIL import Image

from pipeline.images import Preprocess, View, open_image
from pipeline.schema import Reason
from tests.makers import encoded

HOW = Preprocess(32)
END = b"\xff\xd9"
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (203, 250, 3), np.uint8))
GREY = Image.new("RGB", (250, 203), (128, 128, 128))
LAYOUTS = [
    {"subsampling": subsampling, **more}
    for subsampling, more in product(
        (0, 1, 2),
        ({}, {"optimize": True}, {"restart_marker_blocks": 5}, {"restart_marker_rows": 1}),
    )
]


def half_grey():
    pixels = np.asarray(NOISE).copy()
    pixels[100:] = 128
    return Image.fromarray(pixels)


def jpeg(image, **options):
    return encoded(image, "JPEG", **{"quality": 90} | options)


@pytest.mark.fault(18)
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", LAYOUTS, ids=str)
def test_jpeg_cut_and_closed_is_truncated(mode, options):
    data = jpeg(NOISE.convert(mode), quality=75, **options)
    assert isinstance(open_image(data, HOW), View)
    for share in (0.1, 0.5, 0.9):
        cut = data[: int(share * len(data))].rstrip(b"\xff") + END
        found = open_image(cut, HOW)
        assert getattr(found, "reason", None) == Reason.TRUNCATED
        assert "end mark" in found.message
        assert open_image(cut + bytes(5000), HOW) == found


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("quality", [50, 100])
@pytest.mark.parametrize("options", [*LAYOUTS, {"progressive": True}], ids=str)
def test_jpeg_grey_to_its_end_is_opened(mode, quality, options):
    for image in (GREY, half_grey(), GREY.crop((0, 0, 1, 1)), GREY.crop((0, 0, 16, 16))):
        data = jpeg(image.convert(mode), quality=quality, **options)
        assert np.asarray(Image.open(io.BytesIO(data)).convert("L"))[-1, -1] == 128
        assert isinstance(open_image(data, HOW), View)
        assert isinstance(open_image(data + bytes(5000), HOW), View)


def test_jpeg_grey_pictures_of_one_file_are_opened():
    data = encoded(GREY, "MPO", save_all=True, append_images=[GREY])
    assert isinstance(open_image(data, HOW), View)
