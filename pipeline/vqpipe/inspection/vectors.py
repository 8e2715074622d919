"""Latents and quantized vectors of a sink: whether they are sound, and those of their source."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vqpipe.schema import lists_in, numbers_of
from vqpipe.stages.latents import are_finite, to_float32
from vqpipe.vector_layout import LATENTS, VectorLayout, Vectors


def find_fault(table: pa.Table, vectors: Iterable[VectorLayout]) -> str | None:
    """Returns what is wrong with the vectors of some images, if anything.

    Args:
        table: Rows of `data/`.
        vectors: The columns, of the right types.
    """
    for each in vectors:
        column = table[each.name]
        if column.null_count:
            return f"{column.null_count} images have no {each.name}"
        held = [are_finite(found, each.dtype) for found in _alike(column)]
        bad = np.flatnonzero(~np.concatenate([np.ones(0, bool), *held]))
        if len(bad):
            row = table["row"][int(bad[0])]
            return f"{each.name} of {len(bad)} images are not finite, the first in row {row}"
    return None


def distances(
    stored: pa.ChunkedArray, found: pa.ChunkedArray, vectors: VectorLayout
) -> npt.NDArray[np.float64]:
    """Returns how far vectors (N,) are from those that are stored, by the length of these.

    Args:
        stored: Lists that are all there.
        found: As many.
        vectors: What is in both.
    """
    shares = [
        _distances(*(to_float32(each, vectors.dtype).astype(np.float64) for each in pair))
        for pair in zip(_alike(stored), _alike(found), strict=True)
    ]
    return np.concatenate([np.zeros(0), *shares])


def _alike(column: pa.ChunkedArray) -> list[npt.NDArray[Any]]:
    """Returns the lists of a column as arrays (n, ...): all as one, or each by itself."""
    if pa.types.is_fixed_size_list(column.type):
        return [numbers_of(column)]
    return [each[np.newaxis] for each in lists_in(column)]


def _distances(
    stored: npt.NDArray[np.float64], found: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Returns how far vectors (n, ...) are apart by their length; infinity of unlike shapes."""
    if stored.shape != found.shape:
        return np.full(len(stored), np.inf)
    lengths = np.linalg.norm(stored, axis=1)
    apart = np.linalg.norm(found - stored, axis=1)
    shares: npt.NDArray[np.float64] = apart / np.maximum(lengths, np.finfo(np.float64).tiny)
    return shares


def farthest(name: Vectors, unlike: float) -> float:
    """Returns how far vectors may be from those of their source, by the length of these.

    Latents may be as far as codes may be unlike. Quantized, in which another entry takes the place
    of one, are further: entries that have nothing to do with each other are 2 ** 0.5 of their
    length apart.

    Args:
        name: Which vectors.
        unlike: Share of the codes that may differ.
    """
    return unlike if name == LATENTS else float((2 * unlike) ** 0.5)
