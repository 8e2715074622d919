"""HDR is rejected by name wherever a file says it, but only if that is said of what is shown."""

import contextlib
import struct

import numpy as np
import pytest
from PIL import Image

from tests.images.ramps import HOW, RGB
from tests.images.test_png import COLOUR, check_opened, chunk, levels, png_of
from tests.makers import encoded, picture
from vqpipe.images import View, heif, open_image
from vqpipe.rejections import Reason

PIXELS = picture(60, 40)
PQ, HLG = 16, 18
named = pytest.mark.parametrize(("transfer", "name"), [(PQ, "PQ"), (HLG, "HLG")])


def check_named(data, name):
    found = open_image(data, HOW)
    assert (found.reason, name in found.message) == (Reason.UNSUPPORTED, True), found


def box(kind, body):
    return struct.pack(">I", len(body) + 8) + kind + body


def nclx(transfer):
    return box(b"colr", b"nclx" + struct.pack(">HHHB", 9, transfer, 9, 128))


def meta(properties, owned, primary=1, parts=(), wide=False):
    """Returns the boxes around items, of which `owned` has the places of their properties."""
    number, version = ">I" if wide else ">H", bytes([wide, 0, 0, wide])
    ipma = version + struct.pack(">I", len(owned))
    for item, places in owned.items():
        ipma += struct.pack(number, item) + bytes([len(places)])
        ipma += b"".join(struct.pack(">H" if wide else ">B", place) for place in places)
    iprp = box(b"iprp", box(b"ipco", b"".join(properties)) + box(b"ipma", ipma))
    pitm = box(b"pitm", version + struct.pack(number, primary))
    made_of = [struct.pack(number, part) for part in parts]
    dimg = struct.pack(number, primary) + struct.pack(">H", len(parts)) + b"".join(made_of)
    iref = box(b"iref", version + box(b"dimg", dimg))
    return box(b"ftyp", b"avif\0\0\0\0mif1") + box(b"meta", bytes(4) + pitm + iprp + iref)


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 1 +X 1\n", "Radiance"),
        (b"#?RGBE\n", "Radiance"),
        (b"\x76\x2f\x31\x01\2\0\0\0channels\0", "OpenEXR"),
        (b"II\xbc\1 \0\0\0", "JPEG XR"),
    ],
)
def test_hdr_formats_are_unsupported_by_name(start, name):
    check_named(start + bytes(200), name)


@named
@pytest.mark.parametrize("depth", [8, 16])
def test_png_marked_as_hdr_is_unsupported_by_name(transfer, name, depth):
    mark = (b"cICP", bytes([9, transfer, 0, 1]))
    check_named(png_of(levels(RGB, depth), depth, COLOUR, (b"tEXt", b"a\0b"), mark), name)


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_png_whose_mark_does_not_count_is_opened(transfer):
    stored, mark = levels(RGB, 8), (b"cICP", bytes([9, transfer, 0, 1]))
    check_opened(png_of(stored, 8, COLOUR, behind=[mark]), 255 * RGB)
    marked = png_of(stored, 8, COLOUR, mark)
    at = marked.index(chunk(*mark)) + 12
    damaged = marked[:at] + b"\0\0\0\0" + marked[at + 4 :]  # its checksum
    check_opened(damaged, 255 * RGB)


@named
def test_avif_marked_as_hdr_is_unsupported_by_name(transfer, name):
    data = encoded(PIXELS, "AVIF")
    at = data.index(b"nclx") + 6
    assert isinstance(open_image(data, HOW), View)
    check_named(data[:at] + struct.pack(">H", transfer) + data[at + 2 :], name)


@named
def test_avif_animation_marked_as_hdr_is_unsupported_by_name(transfer, name):
    frames = [Image.fromarray(PIXELS)] * 2
    data = encoded(frames[0], "AVIF", save_all=True, append_images=frames[1:])
    at = data.rindex(b"nclx") + 6
    assert at > data.index(b"moov")
    check_named(data[:at] + struct.pack(">H", transfer) + data[at + 2 :], name)


@named
@pytest.mark.parametrize("tile_size", [0, 64])
def test_heic_marked_as_hdr_is_unsupported_by_name(transfer, name, tile_size):
    marks = {"color_primaries": 9, "matrix_coefficients": 9, "full_range_flag": 1}
    data = encoded(
        picture(150, 100), "HEIF", tile_size=tile_size, transfer_characteristics=transfer, **marks
    )
    check_named(data, name)


@pytest.mark.parametrize("wide", [False, True])
@named
def test_hdr_of_what_is_shown_counts_and_of_nothing_else(transfer, name, wide):
    properties = [nclx(13), nclx(transfer), box(b"ispe", bytes(12))]
    shown = {1: (3, 1), 2: (2,)}
    assert heif.find_unsupported(meta(properties, shown, wide=wide)) is None
    for data in (
        meta(properties, {1: (3, 2)}, wide=wide),
        meta(properties, shown, primary=2, wide=wide),
        meta(properties, shown, parts=(7, 2), wide=wide),
        meta(properties, {1: (0, 2 | (0x8000 if wide else 0x80))}, wide=wide),  # essential
    ):
        assert name in heif.find_unsupported(data)


def test_hdr_boxes_that_lie_are_an_error_and_end():
    good = meta([nclx(13)], {1: (1,), 2: (1,)}, parts=(2,))
    more = good.replace(b"ipma" + struct.pack(">II", 0, 2), b"ipma" + struct.pack(">II", 0, 9))
    for data in (meta([], {1: (1,)}), more):
        with pytest.raises(SyntaxError, match="end early"):
            heif.find_unsupported(data)
    rng = np.random.default_rng(0)
    for _ in range(500):
        data = np.frombuffer(good, np.uint8).copy()
        data[rng.integers(28, len(data), 3)] = rng.choice([0, 1, 2, 127, 128, 255], 3)
        with contextlib.suppress(SyntaxError):
            heif.find_unsupported(data.tobytes())


def test_jpeg_with_a_gain_map_gives_its_picture_for_screens():
    frames = [Image.fromarray(PIXELS), Image.new("L", (30, 20), 200)]
    xmp = b'<rdf:Description hdrgm:Version="1.0"/>'
    data = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:], xmp=xmp)
    assert data.count(b"\xff\xd8\xff") == 2
    plain = open_image(encoded(PIXELS, "JPEG"), HOW)
    np.testing.assert_array_equal(open_image(data, HOW).pixels, plain.pixels)
