"""Every kind of TIFF comes out as libtiff and tifffile read it, or is rejected by name."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.images.ramps import ALPHA, HOW, RAMP, RGB, SIDE, X, Y
from tests.images.tiffs import (
    BYTE_ORDERS,
    by_hand,
    check_opened,
    check_rejected,
    libtiff,
    samples,
    truth,
    with_number,
    written,
)
from vqpipe.images import View, open_image
from vqpipe.rejections import Reason


def packed_bits(levels, bits):
    """Returns rows of samples of any number of bits, each row to a whole byte."""
    places = (samples(levels, np.uint32, bits)[..., None] >> np.arange(bits)[::-1]) & 1
    return np.packbits(places.reshape(SIDE, -1).astype(np.uint8), axis=1).tobytes()


def reversed_bits(data):
    return bytes(int(f"{byte:08b}"[::-1], 2) for byte in data)


def grey_of_bits(photometric, bits, compression, fill_order, order):
    levels = RAMP if photometric else 1 - RAMP
    data = packed_bits(levels, bits)
    if bits >= 16:
        data = samples(levels, f"{order}u{bits // 8}").tobytes()
    data = zlib.compress(data) if compression == 8 else data
    data = reversed_bits(data) if fill_order == 2 else data
    tags = {258: (bits,), 259: compression, 262: (photometric,), 266: (fill_order,)}
    return by_hand(tags, data, order)


READ_ABOVE_8_BITS = {(0, 16, 1, "<"), (1, 16, 1, "<"), (1, 16, 2, "<"), (1, 16, 1, ">")}
READ_ABOVE_8_BITS |= {(1, 12, 1, "<"), (1, 32, 1, "<")}


@pytest.mark.parametrize("order", BYTE_ORDERS.values(), ids=BYTE_ORDERS)
@pytest.mark.parametrize("fill_order", [1, 2])
@pytest.mark.parametrize("compression", [1, 8], ids=["raw", "deflate"])
@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8, 10, 12, 14, 16, 32])
@pytest.mark.parametrize("photometric", [0, 1], ids=["white-is-zero", "black-is-zero"])
def test_tiff_grey_of_any_bits_is_as_other_decoders_see_it_or_named(
    photometric, bits, compression, fill_order, order
):
    data = grey_of_bits(photometric, bits, compression, fill_order, order)
    is_read = bits in {1, 2, 4, 8} or (photometric, bits, fill_order, order) in READ_ABOVE_8_BITS
    if (photometric, bits, compression, fill_order) == (0, 8, 1, 2):
        is_read = False
    if is_read:
        check_opened(data, truth(data))
        assert np.abs(truth(data)[..., 0] - 255 * RAMP).max() <= 128 / (2**bits - 1)
    else:
        check_rejected(data, f"{bits}-bit {('WhiteIsZero', 'BlackIsZero')[photometric]}")


def picture_of(mode):
    """Returns the levels, 0..1, of a kind, and how many of them are colours."""
    levels = {"minisblack": RAMP[..., None], "miniswhite": 1 - RAMP[..., None], "rgb": RGB}
    return {"separated": np.concatenate([1 - RGB, np.full_like(ALPHA, 0.1)], -1), **levels}[mode]


def colours(photometric, bits, extra, planes, order, **options):
    """Returns a TIFF of whole-byte samples, with extra ones of some kind."""
    levels, is_alpha = picture_of(photometric), extra in {"assocalpha", "unassalpha"}
    if extra == "assocalpha":
        levels = levels * ALPHA
    if extra:
        levels = np.concatenate([levels, ALPHA if is_alpha else np.full_like(ALPHA, 0.3)], -1)
    array = samples(levels, f"u{bits // 8}")
    array = np.moveaxis(array, -1, 0) if planes == "separate" else array
    if array.shape[0] == 1 or array.shape[-1] == 1:
        array = array.reshape(SIDE, SIDE)
    kind = {"planarconfig": planes, "extrasamples": [extra] if extra else None}
    return written(array, photometric, byteorder=order, **kind, **options)


COLOURS_READ = {
    # photometric, bits, extra, planes: raw, compressed
    ("minisblack", 8, "unspecified", "contig"): (True, True),
    ("minisblack", 8, "assocalpha", "contig"): (True, True),
    ("minisblack", 8, "unassalpha", "contig"): (True, True),
    ("minisblack", 8, "unspecified", "separate"): (False, True),
    ("miniswhite", 8, "unspecified", "separate"): (False, True),
    ("minisblack", 16, "unspecified", "separate"): (False, True),
    ("rgb", 8, None, "contig"): (True, True),
    ("rgb", 8, None, "separate"): (True, True),
    ("rgb", 16, None, "contig"): (True, True),
    ("rgb", 16, None, "separate"): (False, True),
    **{("rgb", 8, extra, "contig"): (True, True) for extra in ("unspecified", "assocalpha")},
    **{("rgb", 16, extra, "contig"): (True, True) for extra in ("unspecified", "assocalpha")},
    **{("rgb", bits, "unassalpha", "contig"): (True, True) for bits in (8, 16)},
    ("rgb", 8, "unspecified", "separate"): (False, True),
    ("rgb", 8, "assocalpha", "separate"): (False, True),
    ("rgb", 8, "unassalpha", "separate"): (True, True),
    **{("rgb", 16, extra, "separate"): (False, True) for extra in ("unspecified", "assocalpha")},
    ("rgb", 16, "unassalpha", "separate"): (False, True),
    ("separated", 8, None, "contig"): (True, True),
    ("separated", 8, None, "separate"): (True, True),
    ("separated", 8, "unspecified", "contig"): (True, True),
    ("separated", 8, "unspecified", "separate"): (False, True),
    ("separated", 16, None, "contig"): (True, True),
    ("separated", 16, None, "separate"): (False, True),
    ("separated", 16, "unspecified", "separate"): (False, True),
}
"""Whether it is read; whatever is not here is not."""


@pytest.mark.filterwarnings("ignore::DeprecationWarning:tifffile")
@pytest.mark.parametrize("order", BYTE_ORDERS.values(), ids=BYTE_ORDERS)
@pytest.mark.parametrize("planes", ["contig", "separate"])
@pytest.mark.parametrize("extra", [None, "unspecified", "assocalpha", "unassalpha"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite", "rgb", "separated"])
def test_tiff_colours_and_extra_samples_are_as_libtiff_sees_them_or_named(
    photometric, bits, extra, planes, order
):
    if extra is None and photometric.startswith("minis"):
        planes = "contig"  # there is one plane
    kind = (photometric, bits, extra, planes)
    read = COLOURS_READ.get(kind, (False, False))
    if extra is None and photometric.startswith("minis"):
        read = ((photometric, bits, order) != ("miniswhite", 16, ">"),) * 2
    if (*kind, order) == ("miniswhite", 16, "unspecified", "separate", "<"):
        read = (False, True)
    # Pillow rounds to 8 bits before it mixes, and again what was mixed with black.
    most = {"assocalpha": 3, "unassalpha": 2}.get(extra, 2 if photometric == "separated" else 1)
    layout = {} if order == "<" else {"tile": (16, 16)}
    for compression in (None, "deflate"):
        data = colours(*kind, order, compression=compression, **layout)
        if read[compression is not None]:
            check_opened(data, truth(data), most)
        else:
            check_rejected(data, "TIFF")


@pytest.mark.parametrize("predictor", [False, True])
@pytest.mark.parametrize("compression", ["deflate", "lzw", "zstd", "packbits", "lzma"])
@pytest.mark.parametrize("bits", [8, 16])
def test_tiff_compressions_and_predictors_change_nothing(bits, compression, predictor):
    predictor = predictor and compression in {"deflate", "lzw", "zstd"}
    options = {"compression": compression, "predictor": predictor, "rowsperstrip": 5}
    for photometric in ("minisblack", "rgb"):
        data = colours(photometric, bits, None, "contig", ">", **options)
        check_opened(data, truth(data))


def faxed(compression):
    buffer = io.BytesIO()
    Image.fromarray((X + Y) % 7 < 3).save(buffer, "TIFF", compression=compression)
    return buffer.getvalue()


def ycbcr(subsampling, compression, order="<"):
    """Returns YCbCr packed as TIFF 6.0, section 21 has it."""
    across, down = subsampling or (2, 2)
    blocks = samples(RAMP).reshape(SIDE // down, down, SIDE // across, across)
    luma = blocks.transpose(0, 2, 1, 3).reshape(SIDE // down, SIDE // across, down * across)
    cb = samples(X / SIDE)[::down, ::across, None]
    cr = samples(Y / SIDE)[::down, ::across, None]
    data = np.concatenate([luma, cb, cr], -1).tobytes()
    tags = {258: (8, 8, 8), 259: compression, 262: (6,), 277: 3, 530: subsampling}
    return by_hand(tags, zlib.compress(data) if compression == 8 else data, order)


def palette_of(bits, compression):
    """Returns a palette image, the 16-bit colours in which it shows, and the file."""
    index = (5 * X + Y) % 2**bits
    levels = np.random.default_rng(0).integers(0, 65_536, (3, 2**bits))
    data = packed_bits(index / (2**bits - 1), bits)
    data = zlib.compress(data) if compression == 8 else data
    tags = {258: (bits,), 259: compression, 262: (3,), 320: tuple(levels.ravel().tolist())}
    return index, levels, by_hand(tags, data)


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt"])
def test_tiff_fax_is_as_libtiff_sees_it(compression):
    data = faxed(compression)
    check_opened(data, libtiff(data), 0)


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 2), (2, 1), None])
@pytest.mark.parametrize("compression", [1, 8], ids=["raw", "deflate"])
def test_tiff_ycbcr_is_as_libtiff_sees_it_or_named(compression, subsampling):
    for order in "<>":
        data = ycbcr(subsampling, compression, order)
        if compression == 8 or subsampling == (1, 1):
            check_opened(data, libtiff(data))
        else:
            check_rejected(data, "YCbCr is subsampled")


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 2)])
def test_tiff_jpeg_is_as_libtiff_sees_it(subsampling):
    for photometric, options in {"ycbcr": {"subsampling": subsampling}, "minisblack": {}}.items():
        array = samples(RGB if photometric == "ycbcr" else RAMP)
        data = written(array, photometric, compression="jpeg", **options)
        check_opened(data, libtiff(data))


@pytest.mark.parametrize("compression", [1, 8], ids=["raw", "deflate"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_tiff_palette_shows_its_colours(bits, compression):
    index, levels, data = palette_of(bits, compression)
    check_opened(data, np.moveaxis(levels[:, index], 0, -1) / 257)
    check_opened(data, libtiff(data), 0)


def test_tiff_palette_of_bytes_is_not_black():
    levels = np.random.default_rng(0).integers(0, 256, (3, 256))
    tags = {258: (8,), 262: (3,), 320: tuple(levels.ravel().tolist())}
    data = by_hand(tags, samples(RAMP).tobytes())
    check_opened(data, np.moveaxis(levels[:, samples(RAMP)], 0, -1), 0)
    check_opened(data, libtiff(data), 0)


THREE = {258: (8, 8, 8), 277: 3}
FOUR = {258: (8, 8, 8, 8), 277: 4}
NAMED = {
    "signed": {258: (8,), 262: (1,), 339: (2,)},
    "floating-point": {258: (32,), 262: (1,), 339: (3,)},
    "floating-point WhiteIsZero": {258: (64,), 262: (0,), 339: (3,)},
    "16-bit floating-point": {258: (16,), 262: (1,), 339: (3,)},
    "PhotometricInterpretation": {258: (8,)},
    "CIELab": {**THREE, 262: (8,)},
    "16-bit CieLAB": {258: (16, 16, 16), 277: 3, 262: (8,)},
    "inks": {**FOUR, 262: (5,), 332: (2,)},
    "5": {258: (8,) * 5, 277: 5, 262: (5,), 332: (2,)},
    "CFA": {258: (8,), 262: (32_803,)},
    "PhotometricInterpretation 34892": {**THREE, 262: (34_892,)},
    "16-bit RGB Palette": {258: (16,), 262: (3,), 320: (0,) * 3},
    "10-bit RGB": {258: (10, 10, 10), 277: 3, 262: (2,)},
    "12-bit RGB": {258: (12, 12, 12), 277: 3, 262: (2,)},
    "32-bit RGB": {258: (32, 32, 32), 277: 3, 262: (2,)},
    "8-bit signed RGB": {**THREE, 262: (2,), 339: (2, 2, 2)},
    "34712": {**THREE, 262: (2,), 259: 34_712},
}


@pytest.mark.parametrize(("words", "tags"), NAMED.items(), ids=NAMED)
def test_tiff_of_unsure_meaning_is_rejected_by_name(words, tags):
    check_rejected(by_hand(tags, bytes(SIDE * SIDE * 40)), words)


def test_tiff_that_cannot_be_decompressed_says_what_it_is():
    found = open_image(by_hand({**THREE, 262: (2,), 259: 8}, b"no zlib" * 100), HOW)
    assert found.reason == Reason.CORRUPT
    assert "8-bit RGB" in found.message


def test_tiff_of_64_bit_offsets_is_the_same():
    array = samples(1 - RAMP, np.uint16)
    data = written(array, "miniswhite", bigtiff=True, byteorder="<")
    check_opened(data, truth(data))
    check_rejected(written(array, "miniswhite", bigtiff=True, byteorder=">"), "64-bit")


JFIF = {529: [(299, 1000), (587, 1000), (114, 1000)], 532: [0, 255, 128, 255, 128, 255]}
OTHERS = {
    "coefficients of HDTV": {529: [(2126, 10_000), (7152, 10_000), (722, 10_000)]},
    "levels of video": {532: [16, 235, 128, 240, 128, 240]},
    "both": {529: [(1, 3), (1, 3), (1, 3)], 532: [16, 235, 128, 240, 128, 240]},
    "no number": {532: [(0, 0), 255, 128, 255, 128, 255]},
    "no coefficients": {529: [(0, 1), (0, 1), (0, 1)]},
}
USUAL = {
    "as usual": JFIF,
    "in other words": {529: [(2990, 10_000), (5870, 10_000), (1_140, 10_000)]},
    "of old writers": {529: [(76_544, 256_000), (150_272, 256_000), (29_184, 256_000)]},
}


def ycbcr_with(said, compression):
    """Returns YCbCr that is not subsampled, with tags of rationals."""
    levels = np.asarray(Image.fromarray(samples(RGB)).convert("YCbCr"))
    extra = [(530, "H", 2, (1, 1), True)]
    for tag, values in said.items():
        pairs = [value if isinstance(value, tuple) else (value, 1) for value in values]
        extra.append((tag, "2I", len(pairs), tuple(n for pair in pairs for n in pair), True))
    data = written(levels, "rgb", compression=compression, extratags=extra)
    return with_number(data, 262, 6)


@pytest.mark.parametrize("said", [*USUAL.values(), *OTHERS.values()], ids=[*USUAL, *OTHERS])
@pytest.mark.parametrize("compression", [None, "deflate", "lzw", "packbits", "zstd"])
def test_tiff_ycbcr_of_other_coefficients_or_levels_is_as_libtiff_sees_it_or_named(
    compression, said
):
    data = ycbcr_with(said, compression)
    if compression is None and said in OTHERS.values():
        check_rejected(data, "YCbCr has other")
    elif said in USUAL.values() or isinstance(open_image(data, HOW), View):
        check_opened(data, libtiff(data))
