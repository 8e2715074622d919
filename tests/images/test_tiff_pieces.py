"""A TIFF some of whose strips or tiles are not there is truncated, or named."""

import io
import struct

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.images.ramps import HOW, RAMP, RGB, SIDE, X, Y
from tests.images.tiffs import (
    by_hand,
    check_opened,
    check_rejected,
    libtiff,
    samples,
    truth,
    with_number,
    written,
)
from vqpipe.images import open_image
from vqpipe.rejections import Reason


def places_of(data):
    """Returns the tags of a TIFF's strips or tiles: where they are, and how many bytes."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        tags = file.pages[0].tags
        return [tags.get(strips) or tags.get(tiles) for strips, tiles in ((273, 324), (279, 325))]


def with_piece(data, which, *values, order="<"):
    """Returns a TIFF with other values for a strip or tile: its place and its bytes; None: kept."""
    data = bytearray(data)
    for tag, value in zip(places_of(data), values, strict=True):
        kind = {3: "H", 4: "I", 16: "Q"}[int(tag.dtype)]
        at = tag.valueoffset + struct.calcsize(kind) * (which % tag.count)
        if value is not None:
            struct.pack_into(f"{order}{kind}", data, at, value)
    return bytes(data)


def with_fewer(data, count, order="<"):
    """Returns a TIFF (not of 64 bits) that has only the first of its strips or tiles."""
    places = places_of(data)
    data = bytearray(data)
    for tag in places:
        kind = {3: "H", 4: "I"}[int(tag.dtype)]
        packed = struct.pack(f"{order}{count}{kind}", *tag.value[:count])
        struct.pack_into(f"{order}I", data, tag.offset + 4, count)
        if len(packed) <= 4:
            data[tag.offset + 8 : tag.offset + 12] = packed.ljust(4, b"\0")
    return bytes(data)


def check_lacks(data, *words):
    found = open_image(data, HOW)
    assert getattr(found, "reason", None) == Reason.TRUNCATED
    for word in words:
        assert word in found.message


PIECES = {
    "strips": {"rowsperstrip": 5},
    "tiles": {"tile": (16, 32)},
    "one tile wide": {"tile": (16, 48)},
    "planes": {"rowsperstrip": 7, "planarconfig": "separate"},
    "planes of tiles": {"tile": (32, 32), "planarconfig": "separate"},
    "planes of one strip": {"planarconfig": "separate"},
}
MISSING = {"no place": (0, None), "no bytes": (None, 0), "neither": (0, 0), "too few": (None, 10)}


def in_pieces(pieces, kind, **options):
    """Returns a raw TIFF in strips or tiles; `kind` is its photometric and its bits."""
    photometric, bits = kind
    array = samples(RGB if photometric == "rgb" else RAMP, f"u{bits // 8}")
    if pieces.get("planarconfig"):
        array = np.moveaxis(array, -1, 0)
    return written(array, photometric, **pieces, **options)


def kinds_of(pieces):
    grey = [] if "planarconfig" in pieces else [("minisblack", 8), ("minisblack", 16)]
    return [("rgb", 8), *grey]


@pytest.mark.fault(18)
@pytest.mark.parametrize("which", [0, 1, -1])
@pytest.mark.parametrize("values", MISSING.values(), ids=MISSING)
@pytest.mark.parametrize("pieces", PIECES.values(), ids=PIECES)
def test_tiff_that_lacks_a_strip_or_tile_is_truncated(pieces, values, which):
    for kind in kinds_of(pieces):
        for options in ({}, {"bigtiff": True}, {"byteorder": ">"}):
            data = in_pieces(pieces, kind, **options)
            check_opened(data, truth(data))
            bad = with_piece(data, which, *values, order=options.get("byteorder", "<"))
            check_lacks(bad, "tile" if "tile" in pieces else "strip", " of ")
            if values[1] == 0:  # at place 0, it reads the header; some sizes it estimates
                with pytest.raises(imagecodecs.TiffError):
                    imagecodecs.tiff_decode(bad)


@pytest.mark.fault(18)
@pytest.mark.parametrize("pieces", PIECES.values(), ids=PIECES)
def test_tiff_of_fewer_strips_or_tiles_than_its_size_needs_is_truncated(pieces):
    for kind in kinds_of(pieces):
        data = in_pieces(pieces, kind)
        count = places_of(data)[0].count
        for less in {1, 2, count - 1}:
            bad = with_fewer(data, less)
            check_lacks(bad, f"only {less} of its {count}")
            with pytest.raises(imagecodecs.TiffError):
                imagecodecs.tiff_decode(bad)


@pytest.mark.fault(18)
@pytest.mark.parametrize("which", [0, -1])
@pytest.mark.parametrize("pieces", PIECES.values(), ids=PIECES)
def test_tiff_whose_strip_or_tile_is_behind_its_end_is_truncated(pieces, which):
    data = in_pieces(pieces, ("rgb", 8))
    for place in (len(data) - 20, len(data), 60_000):
        check_lacks(with_piece(data, which, place, None), "truncated")


@pytest.mark.parametrize("pieces", PIECES.values(), ids=PIECES)
def test_tiff_with_more_strips_or_tiles_than_its_size_needs_is_named(pieces):
    """Pillow takes the last of them, or lays them over the first; libtiff leaves them out."""
    for kind in kinds_of(pieces):
        data = with_number(in_pieces(pieces, kind), 257, 1)
        if pieces == PIECES["planes of one strip"]:
            check_opened(data, truth(data)[:, SIDE // 2 - 1], 3)  # enlarged from one pixel
        else:
            check_rejected(data, "TIFF" if "planarconfig" in pieces else "more strips or tiles")


def test_tiff_of_one_strip_whose_bytes_are_not_counted_is_opened():
    data = written(samples(RGB), "rgb")
    for count in (0, 10, 2**31):
        odd = with_piece(data, 0, None, count)
        check_opened(odd, truth(data))
        np.testing.assert_array_equal(imagecodecs.tiff_decode(odd), samples(RGB))
    check_lacks(with_piece(data, 0, 0, None), "strip 1 of 1 has no data")


def test_tiff_of_strips_and_tiles_is_named():
    tags = {258: (8,), 262: (1,), 322: 16, 323: 16}
    check_rejected(by_hand(tags, samples(RAMP).tobytes()), "strips and tiles")


@pytest.mark.parametrize(("tag", "number"), [(278, 0), (278, 2**31), (322, 1), (323, 1), (322, 0)])
def test_tiff_of_senseless_strips_or_tiles_is_rejected_or_right(tag, number):
    data = in_pieces(PIECES["strips" if tag == 278 else "tiles"], ("rgb", 8))
    found = open_image(with_number(data, tag, min(number, 65_535)), HOW)
    assert found.reason in {Reason.TRUNCATED, Reason.UNSUPPORTED, Reason.CORRUPT}


COMPRESSIONS = ["deflate", "lzw", "packbits", "zstd", "lzma", "jpeg"]


@pytest.mark.fault(18)
@pytest.mark.parametrize("pieces", ["strips", "tiles"])
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_tiff_that_lacks_a_compressed_strip_or_tile_is_truncated(compression, pieces):
    layout = {"strips": {"rowsperstrip": 16}, "tiles": {"tile": (16, 16)}}[pieces]
    data = written(samples(RGB), "rgb", compression=compression, **layout)
    check_opened(data, libtiff(data))
    for which in (0, -1):
        for values in ((0, None), (None, 0), (0, 0)):
            check_lacks(with_piece(data, which, *values), "has no data")
    check_lacks(with_fewer(data, 1), "only 1 of its")


@pytest.mark.fault(18)
@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt"])
def test_tiff_fax_that_lacks_a_strip_is_truncated(compression):
    buffer = io.BytesIO()
    options = {"compression": compression, "strip_size": SIDE // 8 * 10}
    Image.fromarray((X + Y) % 7 < 3).save(buffer, "TIFF", **options)
    data = buffer.getvalue()
    assert places_of(data)[0].count == 5
    check_opened(data, libtiff(data), 0)
    for values in ((0, None), (None, 0), (0, 0)):
        check_lacks(with_piece(data, -1, *values), "strip 5 of 5 has no data")
    check_lacks(with_fewer(data, 3), "only 3 of its 5")


@pytest.mark.fault(18)
@pytest.mark.parametrize("rows", [16, SIDE])
@pytest.mark.parametrize("photometric", ["rgb", "ycbcr", "minisblack"])
def test_tiff_jpeg_that_is_cut_is_truncated(photometric, rows):
    array = samples(RAMP if photometric == "minisblack" else RGB)
    data = written(array, photometric, compression="jpeg", rowsperstrip=rows)
    check_opened(data, libtiff(data))
    size = places_of(data)[1].value[-1]
    if rows < SIDE:
        check_lacks(with_piece(data, -1, None, size // 2), "without an end mark")
        check_lacks(with_piece(data, -1, None, size - 1), "without an end mark")
    place = places_of(data)[0].value[-1]
    check_lacks(data[: place + size // 2], "without an end mark")
