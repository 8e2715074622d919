"""Where everything is in a sink, and what of it is there, by one listing.

    data/<shard>.parquet                                     a committed shard
    rejected/<shard>.parquet                                 its rejections, where there are any
    staging/<shard>/<first>-<last>[-of-<total>][.<edition>].parquet   rows of one that is not yet
    plan.parquet, run.json, summary.json, _SUCCESS

What is done is written down nowhere: it is what `data/` and `staging/` hold.
"""

import bisect
import functools
import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline import storage
from pipeline.schema import File

RowRange = tuple[int, int]
"""Rows of a shard: first (inclusive) and last (exclusive)."""


@dataclass(frozen=True)
class Staged:
    """Rows of one shard that are safe, in `staging/` or in an object that is to be revised."""

    ranges: tuple[RowRange, ...] = ()
    total: int | None = None
    """Rows of the whole shard, once known."""

    def holds(self, row: int) -> bool:
        """Tells whether a row is staged already."""
        firsts, lasts = self._merged
        place = bisect.bisect_right(firsts, row) - 1
        return place >= 0 and row < lasts[place]

    @functools.cached_property
    def _merged(self) -> tuple[list[int], list[int]]:
        """The same rows as sorted ranges that do not touch: their firsts, their lasts."""
        firsts: list[int] = []
        lasts: list[int] = []
        for first, last in sorted(self.ranges):
            if lasts and first <= lasts[-1]:
                lasts[-1] = max(lasts[-1], last)
            else:
                firsts.append(first)
                lasts.append(last)
        return firsts, lasts

    def with_rows(self, rows: npt.NDArray[np.integer], total: int | None) -> "Staged":
        """Returns this with sorted row numbers added, and the total if it was not known."""
        known = total if self.total is None else self.total
        return Staged((*self.ranges, *ranges_of(rows)), known)

    @property
    def complete(self) -> bool:
        """Tells whether the ranges cover the whole shard."""
        firsts, lasts = self._merged
        if self.total is None or self.total == 0:
            return self.total == 0
        return bool(firsts) and firsts[0] <= 0 and lasts[0] >= self.total


def ranges_of(rows: npt.NDArray[np.integer]) -> tuple[RowRange, ...]:
    """Returns the runs of consecutive numbers among sorted ones; some may be there twice."""
    cuts = [0, *(np.flatnonzero(np.diff(rows) > 1) + 1).tolist(), len(rows)]
    pairs = ((a, b) for a, b in itertools.pairwise(cuts) if b > a)
    return tuple((int(rows[a]), int(rows[b - 1]) + 1) for a, b in pairs)


def edition(generation: int) -> str:
    """Returns what marks the staged rows of a shard that was planned in a generation."""
    return f"g{generation}" if generation else ""


def run_uri(sink: str) -> str:
    """Returns where a sink's identity is."""
    return storage.join_uri(sink, "run.json")


def plan_uri(sink: str) -> str:
    """Returns where a sink's plan is."""
    return storage.join_uri(sink, "plan.parquet")


def data_uri(sink: str, name: str) -> str:
    """Returns where a committed shard is; the object's existence is the commit."""
    return storage.join_uri(sink, "data", f"{name}.parquet")


def rejected_uri(sink: str, name: str) -> str:
    """Returns where a shard's rejections are; there is an object only where there are any."""
    return storage.join_uri(sink, "rejected", f"{name}.parquet")


def staging_uri(sink: str, name: str) -> str:
    """Returns the folder of a shard's row ranges."""
    return storage.join_uri(sink, "staging", name)


def success_uri(sink: str) -> str:
    """Returns where a sink's totals are once all of it is committed and checked."""
    return storage.join_uri(sink, "_SUCCESS")


def range_uri(sink: str, name: str, rows: RowRange, total: int | None, edition: str = "") -> str:
    """Returns where a row range is staged.

    Args:
        sink: Where the run is.
        name: The shard.
        rows: Which rows of it.
        total: Rows of the whole shard, if known.
        edition: What the rows were made of or for, if not of the shard as it was first planned;
            rows of different editions are never put together.
    """
    suffix = "" if total is None else f"-of-{total:08d}"
    stem = f"{rows[0]:08d}-{rows[1]:08d}{suffix}{edition and '.'}{edition}"
    return storage.join_uri(staging_uri(sink, name), f"{stem}.parquet")


_RANGE = re.compile(r"(\d{8,})-(\d{8,})(?:-of-(\d{8,}))?(?:\.(\w+))?\.parquet")


def is_range(uri: str, edition: str = "") -> bool:
    """Tells whether an object of a staging folder is a row range of an edition."""
    match = _RANGE.fullmatch(uri.rpartition("/")[2])
    return match is not None and (match[4] or "") == edition


def parse_ranges(uris: Iterable[str], edition: str = "") -> Staged:
    """Returns what the objects of one staging folder hold of an edition, by their names."""
    names = (uri.rpartition("/")[2] for uri in uris if is_range(uri, edition))
    matches = [match for match in map(_RANGE.fullmatch, names) if match]
    ranges = tuple((int(m[1]), int(m[2])) for m in matches)
    return Staged(ranges, next((int(m[3]) for m in matches if m[3]), None))


def list_committed(sink: str) -> dict[str, File]:
    """Returns the objects of `data/` by the shards that they are named after, freshly listed."""
    base = storage.join_uri(sink, "data")
    files = storage.list_files(base)
    return {stem(base, file.uri): file for file in files if file.uri.endswith(".parquet")}


def stem(base: str, uri: str) -> str:
    """Returns the shard whose object `uri` is, below `data/` or `rejected/`."""
    return uri[len(base) + 1 : -len(".parquet")]


def list_staged(sink: str) -> dict[str, list[str]]:
    """Returns the URIs of everything in `staging/` by shard, by one fresh listing."""
    base = storage.join_uri(sink, "staging")
    folders: dict[str, list[str]] = {}
    for file in storage.list_files(base):
        folders.setdefault(file.uri[len(base) + 1 :].rpartition("/")[0], []).append(file.uri)
    return folders
