"""Codes as sequences of tokens of one vocabulary, among tokens that say where an image is.

    [begin] code ... code [row] code ... code [row] [end] [eod]

Ids of codes begin at an offset, below which there is room for those of text. Where the codes of a
place have a codebook each, the ids of one stand behind those of the codebook before.
"""

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vqpipe.code_layout import CodeLayout
from vqpipe.export.records import Codes

Tokens = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Marks:
    """Ids of tokens that are no codes; None is no such token."""

    begin: int | None = None
    """Before the codes of an image."""
    row: int | None = None
    """Behind each row of codes, the last one too, of each scale."""
    end: int | None = None
    """Behind the codes of an image."""
    eod: int | None = None
    """At the end of the sequence."""


@dataclass(frozen=True)
class Vocabulary:
    """Which ids codes and marks have."""

    layout: CodeLayout
    offset: int
    """Id of code 0, of the first codebook."""
    marks: Marks

    @property
    def codes(self) -> range:
        """Ids of all codes."""
        return range(self.offset, self.offset + sum(self.layout.codebooks))

    def tokens(self, codes: Iterable[Codes]) -> list[Tokens]:
        """Returns the sequence of each image.

        Args:
            codes: Of images, as `records.codes_of` has them.
        """
        if isinstance(codes, np.ndarray):
            frame = _frame(self, self.layout.shapes)
            return list(frame.fill(codes.reshape(len(codes), self.layout.length)))
        return [_frame(self, (each.shape,)).fill(each.reshape(1, -1))[0] for each in codes]


@dataclass(frozen=True)
class _Frame:
    """The sequence of an image without its codes."""

    tokens: Tokens
    """(L,): marks, and zeros where codes go."""
    places: npt.NDArray[np.intp]
    """(T,): where codes go."""
    firsts: Tokens
    """(T,): id of code 0 there."""

    def fill(self, codes: Codes) -> Tokens:
        """Returns sequences, (n, L), of codes, (n, T)."""
        filled = np.tile(self.tokens, (len(codes), 1))
        filled[:, self.places] = codes + self.firsts
        return filled


@functools.lru_cache(1024)
def _frame(vocabulary: Vocabulary, shapes: tuple[tuple[int, ...], ...]) -> _Frame:
    """Returns the frame of images whose codes have such shapes, one behind the other."""
    marks, rows = vocabulary.marks, [row for shape in shapes for row in _rows(shape)]
    tokens: list[int | None] = [marks.begin]
    for length in rows:
        tokens += [*[-1] * length, marks.row]
    tokens += [marks.end, marks.eod]
    made = np.array([each for each in tokens if each is not None], np.int64)
    places = np.flatnonzero(made < 0)
    made[places] = 0
    return _Frame(made, places, _firsts(vocabulary, len(places)))


def _rows(shape: tuple[int, ...]) -> list[int]:
    """Returns how many codes each row has; a sequence is one row."""
    height, *rest = shape
    return [math.prod(rest)] * height if rest else [height]


def _firsts(vocabulary: Vocabulary, count: int) -> Tokens:
    before = np.cumsum([0, *vocabulary.layout.codebooks[:-1]])
    return np.tile(vocabulary.offset + before, count // len(before)).astype(np.int64)
