"""Views of any number, size, place and handedness; those of `vqpipe encode` are in `test_views`."""

import mmap

import numpy as np
import pytest
from PIL import Image

from tests.images.test_sandbox import check_views
from tests.makers import encoded, jpeg, picture
from vqpipe.images import Compressed, Preprocess, View, open_image, open_images, square, views_of
from vqpipe.images.frame import Cut
from vqpipe.images.table import Places, Table
from vqpipe.rejections import Reason, Rejection


class Three(Preprocess):
    """The left half, the same flipped, and the last rows of the right half."""

    views = 3

    def cuts(self, width, height, lot=0):  # noqa: ARG002
        left = (0, 0, width // 2, height)
        return (
            Cut(left, flip=False),
            Cut(left, flip=True),
            Cut((width // 2, height // 2, width, height), flip=False),
        )


HOW = Three(((12, 20),))
IMAGES = [encoded(picture(80, 48, seed), "PNG") for seed in range(3)]


def cut_of(seed, box, *, flip=False):
    image = Image.fromarray(picture(80, 48, seed)).resize((20, 12), Image.BICUBIC, box=box)
    return np.asarray(image)[:, ::-1] if flip else np.asarray(image)


def expected_of(seed):
    left = (0, 0, 40, 48)
    return [
        View(cut_of(seed, left), 80, 48, left, False, 0),
        View(cut_of(seed, left, flip=True), 80, 48, left, True, 1),
        View(cut_of(seed, (40, 24, 80, 48)), 80, 48, (40, 24, 80, 48), False, 2),
    ]


def test_views_of_have_their_number_place_and_handedness():
    for seed, image in enumerate(IMAGES):
        found = views_of(image, HOW)
        check_views(found, expected_of(seed))
        assert {view.size for view in found} == {(12, 20)}
        check_views([open_image(image, HOW)], expected_of(seed)[:1])


def test_open_images_puts_every_view_into_its_place():
    check_opened(open_images(Compressed.of([IMAGES[0], b"<html>", None, IMAGES[1]]), HOW))


def check_opened(found):
    """Checks what became of the first image, one that is none, no image, and the second."""
    first, bad, none, last = found
    assert isinstance(bad, Rejection)
    assert none is None
    for seed, views in ((0, first), (1, last)):
        check_views(views, expected_of(seed))
        assert all(np.shares_memory(view.pixels, found.pixels) for view in views)
    assert np.array_equal(found.pixels, np.ravel([view.pixels for view in (*first, *last)]))


@pytest.fixture
def table():
    """A table as the parent has it, and as the child sees it, with other pixels from before."""
    images = Compressed.of([IMAGES[0], b"x", None, IMAGES[1]])
    memory = mmap.mmap(-1, Places.of(len(images), HOW).data + images.nbytes)
    memory.write(b"\7" * len(memory))
    table = Table(memory, len(images), HOW)
    table.fill(images)
    return table, Table(memory, len(images), HOW)


HAD = np.array([True, True, False, True])


def test_table_of_two_processes_holds_all_that_views_are(table):
    mine, theirs = table
    for row, image, _ in theirs.left():
        if row == 1:
            theirs.reject(row, Rejection(Reason.CORRUPT, "none"))
        else:
            theirs.put(row, views_of(image, HOW))
        assert mine.count_done() == 2 + (0, 1, 3).index(row)
    assert mine.first_left() is None
    found = mine.take(HAD)
    check_opened(found)
    assert found[1] == Rejection(Reason.CORRUPT, "none")


@pytest.mark.fault(20)
@pytest.mark.parametrize("state", [0, 3, 77])
def test_table_rows_of_which_a_child_says_nothing_are_rejections(table, state):
    mine, theirs = table
    for row, image, _ in theirs.left():
        if row != 1:
            theirs.put(row, views_of(image, HOW))
    theirs.records["state"][[1, 2]] = state
    theirs.records["reason"][1] = b"no such reason"
    check_opened(found := mine.take(HAD))
    assert found[1].reason is Reason.DECODER_CRASHED


@pytest.mark.fault(20)
def test_table_reason_that_there_is_not_is_a_rejection(table):
    mine, theirs = table
    theirs.reject(0, Rejection(Reason.CORRUPT, "none"))
    theirs.records["reason"][0] = b"\xff"
    assert mine.take(HAD)[0].reason is Reason.DECODER_CRASHED


@pytest.mark.parametrize(
    ("width", "height", "size", "crop"),
    [
        (100, 60, (10, 20), (0, 5, 100, 55)),
        (100, 60, (20, 10), (35, 0, 65, 60)),
        (60, 100, (10, 20), (0, 35, 60, 65)),
        (101, 60, (3, 5), (0, 0, 100, 60)),
        (61, 50, (8, 8), (5, 0, 55, 50)),
        (1, 900, (1, 9), (0, 449, 1, 450)),
        (900, 1, (9, 1), (449, 0, 450, 1)),
    ],
)
def test_open_image_crop_has_the_proportions_of_the_view_and_lies_in_the_centre(
    width, height, size, crop
):
    view = open_image(encoded(picture(width, height), "PNG"), Preprocess((size,)))
    assert (view.crop, view.size, view.flip, view.number) == (crop, size, False, 0)
    image = Image.fromarray(picture(width, height))
    expected = np.asarray(image.resize(size[::-1], Image.BICUBIC, box=crop))
    assert np.array_equal(view.pixels, expected)


def test_every_image_has_as_many_views_as_are_said():
    how = Preprocess(square(8))
    assert how.views == len(how.cuts(40, 30)) == len(views_of(jpeg(), how)) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("shapes", ((8, 0),)),
        ("resample", "nearest"),
        ("background", (0, 0, 256)),
        ("background", (0, 0)),
        ("max_pixels", 0),
    ],
)
def test_preprocess_out_of_bounds_names_field_and_value(field, value):
    with pytest.raises(ValueError, match=field) as caught:
        Preprocess(**{"shapes": square(32)} | {field: value})
    assert str(value) in str(caught.value)
