"""Views that are drawn, and the words for them."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from vqpipe.images import Preprocess, lot_of, square
from vqpipe.images.crops import MOST_VIEWS, Draws, parse_kind

KEYS = [f"photos/{number:05}" for number in range(4000)]
RANDOM = ("random-crop:4", "random-resized:4")


def how(*kinds, side=32, **options):
    return Preprocess(square(side), kinds=kinds, **options)


def cuts(preprocess, key="k", size=(200, 150)):
    return preprocess.cuts(*size, lot_of(preprocess.seed, key))


def chi_square(counts, cells):
    """Returns how far counts are from even, in standard deviations of what chance does."""
    found = np.array([counts[cell] for cell in cells], float)
    expected = found.sum() / len(cells)
    distance = ((found - expected) ** 2 / expected).sum()
    freedom = len(cells) - 1
    return (distance - freedom) / math.sqrt(2 * freedom)


@pytest.mark.parametrize("kind", RANDOM)
@pytest.mark.parametrize("flip", ["none", "random"])
def test_random_views_are_a_function_of_seed_key_and_number(kind, flip):
    first = how(kind, flip=flip, seed=5)
    assert {key: cuts(first, key) for key in KEYS[:50]} == {
        key: cuts(Preprocess.read(first.document()), key) for key in reversed(KEYS[:50])
    }
    drawn = [cut[1:] for key in KEYS[:50] for cut in [cuts(first, key)]]
    assert len(set(drawn)) == 50
    other = how(kind, flip=flip, seed=6)
    assert all(cuts(first, key)[1:] != cuts(other, key)[1:] for key in KEYS[:50])
    assert all(cuts(first, key)[0] == cuts(other, key)[0] for key in KEYS[:50])
    assert cuts(how(kind.replace("4", "7"), flip=flip, seed=5))[:4] == cuts(first)


def test_lots_of_seeds_and_keys_that_look_alike_differ():
    pairs = [(1, "2"), (12, ""), (1, "\x002"), (0, "12"), (-1, "2"), (1, "a\x00"), (1, "\udcff")]
    assert len({lot_of(*pair) for pair in pairs}) == len(pairs)
    assert lot_of(3, None) == lot_of(3, "")


def test_random_crop_is_as_likely_at_any_place():
    found = Counter()
    preprocess = how("random-crop:2", resize="short-side", side=8)
    for key in KEYS:
        box = cuts(preprocess, key, (15, 8))[1].box
        assert box[2:] == (box[0] + 8, box[1] + 8)
        found[box[0]] += 1
    assert sorted(found) == list(range(8))  # both ends too
    assert chi_square(found, range(8)) < 4


def test_random_crop_draws_across_and_down_each_by_itself():
    found, preprocess = Counter(), how("random-crop:2", resize="crop-first")
    grid = [(x, y) for x in range(3) for y in range(2)]
    for key in KEYS:  # parts of 200 x 200, at 1.0: nothing to draw of a square
        left, top, right, bottom = cuts(preprocess, key, (202, 200))[1].crop
        assert (right - left, bottom - top, top) == (200, 200, 0)
        found[left] += 1
    assert chi_square(found, range(3)) < 4
    draws = [Draws(lot_of(0, key), 1) for key in KEYS]
    both = Counter((each.below(3), each.below(2)) for each in draws)
    assert chi_square(both, grid) < 4


def test_random_resized_areas_and_proportions_are_even_within_their_bounds():
    """Of a large square whatever is drawn fits, up to three quarters of it."""
    area, ratio, side = (0.2, 0.6), (3 / 4, 4 / 3), 4000
    preprocess = how("random-resized:2", resize="crop-first", area=area, ratio=ratio)
    areas, ratios = Counter(), Counter()
    for key in KEYS:
        left, top, right, bottom = cuts(preprocess, key, (side, side))[1].crop
        assert 0 <= left < right <= side
        assert 0 <= top < bottom <= side
        share = (right - left) * (bottom - top) / side**2
        log = math.log((right - left) / (bottom - top))
        assert area[0] * 0.999 < share < area[1] * 1.001
        assert abs(log) < math.log(ratio[1]) * 1.002
        areas[min(9, int((share - area[0]) / (area[1] - area[0]) * 10))] += 1
        ratios[min(9, int((log / math.log(ratio[1]) + 1) * 5))] += 1
    assert chi_square(areas, range(10)) < 4
    assert chi_square(ratios, range(10)) < 4


def test_random_resized_places_of_a_box_are_even():
    found = Counter()
    preprocess = how("random-resized:2", area=(0.25, 0.25), ratio=(1, 1))
    for key in KEYS:
        left, top, right, bottom = cuts(preprocess, key, (10, 10))[1].crop
        assert (right - left, bottom - top) == (5, 5)
        found[left, top] += 1
    assert chi_square(found, list(itertools.product(range(6), repeat=2))) < 4


def test_random_resized_proportions_are_multiples_of_the_views_own():
    preprocess = Preprocess(((20, 60),), kinds=("random-resized:9",), area=(0.1, 0.2))
    for key in KEYS[:100]:
        for left, top, right, bottom in (cut.crop for cut in cuts(preprocess, key, (900, 900))[1:]):
            assert 3 * 0.74 < (right - left) / (bottom - top) < 3 * 1.35


@pytest.mark.parametrize(
    ("size", "crop"),
    [
        ((3000, 30), (1480, 0, 1520, 30)),  # wider than 4:3, so of 4:3, all of its height
        ((30, 3000), (0, 1480, 30, 1520)),
        ((3000, 1), (1499, 0, 1500, 1)),
        ((1, 1), (0, 0, 1, 1)),
        ((1, 3000), (0, 1499, 1, 1500)),
    ],
)
def test_random_resized_of_what_nothing_fits_in_is_the_largest_part_in_the_middle(size, crop):
    """As `RandomResizedCrop.get_params` does after ten attempts."""
    preprocess = how("random-resized:6", area=(0.9, 1.0))
    for key in KEYS[:100]:
        assert {cut.crop for cut in cuts(preprocess, key, size)[1:]} == {crop}


def test_random_resized_of_the_whole_in_its_own_proportions_is_the_whole():
    preprocess = how("random-resized:3", area=(1, 1), ratio=(1, 1))
    assert {cut.crop for cut in cuts(preprocess, size=(77, 77))} == {(0, 0, 77, 77)}


@pytest.mark.parametrize("resize", ["one-step", "crop-first", "short-side", "adm"])
def test_random_views_lie_inside_images_of_any_size(resize):
    kinds = ("random-crop:9",) if resize in {"short-side", "adm"} else RANDOM
    preprocess = how(*kinds, resize=resize)
    for size, key in itertools.product([(1, 1), (1, 90), (2, 3), (31, 33), (500, 20)], KEYS[:20]):
        for left, top, right, bottom in (cut.crop for cut in cuts(preprocess, key, size)):
            assert 0 <= left < right <= size[0]
            assert 0 <= top < bottom <= size[1]


@pytest.mark.parametrize("kind", ["center", "five-crop", *RANDOM])
def test_flip_random_is_a_fair_coin_and_leaves_the_first_of_a_random_kind(kind):
    preprocess = how(kind, flip="random", seed=1)
    flips = np.array([[cut.flip for cut in cuts(preprocess, key)] for key in KEYS])
    is_drawn = np.ones(preprocess.views, bool)
    is_drawn[0] = kind not in RANDOM
    assert not flips[:, ~is_drawn].any()
    share, spread = flips[:, is_drawn].mean(0), 0.5 / math.sqrt(len(KEYS))
    assert (np.abs(share - 0.5) < 4 * spread).all()
    patterns = len({tuple(row) for row in flips[:200, is_drawn]})
    assert patterns == min(2 ** is_drawn.sum(), patterns) > is_drawn.sum()  # each for itself


def test_first_of_each_random_kind_is_the_one_in_the_middle():
    preprocess = how("random-crop:3", "random-resized:2", "random-crop:2", flip="random")
    for key in KEYS[:200]:
        found = cuts(preprocess, key)
        for number in (0, 3, 5):
            assert found[number].crop == (25, 0, 175, 150)
            assert not found[number].flip


@pytest.mark.parametrize("kinds", [RANDOM, ("five-crop", "random-crop:3"), ("center", *RANDOM)])
def test_flip_both_and_random_change_no_crop(kinds):
    plain, both, drawn = (how(*kinds, flip=each) for each in ("none", "both", "random"))
    for key in KEYS[:50]:
        expected = [cut.crop for cut in cuts(plain, key)]
        twice = cuts(both, key)
        assert [cut.crop for cut in twice] == [crop for crop in expected for _ in range(2)]
        assert [cut.flip for cut in twice] == [False, True] * len(expected)
        assert [cut.crop for cut in cuts(drawn, key)] == expected


def test_two_of_a_kind_draw_different_views():
    found = cuts(how("random-crop:9", "random-crop:9"), size=(4000, 150))
    assert found[0] == found[9]
    assert len(set(found)) == 17


def test_views_are_as_many_as_their_numbers_have_room_for():
    assert how(f"random-crop:{MOST_VIEWS}").views == MOST_VIEWS == 256
    assert len(cuts(how("random-crop:128", flip="both"))) == MOST_VIEWS
    for kinds, flip in [(("random-crop:129",), "both"), (("random-crop:256", "center"), "none")]:
        with pytest.raises(ValueError, match=r"25[78] views of an image are not in 1 to 256"):
            how(*kinds, flip=flip)


@pytest.mark.parametrize(
    "word",
    [
        *("", "centre", "center:", "center:2", "random-crop", "random-crop:", "random-crop:0"),
        *("random-crop:257", "random-crop:-1", "random-crop:2.5", "random-crop:x", "ten-crop:0.9"),
        *("ten-crop:17", "ten-crop:nan", "ten-crop:inf", "five-crop:x", "five-crop:-1", "flip"),
        *("random-resized:1e3", "CENTER", "random-:3", "ten-crop:1.1:2"),
    ],
)
def test_parse_kind_other_words_name_what_there_is(word):
    with pytest.raises(ValueError, match="names no views; there are center, five-crop") as caught:
        parse_kind(word)
    assert repr(word) in str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"resize": "squash", "kinds": ("ten-crop",)}, "a whole image has one view"),
        ({"resize": "adm", "kinds": ("random-resized:2",)}, "random-resized cuts before"),
        ({"flip": "both", "kinds": ("ten-crop",)}, "ten-crop has flipped views of its own"),
        ({"draft": True, "resize": "adm"}, "draft decodes JPEGs smaller"),
        ({"resize": "cover"}, "resize must be one of one-step"),
        ({"kinds": ()}, "0 views"),
        ({"area": (0.5, 0.2)}, "area must be two shares"),
        ({"area": (0.0, 1.0)}, "area must be two shares"),
        ({"area": (0.5, 1.1)}, "area must be two shares"),
        ({"ratio": (2.0, 1.0)}, "ratio must be two shares"),
        ({"ratio": (float("nan"), 1.0)}, "ratio must be two shares"),
    ],
)
def test_preprocess_refuses_what_does_not_go_together(options, said):
    with pytest.raises(ValueError, match=said):
        Preprocess(square(8), **options)
