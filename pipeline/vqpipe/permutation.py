"""An order of 0..N-1 that looks drawn by lot, as a function: what stands at a place, and where.

No list of the numbers is kept or shuffled, so that 10^12 of them cost what ten do, and any process
can say which number stands at any place. A number is taken for two digits, one of base a and one of
base b, with a * b just above N. In each round one digit is moved on by a hash of the other, which
can be undone: a Feistel network. What comes out as N or above is put in again until it is below
(J. Black, P. Rogaway, "Ciphers with Arbitrary Finite Domains", 2002,
https://www.cs.ucdavis.edu/~rogaway/papers/subset.pdf); that is so of less than one in b.
"""

import functools
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]
_Words = npt.NDArray[np.uint64]

_ROUNDS = 8
"""Four make large N look random; few numbers need more."""
MOST = 2**62
"""Largest N: digits have 32 bits at most."""


@dataclass(frozen=True)
class Permutation:
    """An order of 0..size-1."""

    size: int
    """N, from 0 to `MOST`."""
    seed: int
    """Of the lot."""
    epoch: int = 0
    """Each has an order of its own."""
    what_for: str = ""
    """Has orders for other ends be other ones."""

    def __post_init__(self) -> None:
        if not 0 <= self.size <= MOST:
            raise ValueError(f"size is {self.size}; it must be in 0 to {MOST}")

    def at(self, places: Numbers) -> Numbers:
        """Returns the numbers that stand at places.

        Args:
            places: (n,) in 0..size-1.

        Returns:
            (n,) in 0..size-1.
        """
        return self._walk(places, self._forth)

    def place_of(self, numbers: Numbers) -> Numbers:
        """Returns the places at which numbers stand: the inverse of `at`.

        Args:
            numbers: (n,) in 0..size-1.

        Returns:
            (n,) in 0..size-1.
        """
        return self._walk(numbers, self._back)

    def _walk(self, numbers: Numbers, step: Callable[[_Words], _Words]) -> Numbers:
        found = step(numbers.astype(np.uint64))
        outside = np.flatnonzero(found >= self.size)
        while len(outside):
            found[outside] = step(found[outside])
            outside = outside[found[outside] >= self.size]
        return found.astype(np.int64)

    def _forth(self, numbers: _Words) -> _Words:
        a, b = self._bases
        high, low = numbers // b, numbers % b
        for one, other in self._keys:
            high = _moved(high, low, a, one)
            low = _moved(low, high, b, other)
        return high * b + low

    def _back(self, numbers: _Words) -> _Words:
        a, b = self._bases
        high, low = numbers // b, numbers % b
        for one, other in reversed(self._keys):
            low = _moved(low, high, b, other, is_back=True)
            high = _moved(high, low, a, one, is_back=True)
        return high * b + low

    @functools.cached_property
    def _bases(self) -> tuple[np.uint64, np.uint64]:
        """How many values each digit has: a, b."""
        a = math.isqrt(max(self.size, 1) - 1) + 1
        return np.uint64(a), np.uint64(-(-max(self.size, 1) // a))

    @functools.cached_property
    def _keys(self) -> list[tuple[np.uint64, np.uint64]]:
        """What is mixed into the hashes, for each pair of rounds."""
        said = f"{self.what_for}\0{self.seed}\0{self.epoch}".encode()
        data = hashlib.shake_256(said).digest(8 * _ROUNDS)
        words = np.frombuffer(data, "<u8").astype(np.uint64)
        return list(zip(words[::2], words[1::2], strict=True))


def _moved(
    digit: _Words, other: _Words, base: np.uint64, key: np.uint64, *, is_back: bool = False
) -> _Words:
    """Returns a digit moved on, or back, by what is drawn for the other one."""
    drawn = (mix(other + key) >> np.uint64(32)) * base >> np.uint64(32)  # 0..base-1
    found = digit + (base - drawn if is_back else drawn)
    return np.where(found >= base, found - base, found)


def mix(words: _Words) -> _Words:
    """Returns 64-bit words that look random, another one for each.

    It is the end of SplitMix64, variant 13 of https://zimbry.blogspot.com/2011/09/ (D. Stafford).
    """
    words = words ^ (words >> np.uint64(30))
    words = words * np.uint64(0xBF58476D1CE4E5B9)
    words = words ^ (words >> np.uint64(27))
    words = words * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
