"""JPEGs that were cut and closed again are truncated; grey pictures are not."""

import io
from itertools import product

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from tests.makers import encoded
from vqpipe.images import Preprocess, View, open_image, square
from vqpipe.rejections import Reason

HOW = Preprocess(square(32))
END = b"\xff\xd9"
START_OF_SCAN, FRAME, ADOBE = b"\xff\xda", b"\xff\xc0", b"\xff\xee"
KINDS = ["RGB", "L", "CMYK", "YCCK"]
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


def jpeg(image, mode="RGB", **options):
    """Returns a JPEG of a kind; YCCK is CMYK whose mark by Adobe says so (its last byte)."""
    image = image.convert("CMYK" if mode == "YCCK" else mode)
    data = encoded(image, "JPEG", **{"quality": 90} | options)
    at = data.index(ADOBE) + 15 if mode == "YCCK" else 0
    return data[:at] + b"\2" + data[at + 1 :] if at else data


def last_pixel(data):
    with Image.open(io.BytesIO(data)) as image:
        return image.getpixel((image.width - 1, image.height - 1))


@pytest.mark.fault(18)
@pytest.mark.parametrize("mode", KINDS)
@pytest.mark.parametrize("options", LAYOUTS, ids=str)
def test_jpeg_cut_and_closed_is_truncated(mode, options):
    data = jpeg(NOISE, mode, quality=75, **options)
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
        data = jpeg(image, mode, quality=quality, **options)
        assert np.asarray(Image.open(io.BytesIO(data)).convert("L"))[-1, -1] == 128
        assert isinstance(open_image(data, HOW), View)
        assert isinstance(open_image(data + bytes(5000), HOW), View)


def test_jpeg_grey_pictures_of_one_file_are_opened():
    data = encoded(GREY, "MPO", save_all=True, append_images=[GREY])
    assert isinstance(open_image(data, HOW), View)


@pytest.mark.parametrize("options", [*LAYOUTS, {"progressive": True}], ids=str)
def test_jpeg_of_inks_as_missing_ones_is_opened(options):
    for mode, grey in (("CMYK", (127, 127, 127, 127)), ("YCCK", (128, 128, 128, 127))):
        stored = tuple(255 - level for level in grey[:3]) if mode == "YCCK" else grey[:3]
        inks = Image.new("CMYK", (250, 203), (*stored, 127))
        data = jpeg(inks, mode, quality=100, **options)
        if mode == "CMYK":
            assert last_pixel(data) == grey
        assert isinstance(open_image(data, HOW), View)
        noise = NOISE.convert("CMYK")
        noise.paste(inks.crop((0, 0, 250, 100)), (0, 103))
        assert isinstance(open_image(jpeg(noise, mode, **options), HOW), View)


@pytest.mark.parametrize("mode", KINDS)
def test_jpeg_lacks_blocks_of_these_greys(mode):
    """What libjpeg fills in, on which the check stands."""
    data = jpeg(NOISE, mode)
    with Image.open(io.BytesIO(data[: len(data) // 2] + END)) as image:
        image.load()
        grey = image.getpixel((249, 202))
    inks = {"CMYK": (127,) * 4, "YCCK": (128, 128, 128, 127)}
    assert grey == {"L": 128, "RGB": (128, 128, 128), **inks}[mode]


def segment(kind, body=b"\0\0\0\0"):
    return bytes([0xFF, kind]) + (len(body) + 2).to_bytes(2, "big") + body


STRAY = {0xFF00 + kind: segment(kind) for kind in (0xDC, *range(0xE0, 0xF0), 0xFE)}
STRAY |= {0xFF01: b"\xff\x01", 0xFFD0: b"\xff\xd0", 0xFFD7: b"\xff\xd7"}


@pytest.mark.fault(18)
@pytest.mark.parametrize("marker", STRAY.values(), ids=map(hex, STRAY))
@pytest.mark.parametrize("mode", KINDS)
def test_jpeg_scan_that_a_stray_marker_ends_is_truncated(mode, marker):
    data = jpeg(NOISE, mode)
    for share in (0.3, 0.6):
        at = int(share * len(data))
        head = data[:at].rstrip(b"\xff")
        for behind in (data[at:], data[at + len(marker) :], END):
            found = open_image(head + marker + behind, HOW)
            assert getattr(found, "reason", None) == Reason.TRUNCATED


@pytest.mark.parametrize("image", [GREY, half_grey()], ids=["grey", "half-grey"])
@pytest.mark.parametrize("options", LAYOUTS, ids=str)
@pytest.mark.parametrize("mode", KINDS)
def test_jpeg_markers_behind_a_whole_scan_change_nothing(mode, options, image):
    data = jpeg(image, mode, **options)
    want = open_image(data, HOW).pixels
    for marker in (*STRAY.values(), b"\xff\xff\xff", b"\xff" * 99, b"\xff\xd3\xff\xd4"):
        found = open_image(data[:-2] + marker + END, HOW)
        assert isinstance(found, View), marker
        np.testing.assert_array_equal(found.pixels, want)


@pytest.mark.parametrize("mode", KINDS)
def test_jpeg_fill_bytes_and_thumbnails_before_a_grey_picture_change_nothing(mode):
    data = jpeg(half_grey(), mode)
    want = open_image(data, HOW).pixels
    thumbnail = segment(0xE1, b"Exif\0\0" + jpeg(NOISE.resize((40, 30))))
    for where in (FRAME, START_OF_SCAN, b"\xff\xc4"):
        at = data.index(where)
        for extra in (b"\xff" * 5, thumbnail, segment(0xFE, START_OF_SCAN + END)):
            found = open_image(data[:at] + extra + data[at:], HOW)
            assert isinstance(found, View), (where, extra[:9])
            np.testing.assert_array_equal(found.pixels, want)


def of_three_scans(pixels):
    """Returns a sequential JPEG of a scan for each component, from three grey ones (T.81, B.2)."""
    levels = np.asarray(Image.fromarray(pixels).convert("YCbCr"))
    scans = [jpeg(Image.fromarray(levels[..., i]), "L") for i in range(3)]
    at, frame = scans[0].index(START_OF_SCAN), scans[0].index(FRAME)
    size = scans[0][frame + 5 : frame + 9]
    parts = b"".join(bytes([i, 0x11, 0]) for i in (1, 2, 3))
    header = scans[0][:frame] + segment(FRAME[1], b"\x08" + size + b"\3" + parts)
    header += scans[0][frame + 2 + 11 : at]
    for i, scan in enumerate(scans):
        codes = scan[scan.index(START_OF_SCAN) + 10 : -2]
        header += segment(START_OF_SCAN[1], bytes([1, i + 1, 0, 0, 63, 0])) + codes
    return header + END


@pytest.mark.parametrize("image", [NOISE, GREY, half_grey()], ids=["noise", "grey", "half-grey"])
def test_jpeg_of_a_scan_for_each_component_is_opened(image):
    data = of_three_scans(np.asarray(image))
    with Image.open(io.BytesIO(data)) as read:
        error = np.abs(np.asarray(read).astype(int) - np.asarray(image))
    assert error.mean() < 12, "or it is made wrong"
    assert isinstance(open_image(data, HOW), View)


def test_jpeg_of_a_scan_for_each_component_that_lacks_a_scan_is_truncated():
    data = of_three_scans(np.asarray(NOISE))
    second = data.index(START_OF_SCAN, data.index(START_OF_SCAN) + 1)
    assert open_image(data[: second - 3000] + END, HOW).reason == Reason.TRUNCATED


@pytest.mark.fault(18)
@pytest.mark.parametrize("predictor", [1, 4, 7])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpeg_without_losses_that_is_cut_and_closed_is_truncated(mode, predictor):
    for image, is_cut in ((NOISE, True), (NOISE, False), (GREY, False), (half_grey(), False)):
        pixels = np.asarray(image.convert(mode))
        data = imagecodecs.jpeg8_encode(pixels, lossless=True, predictor=predictor)
        data = data[: len(data) // 2].rstrip(b"\xff") + END if is_cut else data
        found = open_image(data, HOW)
        assert getattr(found, "reason", None) == (Reason.TRUNCATED if is_cut else None)


def test_jpeg_of_endless_fill_bytes_takes_no_time():
    data = jpeg(NOISE)
    fill = data[: len(data) // 2] + b"\xff" * 2**22
    assert open_image(fill + END, HOW).reason == Reason.TRUNCATED
    assert open_image(fill, HOW).reason == Reason.TRUNCATED
