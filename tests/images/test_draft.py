"""JPEGs that are decoded at a part of their size: where pixels lie, and how far off levels are.

The truth is where a grating lies, by arithmetic, and what Pillow decodes in full.
"""

import io
from contextlib import closing
from dataclasses import replace

import imagecodecs
import numpy as np
import pytest
from infra.demo.photos import PACKAGED, open_photo
from PIL import ExifTags, Image, ImageOps

from tests.images import gratings
from tests.images.test_jpeg import END, KINDS, LAYOUTS, NOISE, half_grey, jpeg, of_three_scans
from tests.images.test_sandbox import check_equal, check_views
from tests.makers import encoded, picture
from vqpipe.images import Compressed, Preprocess, View, open_image, square
from vqpipe.images.sandbox import Sandbox
from vqpipe.rejections import Reason

HOW = Preprocess(square(64), draft=True)
LEAST_PSNR_DB = 38
SCALES = {2: (451, 358), 4: (803, 641), 8: (1445, 1181)}
"""Of decoding, for a view of 64 pixels: sizes of images none of which it divides."""
MOST_OFF = 0.004
"""Pixels of a view; a box that is off by half a pixel of the image shifts it by 0.027 to 0.09."""
UNDO = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""What makes an upright image one that is stored by each orientation."""


def exact(how):
    return replace(how, draft=False)


def psnr_db(first, second):
    error = np.mean((first.astype(np.float64) - second) ** 2)
    return 10 * np.log10(255**2 / error) if error else np.inf


def same_but_for_pixels(drafted, plain):
    return isinstance(drafted, View) and drafted[1:] == plain[1:]


def stored(upright, orientation, **options):
    """Returns a JPEG of an image that is stored by an orientation of EXIF."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    turned = upright.transpose(UNDO[orientation]) if orientation in UNDO else upright
    data = encoded(turned, "JPEG", exif=exif, **{"quality": 95} | options)
    assert ImageOps.exif_transpose(Image.open(io.BytesIO(data))).size == upright.size
    return data


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", [Preprocess, gratings.Off])
@pytest.mark.parametrize("scale", SCALES)
def test_draft_has_every_pixel_where_it_is(scale, kind, orientation):
    how, (width, height) = kind(square(64), draft=True), SCALES[scale]
    width, height = (
        (4 * width // 3 | 1, 4 * height // 3 | 1) if kind is gratings.Off else (width, height)
    )
    (cut,) = how.cuts(width, height)
    image = gratings.coloured(gratings.grating(width, height, cut.crop, how.shapes[0]), 0)
    data = stored(image, orientation)
    found = open_image(data, how)
    assert not np.array_equal(found.pixels, open_image(data, exact(how)).pixels), "not drafted"
    assert same_but_for_pixels(found, open_image(data, exact(how)))
    assert found.crop == cut.crop
    assert np.abs(gratings.shifts(found.pixels[..., 1])).max() < MOST_OFF


@pytest.mark.parametrize("subsampling", ["444", "422", "420", "440", "411"])
@pytest.mark.parametrize("channel", [1, 2])
@pytest.mark.parametrize("scale", SCALES)
def test_draft_has_every_colour_where_it_is(scale, channel, subsampling):
    width, height = SCALES[scale]
    (cut,) = HOW.cuts(width, height)
    image = gratings.coloured(gratings.grating(width, height, cut.crop, HOW.shapes[0]), channel)
    pixels = np.asarray(image.convert("RGB"))
    data = imagecodecs.jpeg8_encode(pixels, level=95, subsampling=subsampling)
    found = open_image(data, HOW).pixels[..., 2 if channel == 1 else 0]
    assert np.abs(gratings.shifts(found)).max() < 2 * MOST_OFF  # where half as many were stored


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("name", PACKAGED)
def test_draft_of_a_photo_is_hardly_to_be_told_from_the_photo(name, subsampling):
    data = encoded(open_photo(name), "JPEG", quality=90, subsampling=subsampling)
    drafted = 0
    for side in (32, 64, 96, 128, 256):
        how = Preprocess(square(side), draft=True)
        found, plain = (open_image(data, each) for each in (how, exact(how)))
        assert same_but_for_pixels(found, plain)
        assert psnr_db(found.pixels, plain.pixels) >= LEAST_PSNR_DB
        drafted += not np.array_equal(found.pixels, plain.pixels)
    assert drafted >= 2


@pytest.mark.parametrize("scale", SCALES)
def test_draft_leaves_at_least_two_pixels_for_one_of_a_view(scale):
    """So that what is a pixel smaller is decoded at twice the size, or in full."""
    side = 2 * scale * 16
    how = Preprocess(square(16), draft=True)
    for width, is_of_scale in ((side, True), (side - 1, False)):
        data = jpeg(NOISE.resize((width, side + 40)))
        with Image.open(io.BytesIO(data)) as image:
            box = [length / scale for length in open_image(data, how).crop]
            image.draft(None, (image.width // scale, image.height // scale))
            expected = np.asarray(image.resize((16, 16), Image.Resampling.BICUBIC, box=box))
        assert np.array_equal(open_image(data, how).pixels, expected) == is_of_scale


@pytest.mark.parametrize(
    "data",
    [
        jpeg(NOISE.resize((255, 300))),
        jpeg(NOISE, "L"),
        *(encoded(picture(700, 500), kind) for kind in ("PNG", "WEBP", "GIF", "BMP")),
        encoded(picture(700, 500), "TIFF", compression="jpeg"),
        imagecodecs.jpeg8_encode(picture(700, 500), lossless=True),
        imagecodecs.jpeg8_encode(picture(700, 500)[..., 0].copy(), lossless=True, predictor=7),
    ],
    ids=["small", "small grey", "PNG", "WEBP", "GIF", "BMP", "TIFF", "lossless", "lossless grey"],
)
def test_draft_changes_no_bit_of_what_is_small_or_no_lossy_jpeg(data):
    check_views([open_image(data, HOW)], [open_image(data, exact(HOW))])


@pytest.mark.parametrize("mode", KINDS)
@pytest.mark.parametrize("more", [{}, {"progressive": True}, {"restart_marker_blocks": 5}], ids=str)
def test_draft_of_every_kind_of_jpeg_is_near_the_whole(mode, more):
    photo = open_photo("coffee")
    data = jpeg(photo, mode, **more)
    found, plain = open_image(data, HOW), open_image(data, exact(HOW))
    assert same_but_for_pixels(found, plain)
    assert LEAST_PSNR_DB < psnr_db(found.pixels, plain.pixels) < np.inf


def test_draft_of_a_jpeg_of_several_pictures_is_of_the_first():
    first = open_photo("coffee")
    data = encoded(first, "MPO", save_all=True, append_images=[NOISE.resize(first.size)])
    found, plain = open_image(data, HOW), open_image(data, exact(HOW))
    assert same_but_for_pixels(found, plain)
    assert LEAST_PSNR_DB < psnr_db(found.pixels, plain.pixels) < np.inf


CUT = Preprocess(square(32), draft=True)
"""Of which `NOISE` is decoded at a half."""


@pytest.mark.fault(18)
@pytest.mark.parametrize("mode", KINDS)
@pytest.mark.parametrize("options", [*LAYOUTS, {"progressive": True}], ids=str)
def test_draft_of_a_cut_jpeg_is_rejected_as_the_whole_is(mode, options):
    data = jpeg(NOISE, mode, quality=75, **options)
    drafted, plain = (open_image(data, each) for each in (CUT, exact(CUT)))
    assert not np.array_equal(drafted.pixels, plain.pixels)
    for share in (0.1, 0.5, 0.9, 0.999):
        cut = data[: int(share * len(data))]
        found = open_image(cut, CUT)
        assert found == open_image(cut, exact(CUT))
        assert found.reason == Reason.TRUNCATED


@pytest.mark.fault(18)
@pytest.mark.parametrize("mode", KINDS)
@pytest.mark.parametrize("options", LAYOUTS, ids=str)
def test_draft_of_a_jpeg_that_is_cut_and_closed_is_rejected_as_the_whole_is(mode, options):
    data = jpeg(NOISE, mode, quality=75, **options)
    for share in (0.1, 0.5, 0.9):
        cut = data[: int(share * len(data))].rstrip(b"\xff") + END
        found = open_image(cut, CUT)
        assert found == open_image(cut, exact(CUT))
        assert found.reason == Reason.TRUNCATED
    whole = open_image(jpeg(half_grey(), mode, **options), CUT)
    assert isinstance(whole, View)


def test_draft_of_a_jpeg_of_a_scan_for_each_component_is_judged_as_the_whole_is():
    data = of_three_scans(np.asarray(NOISE))
    assert isinstance(open_image(data, CUT), View)
    second = data.index(b"\xff\xda", data.index(b"\xff\xda") + 1)
    cut = data[: second - 3000] + END
    assert open_image(cut, CUT) == open_image(cut, exact(CUT))
    assert open_image(cut, CUT).reason == Reason.TRUNCATED


def test_draft_of_random_damage_is_judged_as_the_whole_is():
    """Levels that damage has changed may fall to grey in one and not in the other, by chance."""
    rng = np.random.default_rng(0)
    data = jpeg(open_photo("coffee").resize((250, 203)))
    for _ in range(200):
        bad = bytearray(data)
        for place in rng.integers(2, len(data), 3):
            bad[place] = rng.integers(256)
        found, plain = open_image(bytes(bad), CUT), open_image(bytes(bad), exact(CUT))
        assert same_but_for_pixels(found, plain) if isinstance(plain, View) else found == plain


def test_draft_does_not_raise_the_limit_of_pixels():
    data = jpeg(NOISE)
    most = NOISE.width * NOISE.height
    assert isinstance(open_image(data, replace(CUT, max_pixels=most)), View)
    found = open_image(data, replace(CUT, max_pixels=most - 1))
    assert found.reason == Reason.TOO_MANY_PIXELS


def test_draft_is_done_by_the_child_as_it_is_here():
    images = [jpeg(NOISE), jpeg(NOISE)[:3000]]
    with closing(Sandbox(CUT)) as sandbox:
        check_equal(sandbox.open(Compressed.of(images)), images, CUT)
