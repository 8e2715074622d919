"""Every kind of PNG comes out as libpng reads it, whatever else is in the file."""

import io
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from tests.images.ramps import ALPHA, HOW, RAMP, RGB, SIDE, X, Y
from tests.images.test_views import opened_and_peak
from tests.makers import encoded, picture
from vqpipe.images import Preprocess, View, open_image, png, square
from vqpipe.rejections import Reason

GREY, COLOUR, PALETTE, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 3, 4, 6
ORIENTATION_6 = b"MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"  # EXIF 2.32
MEGABYTE = 2**20
ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)]  # first column, row; steps
ADAM7 += [(0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
KINDS = [(depth, GREY) for depth in (1, 2, 4, 8, 16)]
KINDS += [(depth, PALETTE) for depth in (1, 2, 4, 8)]
KINDS += [(depth, kind) for depth in (8, 16) for kind in (COLOUR, GREY_ALPHA, COLOUR_ALPHA)]
SIZES = [(48, 48), (48, 47), (37, 48), (9, 1), (1, 9), (2, 2), (3, 1), (1, 2), (5, 5)]


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def lines_of(samples, depth, interlaced=False):
    """Returns the lines of a PNG, each with its filter, as its stream has them (PNG 3, 7.2)."""
    if interlaced:
        passes = (samples[y::down, x::right] for x, y, right, down in ADAM7)
        return [line for part in passes if part.size for line in lines_of(part, depth)]
    places = (samples[..., None].astype(np.int64) >> np.arange(depth)[::-1]) & 1
    lines = np.packbits(places.reshape(len(samples), -1).astype(np.uint8), axis=1)
    return [b"\0" + line.tobytes() for line in lines]


def png_of(samples, depth, colour, *chunks, behind=(), interlaced=False, pixels=None):
    """Returns a PNG of integers, with chunks before and behind its pixels (PNG 3, section 11)."""
    height, width = samples.shape[:2]
    if pixels is None:
        pixels = zlib.compress(b"".join(lines_of(samples, depth, interlaced)))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
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
        (b"cICP", bytes([9, 13, 0, 1])),
        (b"cICP", bytes([9, 16, 0, 1, 0])),
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
    outcome, peak_mb = opened_and_peak(tmp_path / "bomb.png", Preprocess(square(1)).max_pixels)
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


def of_kind(depth, colour, width=SIDE, height=SIDE, level=None):
    """Returns what `png_of` takes of a kind of PNG; of one level, or of a picture without 0."""
    channels = {GREY: (), PALETTE: (), COLOUR: (3,), GREY_ALPHA: (2,), COLOUR_ALPHA: (4,)}[colour]
    rng = np.random.default_rng(0)
    samples = rng.integers(1, 2**depth, (height, width, *channels))
    samples = samples if level is None else np.full_like(samples, level)
    palette = rng.integers(0, 256, (2**depth, 3), np.uint8).tobytes()
    return samples, depth, colour, *([(b"PLTE", palette)] if colour == PALETTE else [])


def check_truncated(data):
    found = open_image(data, HOW)
    assert getattr(found, "reason", None) == Reason.TRUNCATED
    assert "truncated" in found.message
    with pytest.raises(imagecodecs.PngError):
        imagecodecs.png_decode(data)


@pytest.mark.fault(18)
@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("depth", "colour"), KINDS)
def test_png_whose_stream_ends_before_its_last_rows_is_truncated(depth, colour, interlaced):
    for width, height in SIZES:
        kind = of_kind(depth, colour, width, height)
        lines = lines_of(kind[0], depth, interlaced)
        for count in {1, len(lines) // 2, len(lines) - 1} - {0, len(lines)}:
            short = zlib.compress(b"".join(lines[:count]))
            check_truncated(png_of(*kind, interlaced=interlaced, pixels=short))


@pytest.mark.fault(18)
@pytest.mark.parametrize(
    ("depth", "colour", "transparent"),
    [(1, GREY, 2), (8, GREY, 2), (16, GREY, 2), (8, COLOUR, 6), (4, PALETTE, 1)],
)
def test_png_whose_missing_rows_would_be_transparent_is_truncated(depth, colour, transparent):
    kind = (*of_kind(depth, colour), (b"tRNS", bytes(transparent)))
    half = zlib.compress(b"".join(lines_of(*kind[:2])[: SIDE // 2]))
    check_truncated(png_of(*kind, pixels=half))
    assert isinstance(open_image(png_of(*kind), HOW), View)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("depth", "colour"), KINDS)
def test_png_of_zeros_to_its_end_is_opened(depth, colour, interlaced):
    for width, height in SIZES:
        kind = of_kind(depth, colour, width, height, level=0)
        lines = b"".join(lines_of(kind[0], depth, interlaced))
        for stream in (
            zlib.compress(lines),
            zlib.compress(lines, 0),
            zlib.compress(lines + b"x" * 99),
        ):
            data = png_of(*kind, interlaced=interlaced, pixels=stream)
            assert isinstance(open_image(data, HOW), View)
        assert imagecodecs.png_decode(png_of(*kind, interlaced=interlaced)).max() <= 255


@pytest.mark.fault(18)
@pytest.mark.parametrize("share", [0.5, 1])
def test_png_stream_is_counted_over_all_of_its_chunks(share):
    kind = of_kind(8, COLOUR, 300, 200, level=0)
    lines = lines_of(*kind[:2])
    stream = zlib.compress(b"".join(lines[: int(share * len(lines))]), 0)
    parts = [b"", *(stream[at : at + 9_999] for at in range(0, len(stream), 9_999)), b"", b"behind"]
    chunks = [(b"IDAT", part) for part in parts]
    data = png_of(*kind, *chunks[:-1], pixels=parts[-1])
    assert isinstance(open_image(data, HOW), View) == (share == 1)


@pytest.mark.fault(18)
@pytest.mark.parametrize("is_in_animation", [False, True])
def test_png_animation_whose_first_picture_lacks_rows_is_truncated(is_in_animation):
    frames = [Image.fromarray(picture(20, 30, seed)) for seed in (0, 1, 2)]
    whole = encoded(
        frames[0],
        "PNG",
        save_all=True,
        append_images=frames[1:],
        default_image=not is_in_animation,
    )
    assert isinstance(open_image(whole, HOW), View)
    at = whole.index(b"IDAT") - 4
    end = at + 12 + int.from_bytes(whole[at : at + 4], "big")
    lines = lines_of(np.asarray(frames[0]), 8)
    short = chunk(b"IDAT", zlib.compress(b"".join(lines[:15])))
    assert open_image(whole[:at] + short + whole[end:], HOW).reason == Reason.TRUNCATED


@pytest.mark.fault(19)
def test_png_that_inflates_to_much_is_counted_in_little_memory(tmp_path):
    data = png_of(np.zeros((10_000, 10_000), np.uint8), 8, GREY, pixels=zeros_of(10_000 * 10_001))
    (tmp_path / "bomb.png").write_bytes(data)
    outcome, peak_mb = opened_and_peak(tmp_path / "bomb.png", 10**8)
    assert outcome == "opened"
    assert peak_mb < 150, "pixels have 96, all that is inflated as much again"


def zeros_of(size):
    return zlib.compress(bytes(size), 9)


def test_png_whose_first_chunk_is_no_header_is_named():
    data = png_of(levels(RGB, 8), 8, COLOUR)
    moved = data[:8] + chunk(b"eXIf", ORIENTATION_6) + data[8:]
    assert open_image(moved, HOW).reason == Reason.UNSUPPORTED
    with pytest.raises((imagecodecs.PngError, UnicodeDecodeError)):  # of libpng's message
        imagecodecs.png_decode(moved)
