"""HEIC comes out as libheif's numbers and its own turns say; the header decides before pixels."""

import io
import struct

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageOps

from tests.images.test_avif import resized
from tests.images.test_views import assert_is_view, opened_and_peak
from tests.makers import encoded, picture
from vqpipe.images import Compressed, Preprocess, View, open_image, square
from vqpipe.images.sandbox import Sandbox
from vqpipe.rejections import Reason

HOW = Preprocess(square(32))
PIXELS = picture(60, 40)
SQUARE = picture(64, 64)  # which x265 needs not crop
LOSSLESS = {"quality": -1, "chroma": 444}


def heic(pixels=PIXELS, **options):
    return encoded(pixels, "HEIF", **LOSSLESS | options)


def exif(orientation):
    made = Image.Exif()
    made[0x0112] = orientation
    return made


def center(pixels):
    return pixels[:, 10:50].astype(int)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_heic_without_losses_gives_back_its_pixels(mode):
    image = Image.fromarray(PIXELS).convert(mode)
    view = open_image(heic(image), Preprocess(square(40)))
    assert (view.width, view.height) == (60, 40)
    assert np.abs(view.pixels - center(np.asarray(image.convert("RGB")))).max() <= 1


def test_heic_of_tiles_is_put_together():
    pixels = picture(150, 100)
    data = heic(pixels, tile_size=64)
    assert data.count(b"hvc1") == 6
    found = open_image(data, Preprocess(square(100))).pixels
    assert np.abs(found - pixels[:, 25:125].astype(int)).max() <= 1


@pytest.mark.parametrize("bits", [10, 12])
def test_heic_of_more_bits_becomes_8(bits, monkeypatch):
    monkeypatch.setattr(pillow_heif.options, "SAVE_HDR_TO_12_BIT", bits == 12)
    samples = (PIXELS.astype("<u2") * 257).tobytes()
    made, buffer = pillow_heif.from_bytes("RGB;16", (60, 40), samples), io.BytesIO()
    made.save(buffer, **LOSSLESS)
    assert pillow_heif.open_heif(buffer).info["bit_depth"] == bits
    found = open_image(buffer.getvalue(), Preprocess(square(40)))
    assert np.abs(found.pixels - center(PIXELS)).max() <= 1


@pytest.mark.parametrize("mode", ["RGBA", "RGBa"])
def test_heic_transparency_shows_the_background(mode):
    rgba = np.dstack([PIXELS, np.full((40, 60), 0, np.uint8)])
    rgba[:, 30:, 3] = 255
    data = heic(Image.fromarray(rgba).convert(mode))
    found = open_image(data, Preprocess(square(40), background=(255, 0, 128)))
    assert found.pixels[20, 5].tolist() == [255, 0, 128]
    assert np.abs(found.pixels[20, 35] - PIXELS[20, 45].astype(int)).max() <= 3


@pytest.mark.fault(21)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_heic_turns_are_applied_once_as_its_boxes_say(orientation):
    data = heic(exif=exif(orientation).tobytes())
    assert orientation == 1 or b"irot" in data or b"imir" in data
    upright = ImageOps.exif_transpose(
        Image.open(io.BytesIO(encoded(PIXELS, "PNG", exif=exif(orientation))))
    )
    view = open_image(data, HOW)
    assert (view.width, view.height) == upright.size
    want = open_image(encoded(upright, "PNG"), HOW).pixels.astype(int)
    assert np.abs(view.pixels - want).max() <= 2


@pytest.mark.fault(21)
def test_heic_orientation_of_its_exif_and_xmp_does_not_count():
    xmp = b'<rdf:Description tiff:Orientation="6"/>'
    plain = open_image(heic(), HOW)
    for metadata in ({"exif": exif(6).tobytes()}, {"xmp": xmp}):
        data = heic(**metadata)
        at = data.index(b"irot") + 4
        view = open_image(data[:at] + b"\0" + data[at + 1 :], HOW)  # no quarter of a turn
        assert (view.width, view.height) == (60, 40)
        np.testing.assert_array_equal(view.pixels, plain.pixels)


@pytest.mark.fault(21)
@pytest.mark.parametrize("primary", [0, 1])
def test_heic_of_several_images_gives_the_primary_one(primary):
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    data = heic(frames[0], save_all=True, append_images=frames[1:], primary_index=primary)
    want = [(255, 0, 0), (0, 0, 255)][primary]
    assert np.abs(open_image(data, HOW).pixels - np.array(want)).max() <= 3


@pytest.mark.fault(21)
def test_heic_large_metadata_changes_nothing():
    plain = open_image(heic(), HOW).pixels
    for metadata in ({"icc_profile": bytes(2**23)}, {"xmp": bytes(2**23)}):
        np.testing.assert_array_equal(open_image(heic(**metadata), HOW).pixels, plain)


@pytest.mark.fault(19)
def test_heic_too_large_by_its_header_is_rejected_undecoded(tmp_path):
    path = tmp_path / "a.heic"
    path.write_bytes(resized(heic(SQUARE), 16_000, 16_000))
    outcome, peak_mb = opened_and_peak(path, Preprocess(square(1)).max_pixels)
    assert (outcome, peak_mb < 16) == (Reason.TOO_MANY_PIXELS, True)


@pytest.mark.fault(19)
def test_heic_header_that_lies_is_rejected():
    assert open_image(resized(heic(SQUARE), 32, 32), HOW).reason == Reason.CORRUPT


@pytest.mark.fault(18)
def test_heic_that_is_cut_is_rejected_wherever():
    for data in (heic(), heic(picture(150, 100), tile_size=64)):
        found = {end: open_image(data[:end], HOW) for end in range(30, len(data), 61)}
        reasons = {getattr(rejection, "reason", end) for end, rejection in found.items()}
        assert reasons <= {Reason.TRUNCATED, Reason.CORRUPT}
        assert open_image(data[:-1], HOW).reason == Reason.TRUNCATED


@pytest.mark.fault(18)
def test_heic_that_is_cut_and_closed_again_is_rejected():
    data = heic(chroma=420, quality=90)
    size = len(data) - data.index(b"mdat") - 4
    at = data.index(struct.pack(">I", size))  # of the extent, in `iloc`
    for part in (0.2, 0.5, 0.9):
        shorter = data[:at] + struct.pack(">I", int(part * size)) + data[at + 4 :]
        assert open_image(shorter, HOW).reason == Reason.TRUNCATED


@pytest.mark.fault(18)
def test_heic_whose_end_is_zeros_is_rejected():
    for data in (
        heic(),
        heic(picture(150, 100), tile_size=64),
        heic(np.dstack([SQUARE, SQUARE[..., 0]])),
    ):
        start = data.index(b"mdat") + 4
        for end in range(start, len(data) - 4, (len(data) - start) // 9):
            assert open_image(data[:end] + bytes(len(data) - end), HOW).reason == Reason.TRUNCATED


def test_heif_of_another_codec_is_unsupported_by_name():
    found = open_image(heic().replace(b"hvc1", b"av01").replace(b"hvcC", b"av1C"), HOW)
    assert found.reason == Reason.UNSUPPORTED
    assert "AV1" in found.message


def test_heic_by_its_general_brand_is_opened():
    data = heic()
    found = open_image(data[:8] + b"mif1" + data[12:], HOW)  # which AVIF may have, too
    np.testing.assert_array_equal(found.pixels, open_image(data, HOW).pixels)


@pytest.mark.fault(19)
def test_heic_and_jpeg_xl_are_opened_under_the_sandbox_limits():
    pixels = picture(300, 200)
    images = [encoded(pixels, kind) for kind in ("HEIF", "JXL")]
    sandbox = Sandbox(Preprocess(square(32), max_pixels=300 * 200))
    try:
        opened = sandbox.open(Compressed.of([*images, images[0][:900], images[1][:900]]))
        assert opened.is_open.tolist() == [True, True, False, False]
    finally:
        sandbox.close()


def test_heic_view_is_as_its_definition_says():
    data = heic()
    view = open_image(data, HOW)
    assert isinstance(view, View)
    assert_is_view(view, pillow_heif.open_heif(io.BytesIO(data)).to_pillow())
