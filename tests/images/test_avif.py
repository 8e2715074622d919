"""AVIF comes out as libavif's numbers and its own turns say; the header decides before pixels."""

import struct

import imagecodecs
import numpy as np
import pytest
from PIL import AvifImagePlugin, Image, WebPImagePlugin

from tests.images.test_views import assert_is_view, opened_and_peak
from tests.makers import encoded, picture
from vqpipe.images import Preprocess, View, open_image, square
from vqpipe.rejections import Reason

HOW = Preprocess(square(32))
PIXELS = picture(60, 40)
LOSSLESS = {"quality": 100, "subsampling": "4:4:4"}


def avif(pixels=PIXELS, **options):
    return encoded(pixels, "AVIF", **LOSSLESS | options)


def turned(orientation):
    """Returns an AVIF, and its `irot` (quarters anticlockwise) and `imir` (axis), or None."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = avif(exif=exif)
    at = {box: data.find(box) for box in (b"irot", b"imir")}
    return data, *(data[place + 4] if place > 0 else None for place in at.values())


def resized(data, width, height):
    """Returns an AVIF whose header (`ispe`, ISO 23008-12) announces another size."""
    at = data.index(b"ispe") + 8
    return data[:at] + struct.pack(">II", width, height) + data[at + 8 :]


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_avif_is_as_another_decoder_sees_it(mode):
    data = avif(Image.fromarray(PIXELS).convert(mode))
    view = open_image(data, HOW)
    assert (view.width, view.height) == (60, 40)
    assert_is_view(view, Image.fromarray(imagecodecs.avif_decode(data)))


@pytest.mark.parametrize("bits", [8, 10, 12])
def test_avif_of_more_bits_becomes_8(bits):
    rgb = np.round(PIXELS / 255 * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)
    data = imagecodecs.avif_encode(rgb, level=imagecodecs.AVIF.QUALITY.LOSSLESS, bitspersample=bits)
    found = open_image(data, Preprocess(square(40)))
    assert np.abs(found.pixels - PIXELS[:, 10:50].astype(int)).max() <= 1


def test_avif_transparency_shows_the_background():
    rgba = np.dstack([PIXELS, np.full((40, 60), 0, np.uint8)])
    rgba[:, 30:, 3] = 255
    found = open_image(avif(rgba), Preprocess(square(40), background=(255, 0, 128)))
    assert found.pixels[20, 5].tolist() == [255, 0, 128]
    assert np.abs(found.pixels[20, 35] - PIXELS[20, 45].astype(int)).max() <= 3


@pytest.mark.fault(21)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_avif_turns_are_applied_as_its_boxes_say(orientation):
    data, quarters, axis = turned(orientation)
    upright = np.rot90(imagecodecs.avif_decode(data), quarters or 0)
    if axis is not None:  # ISO 23008-12:2022, 6.5.12: 0 swaps top and bottom, 1 left and right
        upright = np.flip(upright, axis)
    assert (quarters, axis) != (None, None) or orientation == 1
    view = open_image(data, HOW)
    assert (view.width, view.height) == upright.shape[1::-1]
    assert_is_view(view, Image.fromarray(upright))


@pytest.mark.fault(21)
def test_avif_orientation_of_its_xmp_does_not_count():
    xmp = b'<rdf:Description tiff:Orientation="6"/>'
    view = open_image(avif(xmp=xmp), HOW)
    assert (view.width, view.height) == (60, 40)


@pytest.mark.fault(21)
def test_avif_animation_gives_the_first_frame():
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    data = avif(frames[0], save_all=True, append_images=frames[1:])
    assert np.abs(open_image(data, HOW).pixels - (255, 0, 0)).max() <= 3


@pytest.mark.fault(21)
def test_avif_large_metadata_changes_nothing():
    plain = open_image(avif(), HOW).pixels
    for metadata in ({"icc_profile": bytes(2**23)}, {"xmp": bytes(2**23)}):
        np.testing.assert_array_equal(open_image(avif(**metadata), HOW).pixels, plain)


@pytest.mark.fault(19)
def test_avif_too_large_by_its_header_is_rejected_undecoded(tmp_path):
    path = tmp_path / "a.avif"
    path.write_bytes(resized(avif(), 16_000, 16_000))
    outcome, peak_mb = opened_and_peak(path, Preprocess(square(1)).max_pixels)
    assert outcome == Reason.TOO_MANY_PIXELS
    assert peak_mb < 16


@pytest.mark.fault(19)
def test_avif_header_that_lies_decides_all_the_same():
    view = open_image(resized(avif(), 30, 20), HOW)  # libavif scales what is inside
    assert (view.width, view.height) == (30, 20)
    assert open_image(resized(avif(), 2**31, 2**31), HOW).reason == Reason.CORRUPT


@pytest.mark.fault(19)
def test_avif_takes_no_more_memory_than_the_sandbox_gives(tmp_path):
    noise = np.random.default_rng(0).integers(0, 1024, (25, 25, 4)).astype(np.uint16)
    rgba = np.kron(noise, np.ones((40, 40, 1), np.uint16))
    data = imagecodecs.avif_encode(rgba, bitspersample=10, speed=10)
    (tmp_path / "a.avif").write_bytes(data)
    outcome, peak_mb = opened_and_peak(tmp_path / "a.avif", 10**6)
    assert (outcome, peak_mb < 24 + 16) == ("opened", True)


@pytest.mark.fault(18)
def test_avif_that_is_cut_is_rejected():
    data = avif()
    reasons = {open_image(data[:end], HOW).reason for end in range(20, len(data), 97)}
    assert reasons <= {Reason.TRUNCATED, Reason.CORRUPT}


@pytest.mark.parametrize(("plugin", "kind"), [(AvifImagePlugin, "AVIF"), (WebPImagePlugin, "WEBP")])
@pytest.mark.filterwarnings("ignore:image file could not be identified")
def test_format_that_this_pillow_lacks_is_unsupported_by_name(monkeypatch, plugin, kind):
    data = encoded(PIXELS, kind)
    assert isinstance(open_image(data, HOW), View)
    monkeypatch.setattr(plugin, "SUPPORTED", False)
    found = open_image(data, HOW)
    assert (found.reason, kind in found.message) == (Reason.UNSUPPORTED, True)
