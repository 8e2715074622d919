"""Images that are left out by their size: what it is, and that nothing is decoded to know it."""

import zlib
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from tests.images.test_png import ORIENTATION_6, chunk
from tests.makers import encoded, jpeg, picture
from vqpipe.images import Compressed, Preprocess, open_image, square, views_of
from vqpipe.images.sandbox import Sandbox
from vqpipe.rejections import LeftOut, Reason, Rejection

HOW = Preprocess(square(8), kinds=("five-crop",))
XMP = b'<rdf:Description tiff:Orientation="6"/>'


def turned(kind, orientation, **options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(picture(61, 50), kind, exif=exif, **options)


def png_texts():
    """PNGs that say their orientation before and behind the pixels, in each way there is."""
    plain, exif = encoded(picture(61, 50), "PNG"), chunk(b"eXIf", ORIENTATION_6)
    late = plain[:-12] + exif[:-4] + b"oops" + plain[-12:]  # nobody looks at its checksum
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP.decode())
    profile = PngImagePlugin.PngInfo()
    text = "\nexif\n      32\n" + (b"Exif\0\0" + ORIENTATION_6).hex()
    profile.add_text("Raw profile type exif", text, zip=True)
    frames = [Image.fromarray(picture(61, 50, seed)) for seed in range(3)]
    moving = encoded(frames[0], "PNG", save_all=True, append_images=frames[1:])
    hidden = encoded(frames[0], "PNG", save_all=True, append_images=frames, default_image=True)
    return [
        plain,
        plain[:33] + exif + plain[33:],
        plain[:-12] + exif + plain[-12:],
        plain[:-12] + exif,
        plain[:-12] + exif[:-9],
        late,
        encoded(picture(61, 50), "PNG", pnginfo=info),
        encoded(picture(61, 50), "PNG", pnginfo=profile),
        *(each[:-12] + exif + each[-12:] for each in (moving, hidden)),
        *(each[:33] + exif + each[33:] for each in (moving, hidden)),
    ]


def files():
    kinds = ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "MPO"]
    found = [turned(kind, number) for kind in kinds for number in range(10)]
    found += [encoded(picture(61, 50), kind, xmp=XMP) for kind in ("JPEG", "WEBP", "TIFF", "AVIF")]
    found += [turned(kind, number, xmp=XMP) for kind in ("JPEG", "TIFF") for number in (1, 3, 8)]
    found += [turned("TIFF", 6, compression=each) for each in ("jpeg", "tiff_lzw")]
    found += [encoded(picture(61, 50), kind) for kind in ("GIF", "BMP")]
    return found + png_texts()


@pytest.mark.fault(21)
def test_size_of_a_header_is_that_of_the_upright_image():
    turns = set()
    for number, data in enumerate(files()):
        opened = open_image(data, HOW)
        if isinstance(opened, Rejection):
            assert opened.reason in {Reason.TRUNCATED, Reason.CORRUPT}
            continue
        turns.add((opened.width, opened.height))
        size = f"width == {opened.width} and height == {opened.height}"
        found = open_image(data, replace(HOW, where=(size, "width > 9")))
        assert np.array_equal(found.pixels, opened.pixels), number
        assert found.crop == opened.crop
        unlike = f"not ({size})"
        assert views_of(data, replace(HOW, where=("width > 9", unlike))) == LeftOut(unlike), number
    assert turns == {(61, 50), (50, 61)}


def headers_only():
    """Images of 61 x 50 pixels of which no decoder makes anything, and what is large."""
    cut = [turned(kind, 6)[:-400] for kind in ("JPEG", "TIFF")]
    pixels = chunk(b"IDAT", b"no stream")
    plain = encoded(picture(61, 50), "PNG")
    small = zlib.compress(bytes(10))
    return [
        *cut,
        plain[:33] + pixels + plain[-12:],
        plain[:33] + chunk(b"eXIf", ORIENTATION_6) + pixels + plain[-12:],
        plain[:33] + pixels + chunk(b"eXIf", ORIENTATION_6) + plain[-12:],
        plain[:33] + chunk(b"IDAT", small) + plain[-12:],
    ]


def test_image_that_is_left_out_is_not_decoded():
    for data in headers_only():
        assert open_image(data, HOW).reason in {Reason.TRUNCATED, Reason.CORRUPT}
        left_out = views_of(data, replace(HOW, where=("width > 61",)))
        assert left_out == LeftOut("width > 61")


def test_image_that_is_left_out_is_not_rejected_for_its_pixels():
    how = replace(HOW, max_pixels=100, where=("width < 50",))
    assert open_image(jpeg(60, 40), how) == LeftOut("width < 50")
    assert open_image(jpeg(40, 30), how).reason == Reason.TOO_MANY_PIXELS
    assert open_image(b"", how).reason == Reason.EMPTY
    assert open_image(b"<html>", how).reason == Reason.NOT_AN_IMAGE


def test_sandbox_leaves_out_as_the_process_itself():
    how = replace(HOW, where=("width / height < 2", "40 <= width <= 60 or height in [7, 8]"))
    sizes = [(60, 40), (61, 40), (80, 40), (61, 8), (9, 8), (9, 7), (10, 6)]
    data = [jpeg(*size) for size in sizes]
    data = [*data[:3], b"<html>", jpeg()[:300], *data[3:]]
    with closing(Sandbox(how)) as sandbox:
        found = list(sandbox.open(Compressed.of([*data, None])))
    expected = [*(views_of(each, how) for each in data), None]
    for one, other in zip(found, expected, strict=True):
        assert type(one) is type(other)
        assert isinstance(one, tuple) or one == other
    kinds = "".join(type(each).__name__[0] for each in found)
    assert kinds == "tLLRRLttLN"
    assert [each.why for each in found if isinstance(each, LeftOut)] == [
        "40 <= width <= 60 or height in [7, 8]",
        *["width / height < 2"] * 2,
        "40 <= width <= 60 or height in [7, 8]",
    ]
