import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from tests.makers import encoded, jpeg, picture
from vqpipe.images import FORMATS, ImageFormat, Preprocess, View, compress, open_image, square
from vqpipe.rejections import Reason, Rejection

HOW = Preprocess(square(32))
NOISE = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)


def cubic(x):
    """Keys' kernel with a = -0.5 (Keys 1981, equation 15), which Pillow calls bicubic."""
    x = np.abs(x)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def lanczos(x):
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)


def weights(length, start, side, size, kernel):
    """Returns (size, length): how much each pixel of a line counts for each of the view."""
    scale = side / size
    centres = start + (np.arange(size) + 0.5) * scale
    distances = np.arange(length) + 0.5 - centres[:, None]
    rows = kernel(distances / max(scale, 1))
    return rows / rows.sum(1, keepdims=True)


def centre_square(image, size, kernel=cubic):
    """Returns the view computed from its definition; rows are rounded first, as Pillow does."""
    pixels = np.asarray(image.convert("RGB")).astype(float)
    height, width, _ = pixels.shape
    side = min(width, height)
    across = weights(width, (width - side) // 2, side, size, kernel)
    down = weights(height, (height - side) // 2, side, size, kernel)
    lines = np.einsum("xw,hwc->hxc", across, pixels).round().clip(0, 255)
    return np.einsum("yh,hxc->yxc", down, lines).round().clip(0, 255)


def assert_is_view(view, image, kernel=cubic):
    """One level off is where fixed-point and floating-point sums round to different sides."""
    want = centre_square(image, len(view.pixels), kernel)
    assert np.abs(view.pixels - want).max() <= 1


def reason_of(data, how=HOW):
    result = open_image(data, how)
    assert isinstance(result, Rejection)
    assert 0 < len(result.message) <= 200
    assert result.message.isprintable()
    assert "0x" not in result.message
    return result.reason


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(("width", "height"), [(60, 50), (50, 61), (7, 9), (32, 32), (1, 1)])
def test_open_image_every_format_equals_the_definition(kind, width, height):
    data = encoded(picture(width, height), kind)
    view = open_image(data, HOW)
    assert_is_view(view, Image.open(io.BytesIO(data)))
    assert (view.pixels.shape, view.pixels.dtype) == ((32, 32, 3), np.uint8)
    assert (view.width, view.height) == (width, height)


@pytest.mark.parametrize(
    ("width", "height", "crop"),
    [(61, 50, (5, 0, 55, 50)), (50, 61, (0, 5, 50, 55)), (50, 50, (0, 0, 50, 50))],
)
def test_open_image_crop_is_the_centre_square(width, height, crop):
    assert open_image(jpeg(width, height), HOW).crop == crop


@pytest.mark.parametrize(
    ("size", "box"), [((128, 64), (16, 0, 48, 32)), ((64, 96), (0, 8, 32, 40))]
)
def test_open_image_whole_ratio_equals_resize_then_centre_crop(size, box):
    image = Image.fromarray(picture(*size))
    resized = image.resize((size[0] // 2, size[1] // 2), Image.Resampling.BICUBIC)
    want = np.asarray(resized.crop(box))
    np.testing.assert_array_equal(open_image(encoded(image, "PNG"), HOW).pixels, want)


def test_open_image_lanczos_equals_its_definition():
    data = encoded(NOISE, "PNG")
    view = open_image(data, Preprocess(square(32), resample="lanczos"))
    assert_is_view(view, Image.fromarray(NOISE), lanczos)
    assert not np.array_equal(view.pixels, open_image(data, HOW).pixels)


def test_open_image_large_jpeg_is_decoded_at_full_size():
    data = jpeg(800, 600)  # Pillow's draft mode would decode an eighth of this for a small view
    assert_is_view(open_image(data, HOW), Image.open(io.BytesIO(data)))


@pytest.mark.fault(21)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_open_image_exif_orientation_is_applied_first(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture(61, 50), kind, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    view = open_image(data, HOW)
    assert_is_view(view, upright)
    assert (view.width, view.height) == upright.size == ((61, 50), (50, 61))[orientation > 4]


@pytest.mark.fault(21)
def test_open_image_unreadable_exif_counts_as_upright():
    data = jpeg(40, 30, exif=b"Exif\x00\x00this is no TIFF header")
    np.testing.assert_array_equal(
        open_image(data, HOW).pixels, open_image(jpeg(40, 30), HOW).pixels
    )


@pytest.mark.fault(21)
@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_open_image_grey_bilevel_and_palette_become_rgb(mode):
    image = Image.fromarray(NOISE).convert(mode)
    view = open_image(encoded(image, "PNG"), HOW)
    assert_is_view(view, image)


@pytest.mark.fault(21)
@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_open_image_transparency_shows_the_background(mode):
    rgba = np.dstack([NOISE, NOISE[..., 0]])
    image = Image.fromarray(rgba).convert(mode)
    how = Preprocess(square(50), background=(255, 0, 128))
    view = open_image(encoded(image, "TIFF" if mode == "PA" else "PNG"), how)
    stored = np.asarray(image.convert("RGBA")).astype(float)
    alpha = stored[..., 3:] / 255
    blended = stored[..., :3] * alpha + np.array(how.background) * (1 - alpha)
    assert np.abs(view.pixels - blended[:, 5:55]).max() <= 1


@pytest.mark.fault(21)
@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_open_image_transparent_palette_entry_shows_the_background(kind):
    image = Image.new("P", (40, 40), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(0, (0, 0, 20, 40))
    view = open_image(
        encoded(image, kind, transparency=0), Preprocess(square(40), background=(1, 2, 3))
    )
    assert view.pixels[20, 5].tolist() == [1, 2, 3]
    assert view.pixels[20, 35].tolist() == [0, 0, 255]


@pytest.mark.fault(21)
def test_open_image_transparent_colour_of_rgb_shows_the_background():
    data = encoded(Image.new("RGB", (9, 9), (10, 20, 30)), "PNG", transparency=(10, 20, 30))
    assert open_image(data, Preprocess(square(4), background=(7, 8, 9))).pixels[0, 0].tolist() == [
        7,
        8,
        9,
    ]


@pytest.mark.fault(21)
@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_open_image_cmyk_is_converted_as_pillow_does(kind):
    cmyk = Image.fromarray(picture(60, 50)).convert("CMYK")
    data = encoded(cmyk, kind)
    view = open_image(data, HOW)
    assert_is_view(view, Image.open(io.BytesIO(data)))
    plain = open_image(encoded(picture(60, 50), "PNG"), HOW).pixels.astype(int)
    assert np.abs(view.pixels - plain).mean() < 8, "Adobe's inverted CMYK would be a negative"


@pytest.mark.fault(21)
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_open_image_16_bit_grey_is_scaled_not_clipped(kind):
    levels = np.linspace(0, 65_535, 64 * 64).astype(np.uint16).reshape(64, 64)
    view = open_image(encoded(levels, kind), Preprocess(square(64)))
    want = np.round(levels / 257).astype(np.uint8)
    np.testing.assert_array_equal(view.pixels, np.dstack([want] * 3))


@pytest.mark.fault(21)
@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_open_image_animation_gives_the_first_frame(kind):
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    lossless = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **lossless)
    assert Image.open(io.BytesIO(data)).n_frames == 2
    assert open_image(data, HOW).pixels[0, 0].tolist() == [255, 0, 0]


@pytest.mark.fault(21)
def test_open_image_mpo_gives_the_first_picture():
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("white", "black")]
    data = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert open_image(data, HOW).pixels[0, 0].tolist() == [255, 255, 255]


@pytest.mark.fault(21)
def test_open_image_icc_profile_changes_nothing():
    plain = open_image(jpeg(), HOW).pixels
    np.testing.assert_array_equal(open_image(jpeg(icc_profile=b"any profile"), HOW).pixels, plain)


@pytest.mark.fault(21)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("profile", ["sRGB", "LAB"])
def test_open_image_real_icc_profile_changes_nothing(kind, profile):
    lossless = {"lossless": True} if kind == "WEBP" else {}
    plain = encoded(NOISE, kind, **lossless)
    made = ImageCms.ImageCmsProfile(ImageCms.createProfile(profile)).tobytes()
    tagged = encoded(NOISE, kind, icc_profile=made, **lossless)
    assert Image.open(io.BytesIO(tagged)).info["icc_profile"] == made
    np.testing.assert_array_equal(open_image(tagged, HOW).pixels, open_image(plain, HOW).pixels)


@pytest.mark.fault(21)
def test_open_image_ycck_is_converted_as_pillow_does():
    cmyk = bytearray(encoded(Image.fromarray(picture(60, 50)).convert("CMYK"), "JPEG"))
    at = cmyk.index(b"Adobe") + 11  # the marker's last byte: 0 is CMYK, 2 is YCCK
    assert cmyk[at] == 0
    ycck = bytes(cmyk[:at]) + b"\2" + bytes(cmyk[at + 1 :])
    view = open_image(ycck, HOW)
    assert_is_view(view, Image.open(io.BytesIO(ycck)))
    assert not np.array_equal(view.pixels, open_image(bytes(cmyk), HOW).pixels)


@pytest.mark.fault(21)
def test_open_image_cmyk_without_adobes_mark_is_unsupported():
    cmyk = encoded(Image.fromarray(picture(60, 50)).convert("CMYK"), "JPEG")
    at = cmyk.index(b"\xff\xee")
    end = at + 2 + int.from_bytes(cmyk[at + 2 : at + 4], "big")
    assert reason_of(cmyk[:at] + cmyk[end:]) == Reason.UNSUPPORTED


def segments(marker, head, size):
    """Returns JPEG segments of one kind, together of some size (ITU-T T.81, B.2.4)."""
    body = head + bytes(65_000)
    return (bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body) * (size // 65_000)


def with_metadata(kind, size):
    """Returns files of one picture with metadata of some size, by what it is."""
    if kind == "GIF":
        data = encoded(NOISE, kind)
        at = data.index(b"\x2c\0\0\0\0")  # the image descriptor; a block has 255 bytes at most
        comment = b"\x21\xfe" + (b"\xff" + bytes(255)) * (size // 256) + b"\0"
        return {"comment": data[:at] + comment + data[at:]}
    if kind == "JPEG":
        data = encoded(NOISE, kind)
        kinds = {"exif": (0xE1, b"Exif\0\0"), "xmp": (0xE1, b"http://ns.adobe.com/xap/1.0/\0")}
        kinds |= {"icc": (0xE2, b"ICC_PROFILE\0\1\xff"), "comment": (0xFE, b"")}
        return {name: data[:2] + segments(*how, size) + data[2:] for name, how in kinds.items()}
    lossless = {"lossless": True} if kind == "WEBP" else {}
    xmp = {"xmp": bytes(size)} if kind == "WEBP" else {"tiffinfo": {700: bytes(size)}}
    icc = encoded(NOISE, kind, icc_profile=bytes(size), **lossless)
    return {"icc": icc, "xmp": encoded(NOISE, kind, **xmp, **lossless)}


@pytest.mark.fault(21)
@pytest.mark.parametrize("kind", ["GIF", "JPEG", "TIFF", "WEBP"])
def test_open_image_large_metadata_changes_nothing(kind):
    lossless = {"lossless": True} if kind == "WEBP" else {}
    plain = open_image(encoded(NOISE, kind, **lossless), HOW)
    for name, data in with_metadata(kind, 2**23).items():
        assert len(data) > 2**22
        found = open_image(data, HOW)
        assert isinstance(found, View), (name, found)
        np.testing.assert_array_equal(found.pixels, plain.pixels)


@pytest.mark.fault(18)
def test_open_image_zero_bytes_is_empty():
    assert reason_of(b"") == Reason.EMPTY


@pytest.mark.fault(18)
@pytest.mark.parametrize(
    "data",
    [
        b"<html><body>404 Not Found</body></html>",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
        b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom" + bytes(100),
        b"P6 2 2 255 123456789012",
        b"\xff",
        bytes(1000),
    ],
    ids=["html", "svg", "eps", "mp4", "ppm", "one-byte", "zeros"],
)
def test_open_image_other_content_is_not_an_image(data):
    assert reason_of(data) == Reason.NOT_AN_IMAGE


@pytest.mark.fault(18)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_open_image_half_a_file_is_truncated(kind):
    data = encoded(NOISE, kind)
    assert reason_of(data[: len(data) // 2]) == Reason.TRUNCATED


@pytest.mark.fault(18)
def test_open_image_broken_header_is_corrupt():
    assert reason_of(b"\xff\xd8\xff" + bytes(50)) == Reason.CORRUPT


@pytest.mark.fault(18)
def test_open_image_broken_data_is_corrupt():
    data = bytearray(encoded(NOISE, "PNG"))
    start = data.index(b"IDAT") + 4
    data[start : start + 50] = bytes(50)
    assert reason_of(bytes(data)) == Reason.CORRUPT


@pytest.mark.fault(18)
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about the damage made here
@pytest.mark.parametrize("kind", FORMATS)
def test_open_image_random_damage_never_raises(kind):
    rng = np.random.default_rng(1)
    original = np.frombuffer(encoded(picture(40, 30), kind), np.uint8)
    for _ in range(100):
        data = original.copy()
        places = rng.integers(0, min(len(data), 600), 5)
        data[places] = rng.integers(0, 256, 5)
        assert isinstance(open_image(data.tobytes(), HOW), View | Rejection)


def png_header(width, height):
    """Returns a PNG of 33 bytes that announces a size and holds no pixels (RFC 2083, 11.2.1)."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + bytes(4)


@pytest.mark.fault(19)
def test_open_image_900_megapixel_header_is_rejected_undecoded():
    assert reason_of(png_header(30_000, 30_000)) == Reason.TOO_MANY_PIXELS


def png_of_zeros(side):
    """Returns a black 1-bit PNG with a transparent level: 5 bytes a pixel once it is RGBA."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    data = zlib.compress(bytes(side * (1 + (side + 7) // 8)), 9)
    parts = [(b"IHDR", header), (b"tRNS", b"\0\0"), (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


OPEN_AND_MEASURE = """
import sys
from pathlib import Path
from vqpipe.images import Preprocess, open_image, square

def peak():  # getrusage's is that of the parent, too
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024

data = Path(sys.argv[1]).read_bytes()
before = peak()
found = open_image(data, Preprocess(square(32), max_pixels=int(sys.argv[2])))
print(getattr(found, "reason", "opened"), peak() - before)
"""


def opened_and_peak(path, max_pixels):
    """Returns what becomes of an image in a process of its own, and the MB that it takes more."""
    command = [sys.executable, "-c", OPEN_AND_MEASURE, path, str(max_pixels)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    outcome, peak_mb = output.split()
    return outcome, int(peak_mb)


@pytest.mark.fault(19)
def test_open_image_bombs_take_no_memory(tmp_path):
    bomb = png_of_zeros(13_170)
    assert len(bomb) < 22_000
    for number, data in enumerate([bomb, png_header(30_000, 30_000)]):
        (tmp_path / f"{number}.png").write_bytes(data)
        outcome, peak_mb = opened_and_peak(
            tmp_path / f"{number}.png", Preprocess(square(1)).max_pixels
        )
        assert outcome == Reason.TOO_MANY_PIXELS
        assert peak_mb < 16
    outcome, peak_mb = opened_and_peak(tmp_path / "0.png", 10**9)
    assert (outcome, peak_mb > 800) == ("opened", True), "or it is no bomb"


@pytest.mark.fault(19)
def test_open_image_own_limit_decides_and_pillows_is_silent():
    data = encoded(Image.new("1", (10_000, 10_000)), "PNG")  # Pillow warns above 89 megapixels
    assert isinstance(open_image(data, HOW), View)
    assert reason_of(data, Preprocess(square(32), max_pixels=10**8 - 1)) == Reason.TOO_MANY_PIXELS


@pytest.mark.fault(19)
def test_open_image_exactly_the_limit_is_opened():
    assert isinstance(open_image(jpeg(40, 30), Preprocess(square(8), max_pixels=1_200)), View)
    assert (
        reason_of(jpeg(40, 30), Preprocess(square(8), max_pixels=1_199)) == Reason.TOO_MANY_PIXELS
    )


def test_open_image_same_bytes_give_the_same_message():
    data = jpeg()[:300]
    assert open_image(data, HOW) == open_image(bytes(bytearray(data)), HOW)


def test_compress_png_round_trip_is_exact():
    data = compress(NOISE, ImageFormat("png"))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), NOISE)


@pytest.mark.parametrize("name", ["jpeg", "webp"])
def test_compress_with_losses_is_close_and_quality_counts(name):
    pixels = picture(64, 64)
    data = compress(pixels, ImageFormat(name))
    decoded = Image.open(io.BytesIO(data))
    assert (decoded.format, decoded.size) == (name.upper(), (64, 64))
    assert np.abs(np.asarray(decoded) - pixels.astype(int)).mean() < 8
    assert len(compress(pixels, ImageFormat(name, quality=50))) < len(data)


def test_compress_jpeg_keeps_colours_at_full_resolution():
    stripes = np.zeros((16, 16, 3), np.uint8)
    stripes[:, ::2, 0] = stripes[:, 1::2, 2] = 255
    back = np.asarray(Image.open(io.BytesIO(compress(stripes, ImageFormat("jpeg")))))
    assert np.abs(back.astype(int) - stripes).max() < 60
