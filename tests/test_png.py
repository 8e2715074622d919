"""Every kind of PNG comes out as libpng reads it, whatever else is in the file."""

import io
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from pipeline import png
from pipeline.images import Preprocess, View, open_image
from pipeline.schema import Reason
from tests.makers import encoded, picture
from tests.test_images import opened_and_peak

SIDE = 48
HOW = Preprocess(SIDE)
Y, X = np.mgrid[:SIDE, :SIDE]
RAMP = (2 * X + Y) / (3 * (SIDE - 1))  # 0 to 1
RGB = np.stack([RAMP, 1 - RAMP, RAMP.T], -1)
ALPHA = np.clip(X / 40, 0, 1)[..., None]
GREY, COLOUR, PALETTE, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 3, 4, 6
ORIENTATION_6 = b"MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"  # EXIF 2.32
MEGABYTE = 2**20


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(samples, depth, colour, *chunks, behind=()):
    """Returns a PNG of integers, with chunks before and behind its pixels (PNG 3, section 11)."""
    height, width = samples.shape[:2]
    places = (samples[..., None].astype(np.int64) >> np.arange(depth)[::-1]) & 1
    lines = np.packbits(places.reshape(height, -1).astype(np.uint8), axis=1)
    pixels = zlib.compress(b"".join(b"\0" + line.tobytes() for line in lines))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", pixels), *behind, (b"IEND", b"")]
    return png.SIGNATURE + b"".join(chunk(*part) for part in parts)


def levels(values, depth):
    return np.round(values * (2**depth - 1)).astype(np.int64)


def libpng(data):
    """Returns (SIDE, SIDE, 3), 0..255, as libpng sees a PNG, on white."""
    found = imagecodecs.png_decode(data)
    found = found / (257 if found.dtype == np.uint16 else 1)
    found = found if found.ndim == 3 else found[..., None]
    if found.shape[-1] in {2, 4}:
        alpha = found[..., -1:] / 255
        return found[..., :-1] * alpha + 255 * (1 - alpha)
    return found


def check_opened(data, want=None, most=1):
    found = open_image(data, HOW)
    assert isinstance(found, View), found
    want = libpng(data) if want is None else want
    assert np.abs(found.pixels - want).max() <= most


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_png_grey_and_its_transparent_level_are_as_libpng_sees_them(depth):
    stored = levels(RAMP, depth)
    check_opened(png_of(stored, depth, GREY))
    for level in (0, int(stored[20, 20]), 2**depth - 1):
        data = png_of(stored, depth, GREY, (b"tRNS", struct.pack(">H", level)))
        check_opened(data)
        shown = np.where(stored == level, 255, 255 * stored / (2**depth - 1))
        check_opened(data, shown[..., None])


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_png_palette_and_its_alphas_are_as_libpng_sees_them(depth):
    rng, count = np.random.default_rng(0), 2**depth
    colours = (b"PLTE", rng.integers(0, 256, (count, 3), np.uint8).tobytes())
    alphas = rng.integers(0, 256, count, np.uint8).tobytes()
    stored = (5 * X + Y) % count
    check_opened(png_of(stored, depth, PALETTE, colours))
    for transparent in (alphas, alphas[:1], b"\0", b"\xff\0"):
        check_opened(png_of(stored, depth, PALETTE, colours, (b"tRNS", transparent)))


@pytest.mark.parametrize("depth", [8, 16])
def test_png_colours_and_alpha_are_as_libpng_sees_them(depth):
    check_opened(png_of(levels(RGB, depth), depth, COLOUR))
    with_alpha = levels(np.concatenate([RGB, ALPHA], -1), depth)
    # Pillow takes the high bytes of 16 bits before it mixes.
    check_opened(png_of(with_alpha, depth, COLOUR_ALPHA), most=depth // 8)
    check_opened(png_of(with_alpha[..., [0, 3]], depth, GREY_ALPHA), most=depth // 8)


def test_png_transparent_colour_is_as_libpng_sees_it_or_named():
    stored = levels(RGB, 8)
    transparent = struct.pack(">3H", *stored[20, 20].tolist())
    check_opened(png_of(stored, 8, COLOUR, (b"tRNS", transparent)))
    found = open_image(png_of(257 * stored, 16, COLOUR, (b"tRNS", transparent)), HOW)
    assert found.reason == Reason.UNSUPPORTED
    assert "16 bits" in found.message


@pytest.mark.parametrize(
    "ancillary",
    [
        (b"gAMA", struct.pack(">I", 100_000)),
        (b"gAMA", b"\0"),
        (b"sRGB", b"\0"),
        (b"cHRM", bytes(32)),
        (b"cICP", bytes([9, 16, 0, 1])),
        (b"sBIT", b"\5\5\5"),
        (b"bKGD", bytes(6)),
        (b"iCCP", b"name\0\0" + zlib.compress(b"no profile")),
        (b"zTXt", b"Comment\0\7unknown compression"),
        (b"prVt", b"of somebody's own"),
    ],
    ids=lambda part: f"{part[0].decode()}-{len(part[1])}",
)
@pytest.mark.parametrize("depth", [8, 16])
def test_png_what_is_said_of_colours_changes_nothing(depth, ancillary):
    stored = levels(RGB, depth)
    check_opened(png_of(stored, depth, COLOUR, ancillary), 255 * RGB)
    check_opened(png_of(stored, depth, COLOUR, behind=[ancillary]), 255 * RGB)


def text_of(kind, size):
    zeros = bytes(size)
    return {
        b"tEXt": b"Comment\0" + b"x" * size,
        b"zTXt": b"Comment\0\0" + zlib.compress(zeros, 9),
        b"iTXt": b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(zeros, 9),
        b"iCCP": b"name\0\0" + zlib.compress(zeros, 9),
        b"prVt": zeros,
    }[kind]


@pytest.mark.fault(19, 21)
@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"prVt"])
def test_png_texts_and_profiles_of_any_size_change_nothing(kind):
    for size in (10, 2 * MEGABYTE):
        large = (kind, text_of(kind, size))
        check_opened(png_of(levels(RGB, 8), 8, COLOUR, large), 255 * RGB)
        check_opened(png_of(levels(RGB, 8), 8, COLOUR, behind=[large]), 255 * RGB)


@pytest.mark.fault(19)
def test_png_bombs_of_texts_take_no_memory(tmp_path):
    bomb = zlib.compress(bytes(100 * MEGABYTE), 1)
    texts = [
        (b"iCCP", b"name\0\0" + bomb),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + bomb),
        (b"zTXt", b"Raw profile type exif\0\0" + bomb),
    ]
    data = png_of(levels(RGB, 8), 8, COLOUR, *(texts * 20), behind=texts)
    (tmp_path / "bomb.png").write_bytes(data)
    outcome, peak_mb = opened_and_peak(tmp_path / "bomb.png", Preprocess(1).max_pixels)
    assert outcome == "opened"
    assert peak_mb < 64


def rotated(data):
    found = open_image(data, HOW)
    return (found.width, found.height)


def png_with(**texts):
    info = PngImagePlugin.PngInfo()
    for keyword, (text, options) in texts.items():
        info.add_text(keyword.replace("_", " "), text, **options)
    return encoded(picture(60, 40), "PNG", pnginfo=info)


@pytest.mark.fault(21)
def test_png_orientation_is_applied_wherever_it_is_said():
    plain = encoded(picture(60, 40), "PNG")
    exif = chunk(b"eXIf", ORIENTATION_6)
    large = chunk(b"zTXt", text_of(b"zTXt", 2 * MEGABYTE))
    profile = "\nexif\n      32\n" + (b"Exif\0\0" + ORIENTATION_6).hex()
    xmp = '<rdf:Description tiff:Orientation="6"/>'
    assert rotated(plain) == (60, 40)
    assert rotated(plain[:33] + large + exif + plain[33:]) == (40, 60)
    assert rotated(plain[:-12] + large + exif + plain[-12:]) == (40, 60)
    for zipped in (False, True):
        options = {"zip": zipped}
        assert rotated(png_with(Raw_profile_type_exif=(profile, options))) == (40, 60)
        data = encoded(picture(60, 40), "PNG", pnginfo=_xmp(xmp, zipped))
        assert rotated(data[:33] + large + data[33:]) == (40, 60)


def _xmp(text, zipped):
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", text, zip=zipped)
    return info


@pytest.mark.fault(18)
def test_png_that_is_cut_is_truncated_whatever_stands_before_its_pixels():
    data = png_of(levels(RGB, 8), 8, COLOUR, (b"tEXt", b"Comment\0" + bytes(5000)))
    for end in (3000, len(data) - 500):
        assert open_image(data[:end], HOW).reason == Reason.TRUNCATED


@pytest.mark.fault(18)
def test_png_text_that_is_cut_behind_the_pixels_takes_nothing_away():
    data = png_of(levels(RGB, 8), 8, COLOUR, behind=[(b"tEXt", b"Comment\0" + bytes(5000))])
    check_opened(data[:-3000], 255 * RGB)


def test_png_without_ballast_is_a_png_that_other_decoders_read():
    texts = [(b"zTXt", text_of(b"zTXt", 100)), (b"iCCP", text_of(b"iCCP", 100))]
    data = png_of(levels(RGB, 8), 8, COLOUR, *texts, (b"gAMA", bytes(4)), behind=texts)
    bare = png.without_ballast(data)
    assert len(bare) < len(data)
    np.testing.assert_array_equal(imagecodecs.png_decode(bare), levels(RGB, 8))
    assert Image.open(io.BytesIO(bare)).info == {}
    assert png.without_ballast(bare) is bare


@pytest.mark.fault(21)
def test_png_animation_with_large_texts_gives_the_first_frame():
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "PNG", save_all=True, append_images=frames[1:])
    data = data[:33] + chunk(b"zTXt", text_of(b"zTXt", 2 * MEGABYTE)) + data[33:]
    assert open_image(data, HOW).pixels[0, 0].tolist() == [255, 0, 0]
