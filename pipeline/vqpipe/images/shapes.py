"""How large views are: of one shape, or of several, of which an image has the one that suits it.

    256              squares; several only if there are buckets
    buckets 256      about the pixels of a square of 256, sides multiples of the tokenizer's, ratio
                     up to 2 to 1
    lumina:512       those of Lumina-DiMOO's programs, sides multiples of 32, ratio up to 4 to 1
    640x384 ...      width and height of each
    inside:512       the longer side 512, the other as the image has it, rounded to the multiple

An image gets the bucket of which it covers most, as Lumina's programs choose (`var_center_crop`).
"""

import itertools
import re

Shape = tuple[int, int]
"""Height and width, in pixels."""

_MOST_RATIO = 2
_LUMINA_STEP, _LUMINA_RATIO = 32, 4.0
_LEAST, _MOST = 1, 2**14
_SIZES = re.compile(r"([0-9]{1,5})x([0-9]{1,5})")
MOST_SHAPES = 256
"""Each is compiled by itself on a GPU."""


def square(side: int) -> tuple[Shape, ...]:
    """Returns the only shape of views that are squares, from their side in pixels."""
    return ((side, side),)


def word_of(shape: Shape) -> str:
    """Returns a shape as it is said: width x height."""
    return f"{shape[1]}x{shape[0]}"


def parse_word(word: str) -> Shape:
    """Returns the shape that `word_of` wrote, or that a person did.

    Raises:
        ValueError: If it is none.
    """
    found = _SIZES.fullmatch(word)
    shape = (int(found[2]), int(found[1])) if found else (0, 0)
    if not _LEAST <= min(shape) <= max(shape) <= _MOST:
        raise ValueError(f"{word!r} is no width and height in pixels, such as 640x384")
    return shape


def parse_buckets(words: tuple[str, ...], multiple: int) -> tuple[Shape, ...]:
    """Returns the shapes that buckets name, sorted, each once.

    Args:
        words: What was said: a side, `lumina:SIDE`, or a width and height each.
        multiple: That a tokenizer's sides are of.

    Raises:
        ValueError: If they name none.
    """
    if len(words) == 1 and words[0].isdecimal():
        shapes = _alike(_side(words[0]), multiple)
    elif len(words) == 1 and words[0].startswith("lumina:"):
        shapes = _lumina(_side(words[0].partition(":")[2]))
    else:
        shapes = [parse_word(word) for word in words]
    found = tuple(sorted(set(shapes)))
    if len(found) > MOST_SHAPES:
        raise ValueError(f"{len(found):,} buckets are more than the {MOST_SHAPES} there may be")
    return found


def parse_fit(word: str, multiple: int) -> tuple[Shape, ...]:
    """Returns all shapes that a whole image may have inside a square.

    Args:
        word: `inside:SIDE`.
        multiple: That a tokenizer's sides are of.

    Raises:
        ValueError: If it names none.
    """
    if not word.startswith("inside:"):
        raise ValueError(f"{word!r} says nothing of how images fit; there is inside:SIDE")
    side = _side(word.partition(":")[2]) // multiple * multiple
    if not side:
        raise ValueError(f"{word} is less than {multiple}, the pixels per code of this model")
    shorter = range(multiple, side + 1, multiple)
    if 2 * len(shorter) - 1 > MOST_SHAPES:
        raise ValueError(
            f"{word} makes {2 * len(shorter) - 1:,} shapes, and there may be {MOST_SHAPES}"
        )
    found = {shape for each in shorter for shape in ((side, each), (each, side))}
    return tuple(sorted(found))


def _side(said: str) -> int:
    if not said.isdecimal() or not _LEAST <= int(said) <= _MOST:
        raise ValueError(f"{said!r} is no side of {_LEAST:,} to {_MOST:,} pixels, such as 512")
    return int(said)


def _alike(side: int, multiple: int) -> list[Shape]:
    """Returns shapes of about as many pixels as a square has, and no more."""
    places = (side // multiple) ** 2
    if not places:
        raise ValueError(f"buckets of {side} are below {multiple}, the model's pixels per code")
    found = []
    for one in range(1, places + 1):
        other = places // one
        if max(one, other) <= _MOST_RATIO * min(one, other):
            found += [(one * multiple, other * multiple), (other * multiple, one * multiple)]
    return found


def _lumina(side: int) -> list[Shape]:
    """Returns the shapes of Lumina's `generate_crop_size_list`.

    For every number of steps in width the heights that there are pixels for, from the one that the
    width before had to the most.
    """
    places = round((side / _LUMINA_STEP) ** 2)
    across, down, found = places, 1, []
    while across > 0:
        if max(across, down) / min(across, down) <= _LUMINA_RATIO:
            found.append((down * _LUMINA_STEP, across * _LUMINA_STEP))
        down, across = (down + 1, across) if (down + 1) * across <= places else (down, across - 1)
    if not found:
        raise ValueError(f"lumina:{side} is below its step of {_LUMINA_STEP} pixels")
    return found


def find_bucket(shapes: tuple[Shape, ...], width: int, height: int) -> Shape:
    """Returns the shape that most of an image of a size goes into; of equal ones, the widest."""

    def cover(shape: Shape) -> tuple[float, int, int]:
        across, down = shape[1] / width, shape[0] / height
        return min(across, down) / max(across, down), shape[1], shape[0]

    return max(shapes, key=cover)


def find_inside(shapes: tuple[Shape, ...], width: int, height: int) -> Shape:
    """Returns the shape of `parse_fit` that an image of a size has."""
    sides = list(itertools.chain.from_iterable(shapes))
    multiple, side = min(sides), max(sides)
    shorter = round(side * min(width, height) / max(width, height) / multiple) * multiple
    shorter = min(max(shorter, multiple), side)
    return (shorter, side) if width >= height else (side, shorter)
