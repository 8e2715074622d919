"""Shapes of views: buckets, Lumina-DiMOO's, and whole images inside a square."""

import itertools
import math
from fractions import Fraction

import pytest

from vqpipe.images.shapes import (
    MOST_SHAPES,
    find_bucket,
    find_inside,
    parse_buckets,
    parse_fit,
    parse_word,
    square,
    word_of,
)

SIZES = [
    *((1, 1), (640, 480), (480, 640), (1000, 1000), (1001, 1000), (2000, 1000), (3000, 40)),
    *((1, 300), (1920, 1080), (1080, 1920), (97, 89), (4000, 3999), (513, 171)),
]
"""Width and height."""


@pytest.mark.parametrize("multiple", [8, 16, 32])
@pytest.mark.parametrize("side", [128, 256, 384, 512])
def test_buckets_of_a_side_have_about_its_pixels_and_sides_of_the_multiple(side, multiple):
    shapes = parse_buckets((str(side),), multiple)
    assert len(set(shapes)) == len(shapes)
    assert shapes == tuple(sorted(shapes))
    assert set(shapes) == {(width, height) for height, width in shapes}
    assert (side, side) in shapes
    for height, width in shapes:
        assert height % multiple == width % multiple == 0
        assert max(height, width) <= 2 * min(height, width)
    if side // multiple >= 16:  # so many steps that one more or less is little
        assert min(height * width for height, width in shapes) >= 0.9 * side**2
    assert max(height * width for height, width in shapes) == side**2


@pytest.mark.parametrize(("side", "multiple"), [(256, 8), (256, 16), (256, 32), (512, 16)])
def test_buckets_of_a_side_are_all_that_there_are(side, multiple):
    """Of every width the greatest height that there are pixels for, and the same turned."""
    steps = side // multiple
    found = set()
    for across in range(1, steps**2 + 1):
        down = steps**2 // across
        if down and Fraction(1, 2) <= Fraction(down, across) <= 2:
            found |= {(down * multiple, across * multiple), (across * multiple, down * multiple)}
    assert set(parse_buckets((str(side),), multiple)) == found


def lumina(side):
    """Lumina-DiMOO's walk over the numbers of 32-px steps: width, height."""
    most = round((side / 32) ** 2)
    wide, high, found = most, 1, []
    while wide > 0:
        if max(wide, high) / min(wide, high) <= 4:
            found.append((wide * 32, high * 32))
        if (high + 1) * wide <= most:
            high += 1
        else:
            wide -= 1
    return found


@pytest.mark.parametrize("side", [64, 256, 512, 768, 1024])
@pytest.mark.parametrize("multiple", [8, 16])
def test_buckets_of_lumina_are_those_of_its_programs(side, multiple):
    shapes = parse_buckets((f"lumina:{side}",), multiple)
    assert sorted((height, width) for width, height in lumina(side)) == list(shapes)
    assert len(shapes) <= MOST_SHAPES


def test_buckets_of_lumina_512_and_1024_are_as_many_as_are_published():
    counts = {side: len(parse_buckets((f"lumina:{side}",), 16)) for side in (512, 1024)}
    assert counts == {side: len(set(lumina(side))) for side in counts}
    assert (1024, 256) in parse_buckets(("lumina:512",), 16)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("side", [256, 512])
def test_find_bucket_takes_what_lumina_takes(size, side):
    """Its programs sort (share, (width, height)) backwards and take the first."""
    width, height = size
    pairs = [
        (min(w / width, h / height) / max(w / width, h / height), (w, h)) for w, h in lumina(side)
    ]
    _, (across, down) = sorted(pairs, reverse=True)[0]
    shapes = parse_buckets((f"lumina:{side}",), 16)
    assert find_bucket(shapes, width, height) == (down, across)
    assert find_bucket(shapes[::-1], width, height) == (down, across)


def test_find_bucket_of_two_that_suit_alike_takes_the_wider():
    assert find_bucket(((32, 64), (64, 32)), 100, 100) == (32, 64)
    assert find_bucket(((64, 64), (32, 32)), 7, 7) == (64, 64)
    assert find_bucket(((64, 32), (128, 64)), 10, 20) == (128, 64)


@pytest.mark.parametrize("multiple", [8, 16, 32])
@pytest.mark.parametrize("side", [64, 100, 512])
def test_find_inside_rounds_the_shorter_side_to_the_nearest_multiple(side, multiple):
    shapes = parse_fit(f"inside:{side}", multiple)
    whole = side // multiple * multiple
    assert len(set(shapes)) == len(shapes) == 2 * (whole // multiple) - 1
    more = itertools.product(range(1, 40), repeat=2)
    for width, height in [*SIZES, *more]:
        found = find_inside(shapes, width, height)
        assert found in shapes
        assert max(found) == whole
        assert (found[1] >= found[0]) == (width >= height) or found[0] == found[1]
        shorter = Fraction(whole * min(width, height), max(width, height))
        off = abs(min(found) - shorter)
        assert off <= Fraction(multiple, 2) or (min(found) == multiple and shorter < multiple)


def test_find_inside_of_a_middle_goes_to_the_even_multiple():
    shapes = parse_fit("inside:64", 16)
    assert [find_inside(shapes, 64, height) for height in (24, 40, 56)] == [
        (32, 64),
        (32, 64),
        (64, 64),
    ]
    assert find_inside(shapes, 40, 64) == (64, 32)


def test_words_of_shapes_say_width_before_height():
    assert word_of((384, 640)) == "640x384"
    assert parse_word("640x384") == (384, 640)
    assert parse_buckets(("64x32", "32x64", "64x32"), 16) == ((32, 64), (64, 32))
    assert square(7) == ((7, 7),)


@pytest.mark.parametrize(
    "word", ["x", "64", "64x", "0x64", "64x0", "16385x8", "64X32", "-1x8", "٣x٤"]
)
def test_parse_word_others_are_refused_by_name(word):
    with pytest.raises(ValueError, match="no width and height in pixels, such as 640x384"):
        parse_word(word)


@pytest.mark.parametrize(
    ("words", "multiple", "said"),
    [
        (("8",), 16, "buckets of 8 are below 16"),
        (("0",), 16, "'0' is no side of"),
        (("lumina:8",), 16, "below its step of 32"),
        (("lumina:",), 16, "is no side of 1 to 16,384 pixels"),
        (("lumina:x",), 16, "is no side of 1 to 16,384 pixels"),
        (("lumina:99999",), 16, "is no side of 1 to 16,384 pixels"),
        (("square",), 16, "'square' is no width and height"),
        (("256", "512"), 16, "'256' is no width and height"),
        (("4096",), 8, "buckets are more than the 256"),
        (("99999999999",), 16, "'99999999999' is no side of"),
        (("²",), 16, "²"),
        (tuple(f"{n}x16" for n in range(1, 300)), 16, "299 buckets are more than the 256"),
    ],
)
def test_parse_buckets_others_are_refused_with_what_is_wrong(words, multiple, said):
    with pytest.raises(ValueError, match=said):
        parse_buckets(words, multiple)


@pytest.mark.parametrize(
    ("word", "multiple", "said"),
    [
        ("512", 16, "there is inside:SIDE"),
        ("outside:512", 16, "there is inside:SIDE"),
        ("inside:", 16, "is no side of 1 to 16,384 pixels"),
        ("inside:-5", 16, "is no side of 1 to 16,384 pixels"),
        ("inside:²", 16, "is no side of 1 to 16,384 pixels"),
        ("inside:8", 16, "less than 16"),
        ("inside:4096", 8, "1,023 shapes, and there may be 256"),
    ],
)
def test_parse_fit_others_are_refused_with_what_is_wrong(word, multiple, said):
    with pytest.raises(ValueError, match=said):
        parse_fit(word, multiple)


def test_inside_shapes_are_as_many_as_there_may_be():
    side = (MOST_SHAPES // 2) * 8
    assert len(parse_fit(f"inside:{side}", 8)) == MOST_SHAPES - 1
    assert math.prod(max(parse_fit(f"inside:{side}", 8))) == side**2
