"""What an animation's first frame leaves of its canvas is transparent, as browsers have it."""

import struct

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from tests.makers import encoded, picture
from vqpipe.images import Preprocess, open_image, square


def gif_on_screen(transparent, background, *, is_local=False, has_palette=True):
    """Returns a GIF of 40 x 30 whose only frame has 32 x 16 of them from (4, 8): all colour 1."""
    image = Image.new("P" if has_palette else "L", (32, 16), 1)
    if has_palette:
        image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255] + [0] * 759)
    said = {} if transparent is None else {"transparency": transparent}
    data = bytearray(encoded(image, "GIF", optimize=False, **said))
    at = data.index(b"\x2c\0\0\0\0")  # GIF89a, section 20: the image descriptor
    struct.pack_into("<HH", data, 6, 40, 30)
    struct.pack_into("<HH", data, at + 1, 4, 8)
    data[11] = background
    if is_local:
        data[at + 9] |= 0x87
        data[at + 10 : at + 10] = data[13 : 13 + 768]
        del data[13 : 13 + 768]
        data[10] &= 0x7F
    return bytes(data)


@pytest.mark.fault(21)
@pytest.mark.parametrize("is_local", [False, True])
@pytest.mark.parametrize("background", [0, 1, 2])
@pytest.mark.parametrize("transparent", [None, 0, 1, 2])
def test_open_image_gif_around_its_frame_shows_the_background(transparent, background, is_local):
    """As Chromium shows it; by GIF89a, section 18, it would have the screen's background colour."""
    behind = (1, 200, 3)
    data = gif_on_screen(transparent, background, is_local=is_local)
    view = open_image(data, Preprocess(square(30), background=behind))
    assert (view.width, view.height, view.crop) == (40, 30, (5, 0, 35, 30))
    want = np.full((30, 40, 3), behind)
    if transparent != 1:
        want[8:24, 4:36] = (0, 255, 0)
        np.testing.assert_array_equal(imagecodecs.gif_decode(data)[8:24, 4:36], want[8:24, 4:36])
    np.testing.assert_array_equal(view.pixels, want[:, 5:35])


@pytest.mark.fault(21)
@pytest.mark.parametrize("transparent", [None, 0, 1])
def test_open_image_grey_gif_around_its_frame_shows_the_background(transparent):
    data = gif_on_screen(transparent, 0, has_palette=False)
    view = open_image(data, Preprocess(square(30), background=(1, 200, 3)))
    assert view.pixels[2, 2].tolist() == [1, 200, 3]
    assert view.pixels[12, 12].tolist() == ([1, 200, 3] if transparent == 1 else [1, 1, 1])


def webp_on_canvas(frame, flags, background):
    """Returns an animation of 64 x 64 of one frame, from (8, 8) on."""
    chunks = [
        (b"VP8X", bytes([flags, 0, 0, 0]) + _numbers(63, 63)),
        (b"ANIM", background + bytes(2)),
    ]
    place = _numbers(4, 4, *(side - 1 for side in frame.size), 100)  # halves, sides less one, ms
    inner = encoded(frame, "WEBP", quality=90)
    parts = inner[12:] if inner[12:16] != b"VP8X" else inner[30:]
    chunks.append((b"ANMF", place + b"\0" + parts))
    body = b"WEBP" + b"".join(
        kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for kind, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _numbers(*numbers):
    return b"".join(number.to_bytes(3, "little") for number in numbers)


@pytest.mark.fault(21)
@pytest.mark.parametrize("background", [b"\xff\0\0\xff", bytes(4)])
@pytest.mark.parametrize("alpha", [0, 0x10])
def test_open_image_webp_around_its_frame_shows_the_background(alpha, background):
    frame = Image.fromarray(picture(32, 32))
    data = webp_on_canvas(frame, 0x02 | alpha, background)
    view = open_image(data, Preprocess(square(64), background=(1, 200, 3)))
    want = np.full((64, 64, 3), (1, 200, 3), np.uint8)
    want[8:40, 8:40] = imagecodecs.webp_decode(encoded(frame, "WEBP", quality=90))[..., :3]
    np.testing.assert_array_equal(view.pixels, want)
