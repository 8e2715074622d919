"""Compressed images on their way to be opened."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt

NO_IMAGE = -1
"""Stands for the size of an image that is not there."""


@dataclass(frozen=True, eq=False)
class Compressed:
    """Some compressed images, one behind the other."""

    sizes: npt.NDArray[np.int64]
    """(N,) bytes of each; `NO_IMAGE` where there is none."""
    pieces: Sequence[memoryview]
    """Their bytes, cut anywhere."""
    lots: npt.NDArray[np.uint64]
    """(N,) what is drawn of each (`crops.lot_of`); 0 where nothing is."""

    @classmethod
    def of(cls, images: Sequence[bytes | memoryview | None]) -> "Compressed":
        """Returns images that lie apart; None stays without one."""
        sizes = [NO_IMAGE if image is None else len(image) for image in images]
        pieces = [memoryview(image).cast("B") for image in images if image is not None]
        return cls(np.array(sizes, np.int64), pieces, np.zeros(len(sizes), np.uint64))

    def with_lots(self, lots: npt.NDArray[np.uint64]) -> Self:
        """Returns the images with what is drawn of each (N,)."""
        return replace(self, lots=lots)

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[bytes | None]:
        """Yields the content of each image, or None."""
        data = b"".join(self.pieces)
        for size, place in zip(self.sizes.tolist(), places_of(self.sizes), strict=True):
            yield None if size == NO_IMAGE else data[place]

    @property
    def nbytes(self) -> int:
        """Bytes of all images."""
        return sum(len(piece) for piece in self.pieces)


def places_of(sizes: npt.NDArray[np.int64]) -> list[slice]:
    """Returns where images of these sizes (N,) lie among the bytes of all."""
    ends = sizes.clip(min=0).cumsum().tolist()
    return [slice(*each) for each in zip([0, *ends], ends, strict=False)]
