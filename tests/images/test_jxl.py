"""JPEG XL comes out as libjxl decodes it, or is rejected by its header where that is wrong."""

import io

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.images.jxls import (
    ALPHA,
    PIXELS,
    SRGB,
    box,
    boxed,
    colours,
    header,
    with_header,
)
from tests.images.test_views import assert_is_view, opened_and_peak, reason_of
from tests.makers import encoded, picture
from vqpipe.images import Preprocess, jxl, open_image, square
from vqpipe.rejections import Reason

HOW = Preprocess(square(32))
WHOLE = Preprocess(square(40))
LOSSLESS = {"lossless": True}


def center(pixels):
    return pixels[:, 12:52].astype(int)


def packed_jpeg(tmp_path, pixels=PIXELS, **options):
    """Returns a JPEG, and the JPEG XL that gives it back to the byte."""
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(pixels, "JPEG", **options))
    with Image.open(path) as image:
        return path.read_bytes(), encoded(image, "JXL", lossless_jpeg=True, use_container=True)


def exif(orientation):
    made = Image.Exif()
    made[0x0112] = orientation
    return made.tobytes()


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jxl_with_losses_is_as_another_build_of_libjxl_sees_it(mode):
    data = encoded(Image.fromarray(PIXELS).convert(mode), "JXL")
    view = open_image(data, HOW)
    assert (view.width, view.height) == (64, 40)
    want = imagecodecs.jpegxl_decode(data)
    by_other = open_image(encoded(want.squeeze(), "PNG"), HOW)
    assert np.abs(view.pixels - by_other.pixels.astype(int)).max() <= 2


@pytest.mark.parametrize("bits", [8, 10, 16])
@pytest.mark.parametrize("channels", [[0], [0, 1], [0, 1, 2], [0, 1, 2, 0]])
def test_jxl_of_any_bits_and_channels_becomes_8_bit_rgb(bits, channels):
    levels = PIXELS[..., channels]
    samples = levels if bits == 8 else (levels.astype(np.uint16) * 257) >> (16 - bits)
    data = imagecodecs.jpegxl_encode(samples.squeeze(), lossless=True, bitspersample=bits)
    stored = jxl.read_header(data)
    assert (stored.bits, stored.extras) == (bits, (0,) if len(channels) in {2, 4} else ())
    alpha = levels[..., -1:] / 255 if stored.extras else 1
    shown = (levels[..., :-1] if stored.extras else levels) * alpha + 255 * (1 - alpha)
    assert np.abs(open_image(data, WHOLE).pixels - center(np.rint(shown))).max() <= 1


def test_jxl_of_colours_multiplied_by_alpha_is_taken_as_such():
    rgba = np.dstack([PIXELS, PIXELS[..., :1]])
    rgba[..., :3] = np.rint(rgba[..., :3] * (rgba[..., 3:] / 255))
    for pixels in (rgba, rgba[..., 2:]):
        data = imagecodecs.jpegxl_encode(np.ascontiguousarray(pixels), lossless=True)
        grey = [(0, 1), (0, 1), (1, 2), (1, 2), (0, 1), (2, 2), (11, 4), (1, 2)]
        said = SRGB if pixels.shape[-1] == 4 else grey
        plain = header(extras=ALPHA, colours=said)
        assert data.startswith(plain)
        associated = [(1, 2), (0, 1), (0, 2), (0, 1), (0, 2), (0, 2), (0, 2), (1, 1)]
        data = header(extras=associated, colours=said) + data[len(plain) :]
        shown = pixels[..., :-1] + (255 - pixels[..., -1:].astype(int))
        assert np.abs(open_image(data, WHOLE).pixels - center(shown)).max() <= 2


@pytest.mark.fault(21)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_jxl_orientation_is_its_own_and_applied_once(orientation, tmp_path):
    tagged = encoded(PIXELS, "PNG", exif=exif(orientation))
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(tagged))))
    data = with_header(orientation=orientation)
    np.testing.assert_array_equal(imagecodecs.jpegxl_decode(data), upright)
    for other in (data, boxed(data) + box(b"Exif", bytes(4) + exif(3))):
        view = open_image(other, HOW)
        assert (view.width, view.height) == upright.shape[1::-1]
        assert_is_view(view, Image.fromarray(upright))
    stored, packed = packed_jpeg(tmp_path, exif=exif(orientation))
    want = open_image(stored, HOW)
    found = open_image(packed, HOW)
    assert (found.width, found.height, found.crop) == (want.width, want.height, want.crop)
    np.testing.assert_array_equal(found.pixels, want.pixels)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 2}])
def test_jxl_of_a_packed_jpeg_gives_the_views_of_the_jpeg(tmp_path, options):
    for pixels in (PIXELS, PIXELS[..., 0]):
        stored, packed = packed_jpeg(tmp_path, pixels, **options)
        assert b"jbrd" in packed
        np.testing.assert_array_equal(
            open_image(packed, HOW).pixels, open_image(stored, HOW).pixels
        )


def test_jxl_in_boxes_of_any_kind_is_opened():
    data = with_header()
    plain = open_image(data, HOW)
    large = b"\0\0\0\1jxlc" + (len(data) + 16).to_bytes(8, "big") + data
    to_end = b"\0\0\0\0jxlc" + data
    start = boxed(data)[: boxed(data).index(b"jxlc") - 4]
    in_boxes = [boxed(data), boxed(data[:3], data[3:7], data[7:]), start + large, start + to_end]
    for other in (*in_boxes, start + box(b"Exif", bytes(2**20)) + to_end):
        np.testing.assert_array_equal(open_image(other, HOW).pixels, plain.pixels)


RATIOS = [(48, 40), (40, 30), (60, 40), (160, 90), (50, 40), (80, 40), (119, 99), (121, 91)]


@pytest.mark.parametrize(
    ("width", "height"),
    [(1, 1), (8, 8), (256, 8), (7, 9), (600, 40), (40, 600), (1024, 4), (9000, 1), *RATIOS],
)
def test_jxl_header_says_the_size_whichever_way_it_is_written(width, height):
    data = encoded(Image.new("RGB", (width, height)), "JXL", **LOSSLESS)
    assert jxl.read_header(data).size == (width, height)
    assert imagecodecs.jpegxl_decode(data).shape[1::-1] == (width, height)


CUSTOM = [(2, 2), *[(0, 2), (5, 19)] * 6]
NAMED = [(1, 2), (0, 1), (0, 2), (0, 1), (0, 2), (0, 2), (1, 2), (4, 4), *[(65, 8)] * 4]


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"colours": colours(16)}, "PQ"),
        ({"colours": colours(18)}, "HLG"),
        ({"colours": colours(16, primaries=(2 | 7 << 2, 6)), "is_xyb": 1}, "HDR"),
        ({"colours": colours(16), "orientation": 6}, "PQ"),
        ({"colours": colours(16), "extras": ALPHA}, "PQ"),
        ({"colours": colours(18), "extras": [*NAMED, (0, 1)]}, "HLG"),
        ({"colours": [(0, 1), (1, 1), (0, 2)], "is_xyb": 1}, "profile"),
        ({"depth": [(1, 1), (0, 2), (7, 4)]}, "floating-point"),
        ({"depth": [(1, 1), (1, 2), (4, 4)]}, "floating-point"),
        ({"depth": [(0, 1), (3, 2), (23, 6)]}, "24 bits"),
        ({"extras": [(1, 2), (0, 1), (2, 2), (2, 4), (0, 1), *[(0, 2)] * 3]}, "CMYK"),
        ({"animation": [(0, 2), (0, 2), (0, 2), (0, 1)]}, "animation"),
    ],
)
def test_jxl_that_would_come_out_wrong_is_unsupported_by_name(fields, word):
    found = open_image(header(**fields), HOW)
    assert (found.reason, word in found.message) == (Reason.UNSUPPORTED, True), found


def test_jxl_of_other_colours_is_taken_as_srgb():
    for said in (colours(13), colours(13, primaries=(2 | 9 << 2, 6)), colours(8), colours(17)):
        data = with_header(colours=said)
        np.testing.assert_array_equal(imagecodecs.jpegxl_decode(data), PIXELS)
        np.testing.assert_array_equal(open_image(data, WHOLE).pixels, center(PIXELS))


@pytest.mark.fault(21)
def test_jxl_animation_is_rejected_since_its_last_frame_would_come_out():
    data = imagecodecs.jpegxl_encode(np.stack([PIXELS, 255 - PIXELS]), lossless=True)
    assert open_image(data, HOW).reason == Reason.UNSUPPORTED


@pytest.mark.fault(19)
def test_jxl_too_large_by_its_header_is_rejected_undecoded(tmp_path):
    size = [(0, 1), (3, 2), (11_999, 30), (1, 3), (1, 1)]  # a square; all by default
    value = sum(number << sum(bits for _, bits in size[:at]) for at, (number, _) in enumerate(size))
    data = b"\xff\x0a" + value.to_bytes(5, "little")
    assert jxl.read_header(data).size == (12_000, 12_000)
    (tmp_path / "a.jxl").write_bytes(data)
    outcome, peak_mb = opened_and_peak(tmp_path / "a.jxl", Preprocess(square(1)).max_pixels)
    assert (outcome, peak_mb < 16) == (Reason.TOO_MANY_PIXELS, True)


@pytest.mark.fault(18)
def test_jxl_that_is_cut_is_rejected_wherever(tmp_path):
    bare, (_, packed) = encoded(PIXELS, "JXL"), packed_jpeg(tmp_path)
    for data in (bare, boxed(bare), boxed(bare[:9], bare[9:60], bare[60:]), packed):
        for end in range(2, len(data) - 1, 13):
            reason = reason_of(data[:end])
            assert reason in {Reason.TRUNCATED, Reason.CORRUPT, Reason.NOT_AN_IMAGE}
            assert (reason == Reason.NOT_AN_IMAGE) == (end < 12 and data[:1] == b"\0")
    assert reason_of(boxed(bare)[:-1]) == Reason.TRUNCATED
    assert reason_of(bare[:-1]) == Reason.CORRUPT  # libjxl does not say which


@pytest.mark.fault(18)
def test_jxl_damaged_at_random_never_raises(tmp_path):
    rng = np.random.default_rng(2)
    for original in (encoded(PIXELS, "JXL"), packed_jpeg(tmp_path)[1], header(extras=NAMED)):
        for _ in range(100):
            data = np.frombuffer(original, np.uint8).copy()
            data[rng.integers(0, min(len(data), 300), 3)] = rng.integers(0, 256, 3)
            assert open_image(data.tobytes(), HOW) is not None


@pytest.mark.fault(21)
def test_jxl_metadata_of_any_size_changes_nothing():
    plain = open_image(with_header(), HOW).pixels
    for kind in (b"Exif", b"xml ", b"jumb", b"brob", b"free"):
        found = open_image(boxed(with_header()) + box(kind, bytes(2**22)), HOW)
        np.testing.assert_array_equal(found.pixels, plain)


def test_jxl_view_is_as_its_definition_says():
    view = open_image(encoded(picture(61, 50), "JXL", **LOSSLESS), HOW)
    assert_is_view(view, Image.fromarray(picture(61, 50)))
