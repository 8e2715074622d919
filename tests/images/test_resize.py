"""Views to the pixel, against what torchvision and ADM do, written out with Pillow and arithmetic.

`TenCrop`, `FiveCrop`, `CenterCrop` and `Resize` of torchvision, `center_crop_arr` of ADM.
"""

import itertools
import math

import numpy as np
import pytest
from PIL import Image

from tests.images.test_sandbox import check_views
from tests.makers import encoded, picture
from vqpipe.images import Compressed, Preprocess, open_images, square, views_of
from vqpipe.images.sandbox import Sandbox
from vqpipe.rejections import Reason

SIDE = 32
FILTERS = {
    "bicubic": Image.BICUBIC,
    "lanczos": Image.LANCZOS,
    "bilinear": Image.BILINEAR,
    "box": Image.BOX,
}
RESIZES = ("one-step", "crop-first", "short-side", "adm", "squash")
SIZES = [
    *((1, 1), (3, 2), (SIDE, SIDE), (SIDE + 1, SIDE), (SIDE - 1, SIDE + 1), (40, 30)),
    *((63, 63), (64, 64), (65, 66), (63, 200), (129, 127), (257, 130), (150, 300)),
    *((1, 300), (300, 1), (2, 77), (3000, 40), (39, 2001)),
]
SHAPES = [(SIDE, SIDE), (24, 48), (56, 16), (7, 19)]
"""Height and width."""


def opened(image, shape=(SIDE, SIDE), **how):
    """Returns the views of an image that is stored without losses."""
    found = views_of(encoded(image, "PNG"), Preprocess((shape,), **how))
    assert isinstance(found, tuple), found
    return found


def image_of(width, height, mode="RGB"):
    return Image.fromarray(picture(width, height, width)).convert(mode)


def middle(length, part):
    return (length - part) // 2


def largest_of(image, width, height):
    """Returns the box of the largest part in the middle with the proportions of a view."""
    across = max(1, min(image.width, math.floor(image.height * width / height)))
    down = max(1, min(image.height, math.floor(image.width * height / width)))
    left, top = middle(image.width, across), middle(image.height, down)
    return left, top, left + across, top + down


def one_step(image, width, height, kind):
    return image.resize((width, height), kind, box=largest_of(image, width, height))


def crop_first(image, width, height, kind):
    return image.crop(largest_of(image, width, height)).resize((width, height), kind)


def squash(image, width, height, kind):
    return image.resize((width, height), kind)


def short_side(image, width, height, kind):
    """Resizes one side to the view's, the other in proportion, down; then as `CenterCrop` does."""
    if image.width / width <= image.height / height:
        size = width, max(height, int(image.height * width / image.width))
    else:
        size = max(width, int(image.width * height / image.height)), height
    left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
    return image.resize(size, kind).crop((left, top, left + width, top + height))


def adm(image, width, height, kind):
    while image.width >= 2 * width and image.height >= 2 * height:
        image = image.resize((image.width // 2, image.height // 2), Image.BOX)
    scale = max(width / image.width, height / image.height)
    image = image.resize((round(image.width * scale), round(image.height * scale)), kind)
    left, top = middle(image.width, width), middle(image.height, height)
    return image.crop((left, top, left + width, top + height))


REFERENCES = dict(zip(RESIZES, (one_step, crop_first, short_side, adm, squash), strict=True))


@pytest.mark.parametrize("resample", FILTERS)
@pytest.mark.parametrize("resize", RESIZES)
def test_views_of_any_size_and_proportions_equal_a_plain_script(resize, resample):
    for (width, height), mode in itertools.product(SIZES, ("RGB", "L")):
        image = image_of(width, height, mode)
        expected = REFERENCES[resize](image, SIDE, SIDE, FILTERS[resample]).convert("RGB")
        (view,) = opened(image, resize=resize, resample=resample)
        assert np.array_equal(view.pixels, np.asarray(expected)), (width, height, mode)
        assert (view.width, view.height) == (width, height)


@pytest.mark.parametrize("shape", SHAPES[1:])
@pytest.mark.parametrize("resize", RESIZES)
def test_views_that_are_no_squares_equal_a_plain_script(resize, shape):
    for width, height in SIZES:
        image = image_of(width, height)
        expected = REFERENCES[resize](image, *shape[::-1], Image.BICUBIC)
        (view,) = opened(image, shape, resize=resize)
        assert np.array_equal(view.pixels, np.asarray(expected)), (width, height)


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("turned", range(2, 9))
def test_views_are_cut_of_the_upright_image(resize, turned):
    stored = image_of(90, 61)
    exif = Image.Exif()
    exif[0x0112] = turned
    file = encoded(stored, "PNG", exif=exif)
    upright = {
        2: [Image.FLIP_LEFT_RIGHT],
        3: [Image.ROTATE_180],
        4: [Image.FLIP_TOP_BOTTOM],
        5: [Image.ROTATE_270, Image.FLIP_LEFT_RIGHT],
        6: [Image.ROTATE_270],
        7: [Image.ROTATE_90, Image.FLIP_LEFT_RIGHT],
        8: [Image.ROTATE_90],
    }[turned]
    image = stored
    for step in upright:
        image = image.transpose(step)
    (view,) = views_of(file, Preprocess(((24, 40),), resize=resize))
    assert (view.width, view.height) == image.size
    expected = REFERENCES[resize](image, 40, 24, Image.BICUBIC)
    assert np.array_equal(view.pixels, np.asarray(expected))


@pytest.mark.parametrize("resize", RESIZES)
def test_flip_both_adds_the_mirror_image_behind_each_view(resize):
    for width, height in SIZES:
        plain = opened(image_of(width, height), resize=resize)
        both = opened(image_of(width, height), resize=resize, flip="both")
        assert [view.flip for view in both] == [False, True]
        assert [view.crop for view in both] == [plain[0].crop] * 2
        assert np.array_equal(both[0].pixels, plain[0].pixels)
        assert np.array_equal(both[1].pixels, plain[0].pixels[:, ::-1])


def five_crop(image, width, height):
    """Returns what `FiveCrop` does: top left, top right, bottom left, bottom right, centre."""
    right, bottom = image.width - width, image.height - height
    corners = [(0, 0), (right, 0), (0, bottom), (right, bottom)]
    spots = [*corners, (round(right / 2), round(bottom / 2))]
    return [image.crop((x, y, x + width, y + height)) for x, y in spots]


def ten_crop(image, width, height):
    flipped = image.transpose(Image.FLIP_LEFT_RIGHT)
    return five_crop(image, width, height) + five_crop(flipped, width, height)


CROPS = {"five-crop": five_crop, "ten-crop": ten_crop}
SCALES = [1.0, 1.05, 1.1, 1.25, 35 / 32, 37 / 32, 2.0]
"""Differences of 0, 1, 3, 8, 3, 5 and 32 pixels: odd ones, whose halves are rounded to even."""


@pytest.mark.parametrize("kind", CROPS)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shape", SHAPES)
def test_corners_are_those_of_torchvision_in_what_adm_cuts_and_torchvision_resizes(
    kind, scale, shape
):
    height, width = shape
    across, down = int(width * scale), int(height * scale)
    for resize, reference in (("adm", adm), ("short-side", short_side)):
        for size in [(40, 30), (63, 63), (129, 127), (30, 200)]:
            image = image_of(*size)
            part = reference(image, across, down, Image.BICUBIC)
            expected = CROPS[kind](part, width, height)
            found = opened(image, shape, resize=resize, kinds=(f"{kind}:{scale}",))
            assert [view.flip for view in found] == [False] * 5 + [True] * (len(expected) - 5)
            for view, each in zip(found, expected, strict=True):
                assert np.array_equal(view.pixels, np.asarray(each)), (size, view.number)


def test_corners_of_the_image_as_it_is_are_cut_before_the_resize():
    image = image_of(101, 75)
    for view, box in zip(
        opened(image, resize="crop-first", kinds=("five-crop:1.25",)),
        [(13, 0), (28, 0), (13, 15), (28, 15), (21, 8)],  # of 75 from 13 on, those of 60
        strict=True,
    ):
        left, top = box
        assert view.crop == (left, top, left + 60, top + 60)
        expected = image.crop(view.crop).resize((SIDE, SIDE), Image.BICUBIC)
        assert np.array_equal(view.pixels, np.asarray(expected))


KINDS = [
    ("center",),
    ("five-crop:1.1", "ten-crop:3"),
    ("five-crop:16",),
    ("random-crop:5",),
]


@pytest.mark.parametrize("resize", ["one-step", "crop-first", "short-side", "adm"])
@pytest.mark.parametrize("kinds", KINDS)
def test_crops_lie_inside_the_image_and_have_a_pixel_at_least(resize, kinds):
    how = [Preprocess((shape,), resize=resize, kinds=kinds) for shape in SHAPES]
    sizes = [*SIZES, (1, 2), (2, 1), (2, 2), (5, 1), (17, 3), (1, 4000), (4000, 1), (8191, 8192)]
    for each, (width, height), lot in itertools.product(how, sizes, range(3)):
        cuts = each.cuts(width, height, lot)
        assert len(cuts) == each.views
        for left, top, right, bottom in (cut.crop for cut in cuts):
            assert 0 <= left < right <= width
            assert 0 <= top < bottom <= height


@pytest.mark.parametrize("resize", ["short-side", "adm"])
def test_crop_of_what_is_resized_first_is_right_to_a_pixel(resize):
    """Each pixel of a ramp says where it lies, so that the view tells where it was cut."""
    for width, height in [(200, 120), (97, 240), (64, 64), (255, 33)]:
        ramp = np.zeros((height, width, 3), np.uint8)
        ramp[..., 0], ramp[..., 1] = np.arange(width), np.arange(height)[:, None]
        kinds = ("center", "five-crop:1.5", "random-crop:3")
        for view in opened(ramp, resize=resize, resample="bilinear", kinds=kinds):
            left, top, right, bottom = view.crop
            inner = view.pixels[4:-4, 4:-4].astype(float)  # filters end at edges of the canvas
            x, y = inner[..., 0].mean() + 0.5, inner[..., 1].mean() + 0.5
            assert abs((left + right) / 2 - x) < 1.3, (width, height, view.number)
            assert abs((top + bottom) / 2 - y) < 1.3
            assert abs((right - left) - (bottom - top)) <= 1  # of a square


LONG = [(1, 100_000), (100_000, 1), (2, 90_000)]


@pytest.mark.fault(20)
@pytest.mark.parametrize("resize", ["short-side", "adm"])
@pytest.mark.parametrize("size", LONG)
def test_image_so_long_that_it_would_become_huge_is_rejected_by_its_proportions(resize, size):
    how = Preprocess(square(256), resize=resize)
    for mode in ("RGB", "L"):
        found = views_of(encoded(Image.new(mode, size, 7), "PNG"), how)
        assert found.reason is Reason.TOO_MANY_PIXELS
        assert f"{size[0]} x {size[1]} pixels become" in found.message


@pytest.mark.fault(20)
@pytest.mark.parametrize("size", LONG)
@pytest.mark.parametrize("resize", ["one-step", "crop-first", "squash"])
def test_long_image_is_opened_where_nothing_is_resized_to_be_cut(resize, size):
    (view,) = opened(Image.new("L", size, 7), resize=resize)
    assert (view.pixels == 7).all()


@pytest.mark.parametrize("resize", ["short-side", "adm"])
def test_proportions_of_16_to_1_are_opened_whatever_the_limit(resize):
    for size in [(16, 1), (1, 16), (160, 10)]:
        (view,) = opened(Image.new("L", size, 7), (64, 64), resize=resize, max_pixels=1600)
        assert view.pixels.shape == (64, 64, 3)
    how = Preprocess(square(64), resize=resize, max_pixels=1600)
    found = views_of(encoded(Image.new("L", (17, 1), 7), "PNG"), how)
    assert found.reason is Reason.TOO_MANY_PIXELS


def test_sandbox_has_memory_for_many_views_whatever_the_limit_of_pixels():
    """100 views of 1,024 px are 300 MiB, more than what is spare for an image of 100 pixels."""
    how = Preprocess(square(1024), kinds=("random-resized:100",), max_pixels=100)
    sandbox = Sandbox(how)
    try:
        images = Compressed.of([encoded(picture(10, 10), "PNG")])
        (found,) = sandbox.open(images)
        assert len(found) == 100
    finally:
        sandbox.close()


def test_sandbox_gives_many_views_as_the_process_itself_does():
    how = Preprocess(
        ((24, 40), (40, 24)), kinds=("ten-crop:1.1", "random-crop:4"), resize="short-side", seed=3
    )
    pictures = [encoded(picture(*size), "PNG") for size in [(90, 50), (50, 90), (3, 200)]]
    images = Compressed.of([pictures[0], b"<html>", None, *pictures[1:]])
    images = images.with_lots(np.arange(5, dtype=np.uint64) * 2**61 + 5)
    sandbox = Sandbox(how)
    try:
        found = sandbox.open(images)
    finally:
        sandbox.close()
    for one, other in zip(found, open_images(images, how), strict=True):
        if isinstance(other, tuple):
            check_views(one, other)
        else:
            assert one == other
