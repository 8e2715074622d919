"""Which samples of a sink there are to read, and how many in each shard: frozen, with a digest.

A sample is an image with all its views, or a single view. Samples whose codes differ in shape are
in different pools. Where nothing tells samples apart, footers have said how many there are; else
the columns that do are read of every shard, once.
"""

import functools
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vqpipe import storage
from vqpipe.conditions.expression import parse_stored
from vqpipe.conditions.judge import judge
from vqpipe.dataset.cache import Cache
from vqpipe.dataset.columns import Shape
from vqpipe.errors import ConfigError, DamagedError, MismatchError
from vqpipe.schema import GRID
from vqpipe.sink.footer import read_tail
from vqpipe.sink.seal import body_digest
from vqpipe.sink.snapshot import Part, Snapshot
from vqpipe.storage.ahead import map_ahead

Views = Literal["one", "all"]
"""What a sample is: an image, of which an epoch shows one view, or each view by itself."""

_READERS = 16
_OF_A_VIEW = {"crop", "flip", "view", *(each.name for each in GRID)}
"""Columns in which the views of an image differ."""
_GRID = [each.name for each in GRID]

Pools = npt.NDArray[np.int16]
"""(samples,): the pool of each; -1 where it is left out."""


@dataclass(frozen=True)
class Sorter:
    """Says of rows which samples they are of, and in which pool."""

    views: int
    """Rows of a sample."""
    shapes: tuple[Shape, ...]
    """Of codes, one a pool."""
    condition: str | None
    """That samples have to meet."""
    asked: tuple[str, ...]
    """Columns that it names."""

    @property
    def columns(self) -> list[str]:
        """The columns that are looked at."""
        return list(dict.fromkeys([*self.asked, *(_GRID if len(self.shapes) > 1 else [])]))

    def sort(self, rows: pa.Table) -> Pools:
        """Returns the pool of each sample.

        Args:
            rows: All views of each sample, side by side.
        """
        pools = self._pools(rows)
        if self.condition is None:
            return pools
        first = rows.select(list(self.asked)).take(np.arange(0, len(rows), self.views))
        columns = {name: first[name].combine_chunks() for name in self.asked}
        is_met = pc.fill_null(judge(self.condition, columns, "filter"), fill_value=False)
        return np.where(is_met.to_numpy(zero_copy_only=False), pools, -1).astype(np.int16)

    def _pools(self, rows: pa.Table) -> Pools:
        if len(self.shapes) == 1:
            return np.zeros(len(rows) // self.views, np.int16)
        known = np.array([[shape[0], shape[1]] for shape in self.shapes])
        grids = np.stack([rows[name].to_numpy() for name in _GRID], axis=1).astype(np.int64)
        is_this = (grids[:, None] == known).all(axis=2)  # (rows, pools)
        if not is_this.any(axis=1).all():
            lost = grids[~is_this.any(axis=1)][0].tolist()
            raise DamagedError(f"a grid of {lost} is none of those that run.json lists")
        pools = is_this.argmax(axis=1).reshape(-1, self.views)
        if (pools != pools[:, :1]).any():
            raise ConfigError(
                'views of an image differ in their grids here: read them one by one, views="all"'
            )
        found: Pools = pools[:, 0].astype(np.int16)
        return found


@dataclass(frozen=True, eq=False)
class Index:
    """What there is to read."""

    snapshot: Snapshot
    views: Views
    sorter: Sorter
    counts: npt.NDArray[np.int64]
    """(shards, pools): samples."""

    digest: str
    """Of which samples there are, in which order; hexadecimal."""

    @property
    def samples(self) -> int:
        """Of all shards."""
        return int(self.counts.sum())


def make_sorter(snapshot: Snapshot, types: pa.Schema, views: Views, text: str | None) -> Sorter:
    """Returns what sorts the rows of a sink.

    Args:
        snapshot: The sink.
        types: Columns of its rows.
        views: What a sample is.
        text: A condition on columns, in the words of `--where`; None takes all.

    Raises:
        ConfigError: If the condition cannot be understood, or does not go with the columns.
    """
    layout = snapshot.run.facts.codes
    shapes = layout.shapes if layout.differs else (layout.shape,)
    rows = snapshot.views if views == "one" else 1
    if text is None:
        return Sorter(rows, shapes, None, ())
    condition, asked = parse_stored("filter", text)
    _check_names(asked, types, rows)
    judge(condition, {name: pa.nulls(0, types.field(name).type) for name in asked}, "filter")
    return Sorter(rows, shapes, condition, asked)


def _check_names(asked: Iterable[str], types: pa.Schema, views: int) -> None:
    for name in asked:
        if name not in types.names:
            raise ConfigError(
                f"filter names {name!r}, which the sink's rows lack; they have "
                f"{', '.join(types.names)}"
            )
        if views > 1 and name in _OF_A_VIEW:
            raise ConfigError(
                f"filter names {name!r}, in which the views of an image differ: read them one by "
                'one, views="all", or leave it out'
            )


def make_index(snapshot: Snapshot, views: Views, sorter: Sorter, cache: Cache) -> Index:
    """Returns what there is to read; what takes reading to be known is kept in the cache.

    Raises:
        MismatchError: If a shard is not what it was.
        StorageError: If the store does not give it.
        ConfigError: If the cache cannot be made.
    """
    said = [snapshot.digest, views, sorter.condition]
    digest = hashlib.sha256(json.dumps(said).encode()).hexdigest()
    if sorter.columns:
        counts = cache.kept(digest[:32], lambda: count(snapshot, sorter))
    else:
        counts = count(snapshot, sorter)
    return Index(snapshot, views, sorter, counts, digest)


def count(snapshot: Snapshot, sorter: Sorter) -> npt.NDArray[np.int64]:
    """Returns how many samples there are: (shards, pools).

    Where columns have to be read for it, their bytes are not held against the objects' seals: rows
    are counted again when they are (`segment`).

    Raises:
        MismatchError: If a shard is not what it was.
        StorageError: If the store does not give it.
    """
    if not sorter.columns:
        return (snapshot.rows // sorter.views)[:, None].copy()
    parts = (snapshot.part(index) for index in range(len(snapshot)))
    found = list(map_ahead(functools.partial(_count, sorter=sorter), parts, _READERS))
    return np.array(found, np.int64).reshape(len(found), len(sorter.shapes))


def _count(part: Part, sorter: Sorter) -> npt.NDArray[np.int64]:
    try:
        _, found, tail = read_tail(storage.stat(part.uri))
        is_same = body_digest(tail) == part.seal
        with storage.open_file(found) as file:
            rows = pq.ParquetFile(file).read(sorter.columns, use_threads=False) if is_same else None
    except FileNotFoundError:
        raise MismatchError(f"{part.uri} is gone; restore it from a copy") from None
    except (pa.ArrowException, ValueError) as error:
        raise DamagedError(f"{part.uri} is damaged: {error}") from error
    if rows is None or len(rows) != part.rows:
        raise MismatchError(f"{part.uri} was encoded again since this reader began: begin anew")
    return count_pools(sorter.sort(rows), len(sorter.shapes))


def count_pools(pools: Pools, most: int) -> npt.NDArray[np.int64]:
    """Returns how many samples are in each pool: (pools,)."""
    return np.bincount(pools[pools >= 0], minlength=most)
