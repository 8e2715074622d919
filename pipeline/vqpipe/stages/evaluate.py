"""The stages of evaluation, tables in, tables out, for any engine or a plain loop.

    pick_rows      a committed shard           ->  which of its rows are looked at
    measure_rows   views and their codes       ->  scores, and what the codes decode to
    picture_rows   views and decoded images    ->  both as JPEGs, for a person to look at

Rows travel as those of `encode` do, with two more columns: `place`, the row in the shard, since
`row` counts only the samples that were picked, and `codes`, which the sink has of them.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vqpipe.images import ImageFormat, compress
from vqpipe.schema import Reason, Rejection
from vqpipe.stages.read import put_rejections

PICTURE_SIDE = 256
"""Most pixels along a side of the JPEGs that are kept."""
_PICTURE = ImageFormat("jpeg", 90)

Pixels = npt.NDArray[np.uint8]
"""(N, R, R, 3) uint8 RGB."""


@dataclass(frozen=True)
class Measured:
    """What was found out about views and their codes."""

    decoded: Pixels
    """What the codes decode to."""
    finite: npt.NDArray[np.bool_]
    """(N,): which of them are finite throughout."""
    scores: Mapping[str, npt.NDArray[np.floating]]
    """One number a view (N,), or one vector (N, D), by name."""
    unlike: npt.NDArray[np.integer]
    """(N,): codes that differ from those of the view, encoded again in float32."""


Measure = Callable[[Pixels, npt.NDArray[np.int64]], Measured]
"""Views (N, R, R, 3) and the codes (N, h * w) that are stored of them."""


def pick_rows(keys: list[str], most: int) -> list[int]:
    """Returns at most so many places of a shard's keys, picked by a hash of each key, in order."""
    order = sorted(range(len(keys)), key=lambda place: _hash(keys[place]))
    return sorted(order[:most])


def _hash(key: str) -> bytes:
    return hashlib.blake2b(b"evaluate" + key.encode("utf-8", "surrogatepass")).digest()


def share_out(samples: int, counts: Mapping[str, int]) -> dict[str, int]:
    """Returns how many samples each shard gives: in proportion, and together as many as asked.

    What proportion leaves over goes to the largest remainders, ties by name (Hamilton's method).
    """
    total = sum(counts.values())
    wanted = min(samples, total)
    exact = {name: wanted * count / total for name, count in counts.items()} if total else {}
    quotas = {name: int(value) for name, value in exact.items()}
    left = wanted - sum(quotas.values())
    by_remainder = sorted(exact, key=lambda name: (quotas[name] - exact[name], name))
    for name in by_remainder[:left]:
        quotas[name] += 1
    return {name: quota for name, quota in quotas.items() if quota}


def measure_rows(table: pa.Table, measure: Measure, scores: list[pa.Field]) -> pa.Table:
    """Adds scores and decoded images to opened rows; a view that cannot be scored is rejected.

    Args:
        table: Opened rows with `place` and `codes`.
        measure: Decodes, compares and encodes again.
        scores: Columns to add.
    """
    pixels = table["pixels"].combine_chunks()
    valid = np.asarray(pixels.is_valid())
    good = table.filter(pa.array(valid))
    rejections: list[Rejection | None] = [None] * len(table)
    columns: dict[str, pa.Array] = {each.name: pa.nulls(len(table), each.type) for each in scores}
    decoded = pa.nulls(len(table), pixels.type)
    if len(good):
        found = measure(_images(good), _codes(good))
        places = np.flatnonzero(valid)
        for place in places[~found.finite]:
            rejections[place] = _NON_FINITE
        scored = {**found.scores, "unlike": found.unlike}
        for each in scores:
            columns[each.name] = _scatter(scored[each.name], places, len(table), each.type)
        decoded = _scatter_images(found.decoded, places, len(table), pixels.type)
    known = {name: table[name] for name in table.column_names if name != "codes"}
    return pa.table({**known, **put_rejections(table, rejections), **columns, "decoded": decoded})


_NON_FINITE = Rejection(Reason.NON_FINITE, "the network's pixels hold NaN or infinity")


def picture_rows(table: pa.Table, columns: list[str]) -> pa.Table:
    """Replaces pixels by JPEGs, and leaves out all columns but those named."""
    pictures = {
        "original": pa.array(map(_to_picture, table["pixels"]), pa.binary()),
        "decoded": pa.array(map(_to_picture, table["decoded"]), pa.binary()),
    }
    known = {name: table[name] for name in columns if name not in pictures}
    return pa.table({**known, **pictures}).select(columns)


def _to_picture(value: pa.Scalar) -> bytes | None:
    if not value.is_valid:
        return None
    data = value.as_buffer()
    side = round((data.size // 3) ** 0.5)
    return compress(np.frombuffer(data, np.uint8).reshape(side, side, 3), _PICTURE, PICTURE_SIDE)


def _images(table: pa.Table) -> Pixels:
    rows = [np.frombuffer(value.as_buffer(), np.uint8) for value in table["pixels"]]
    side = round((len(rows[0]) // 3) ** 0.5)
    return np.stack(rows).reshape(len(rows), side, side, 3)


def _codes(table: pa.Table) -> npt.NDArray[np.int64]:
    column = table["codes"].combine_chunks()
    flat = pc.cast(column.flatten(), pa.int64()).to_numpy()
    return np.asarray(flat).reshape(len(table), -1)


def _scatter(
    values: npt.NDArray[np.generic],
    places: npt.NDArray[np.integer],
    length: int,
    kind: pa.DataType,
) -> pa.Array:
    """Returns values at their places in a column, null elsewhere."""
    found: list[object] = [None] * length
    for place, value in zip(places, values, strict=True):
        found[place] = value if value.ndim else value.item()
    return pa.array(found, kind)


def _scatter_images(
    images: Pixels, places: npt.NDArray[np.integer], length: int, kind: pa.DataType
) -> pa.Array:
    found: list[bytes | None] = [None] * length
    for place, image in zip(places, images, strict=True):
        found[place] = image.tobytes()
    return pa.array(found, kind)
