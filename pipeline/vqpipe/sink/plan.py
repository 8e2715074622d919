"""The list of shards of a run, frozen in its sink before the first one is encoded.

A plan grows only when it is told to: shards that are new in the source, or whose files changed,
come in as a new generation. What a shard was before stays in its row, so that the plan of the
first day, which the run's fingerprint is made of, can always be had again.
"""

import functools
import io
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vqpipe.schema import File, Shard
from vqpipe.sink.digest import digest, digest_of_lists
from vqpipe.sink.growth import Changes, Growth, check_allowed

_FILE = pa.struct([("uri", pa.string()), ("size", pa.int64()), ("version", pa.string())])

_PLACE = (
    pa.field("uri", pa.string()),  # the shard's file, or the folder that holds its images
    pa.field("size", pa.int64()),  # bytes
    pa.field("version", pa.string()),  # ETag or modification time; of a folder shard, a hash
    pa.field("first_row_group", pa.int32()),  # null: the whole file
    pa.field("last_row_group", pa.int32()),  # exclusive
    pa.field("generation", pa.int32()),  # 0: planned when the run began
)
"""What was planned of a shard, and when."""

PLAN = pa.schema(
    [
        pa.field("name", pa.string()),  # stem of the output objects
        *_PLACE,
        pa.field("format", pa.string()),
        pa.field("files", pa.list_(_FILE)),  # folder shards: the images, in order
        pa.field("earlier", pa.list_(pa.struct(_PLACE))),  # what it was before, the oldest first
    ]
)
"""Schema of `plan.parquet`, one row a shard."""

_ROWS = 2**16
"""In memory as Python's dictionaries at a time."""
_BEFORE = PLAN.field("earlier").type
_IDENTITY = ("name", "uri", "size", "version", "first_row_group", "last_row_group")
_DIGESTED = (*_IDENTITY, "generation")


class Plan:
    """The shards of a run, in order of name; cheap to send anywhere, being one Arrow table."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    @classmethod
    def of(cls, shards: Iterable[Shard]) -> "Plan":
        """Returns the plan of listed shards."""
        ordered = sorted(shards, key=lambda shard: shard.name)
        some = (ordered[first : first + _ROWS] for first in range(0, len(ordered), _ROWS))
        tables = [pa.table(_columns_of(each), schema=PLAN) for each in some]
        return cls(pa.concat_tables([PLAN.empty_table(), *tables]).combine_chunks())

    def __reduce__(self) -> tuple[type["Plan"], tuple[pa.Table]]:
        return Plan, (self.table,)  # without what is cached: a worker takes a plan for every task

    def __len__(self) -> int:
        return len(self.table)

    @functools.cached_property
    def names(self) -> list[str]:
        """Names of all shards, in order."""
        return cast(list[str], self.table["name"].to_pylist())

    @functools.cached_property
    def places(self) -> dict[str, int]:
        """Place of each shard, by name."""
        return {name: place for place, name in enumerate(self.names)}

    def find(self, names: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.int64]:
        """Returns (names,) the places of shards, -1 where none is; to look takes a pass over all.

        `places`, which it takes once, has a quarter of a gigabyte for a million shards.
        """
        found = pc.index_in(names, self.table["name"].combine_chunks())
        return cast(npt.NDArray[np.int64], pc.fill_null(found, -1).to_numpy().astype(np.int64))

    def name(self, index: int) -> str:
        """Returns the name of one shard."""
        return cast(str, self.table["name"][index].as_py())

    def size(self, index: int) -> int:
        """Returns the compressed bytes of one shard."""
        return cast(int, self.table["size"][index].as_py())

    def bytes_of(self, places: Iterable[int]) -> int:
        """Returns the compressed bytes of some shards together."""
        return int(self.table["size"].to_numpy()[list(places)].sum())

    def generation(self, index: int) -> int:
        """Returns when a shard was planned as it is: 0 is when the run began."""
        return cast(int, self.table["generation"][index].as_py())

    def source(self, index: int) -> dict[str, Any]:
        """Returns which version of which file a shard is: uri, size, version."""
        columns = self.table.select(["uri", "size", "version"])
        return cast(dict[str, Any], columns.slice(index, 1).to_pylist()[0])

    def earlier(self, index: int) -> list[dict[str, Any]]:
        """Returns which versions of files a shard was before (uri, size, version)."""
        before = self.table["earlier"][index].as_py() or []
        return [{name: row[name] for name in ("uri", "size", "version")} for row in before]

    @property
    def generations(self) -> list[int]:
        """Numbers of shards by the generation that they were planned in, the first one first."""
        counts: list[int] = np.bincount(self.table["generation"].to_numpy(), minlength=1).tolist()
        return counts

    @functools.cached_property
    def replaced(self) -> list[int]:
        """Places of the shards whose files were planned anew after a change."""
        counts = pc.fill_null(pc.list_value_length(self.table["earlier"]), 0)
        return cast(list[int], pc.indices_nonzero(counts).to_pylist())

    def shard(self, index: int) -> Shard:
        """Returns one shard of the plan."""
        return _shard(self.table.slice(index, 1).to_pylist()[0])

    def shards(self) -> list[Shard]:
        """Returns all shards of the plan."""
        return [_shard(row) for some in self._slices() for row in some.to_pylist()]

    def files(self) -> frozenset[File]:
        """Returns all files of all shards."""
        single = self.table.filter(pc.is_null(self.table["files"])).select(
            ["uri", "size", "version"]
        )
        found = itertools.starmap(
            File, zip(*(each.to_pylist() for each in single.columns), strict=True)
        )
        return frozenset(found).union(*(shard.files for shard in self.folders()))

    def _slices(self) -> Iterator[pa.Table]:
        """Yields the rows of the plan, some at a time: a million dictionaries take gigabytes."""
        return (self.table.slice(first, _ROWS) for first in range(0, len(self), _ROWS))

    def folders(self) -> list[Shard]:
        """Returns those of its shards that are images of a folder."""
        found = self.table.filter(pc.equal(self.table["format"], "folder"))
        return [_shard(row) for row in found.to_pylist()]

    def sha256(self) -> str:
        """Returns a digest of every shard's name, place, size, version and generation.

        A shard that was planned anew and then back to what it was before is another one: of a
        plan of before, a command may be at work that knows nothing of either.
        """
        return self._sha256

    @functools.cached_property
    def _sha256(self) -> str:
        return digest_of_lists([self.table[name] for name in _DIGESTED])

    def is_same(self, other: "Plan") -> bool:
        """Tells whether another plan has the same digest, without working it out."""
        return all(self.table[name].equals(other.table[name]) for name in _DIGESTED)

    def first(self) -> "Plan":
        """Returns the plan as it was when the run began, without the images of folder shards."""
        if not pc.any(pc.greater(self.table["generation"], 0)).as_py():
            return self
        before = pc.list_element(_first_of_each(self.table["earlier"]), 0)
        has_before = pc.is_valid(before)
        columns = {name: self.table[name] for name in PLAN.names}
        for each in _PLACE:
            then = pc.struct_field(before, each.name)
            columns[each.name] = pc.if_else(has_before, then, self.table[each.name])
        table = pa.table(columns, schema=PLAN)
        return Plan(table.filter(pc.equal(table["generation"], 0)))

    def grow(self, listed: "Plan", growth: Growth, sink: str) -> "Plan":
        """Returns the plan with what is new or changed in a listing; itself if nothing is.

        Args:
            listed: The shards that the source has now.
            growth: What may be taken in.
            sink: The run's sink, for messages.

        Raises:
            SourceChangedError: If something else has changed; names the first shards.
        """
        changes = self._compare(listed)
        if changes is None:
            return self
        check_allowed(changes, growth, sink)
        generation = 1 + (pc.max(self.table["generation"]).as_py() or 0)
        stays = pc.invert(pc.is_in(self.table["name"], pa.array(changes.changed, pa.string())))
        parts = [
            self.table.filter(stays),
            _planned_now(
                listed.table, changes.new, generation, pa.nulls(len(changes.new), _BEFORE)
            ),
            _planned_now(listed.table, changes.changed, generation, self._before(changes.changed)),
        ]
        table = pa.concat_tables(parts).combine_chunks()
        return Plan(table.take(pc.sort_indices(table["name"])))

    def _before(self, names: list[str]) -> pa.Array:
        """Returns what shards were, the oldest first, were they to be planned anew."""
        rows = _rows_named(self.table, names).select([*PLAN.names]).to_pylist()
        place = [each.name for each in _PLACE]
        before = [[*(row["earlier"] or []), {name: row[name] for name in place}] for row in rows]
        return pa.array(before, _BEFORE)

    def _compare(self, listed: "Plan") -> Changes | None:
        """Returns what has changed; None if nothing has."""
        if all(self.table[name].equals(listed.table[name]) for name in _IDENTITY):
            return None
        then, now = self.table.select(_IDENTITY), listed.table.select(_IDENTITY)
        place = pc.index_in(then["name"], now["name"].combine_chunks())
        is_there = pc.is_valid(place)
        both = then.filter(is_there)
        changed = _differs(both, now.take(place.drop_null()))
        is_known = pc.is_in(now["name"], then["name"].combine_chunks())
        found = Changes(
            new=now["name"].filter(pc.invert(is_known)).to_pylist(),
            changed=both["name"].filter(changed).to_pylist(),
            gone=then["name"].filter(pc.invert(is_there)).to_pylist(),
        )
        return None if found == Changes() else found

    def to_bytes(self) -> bytes:
        """Returns the plan as a Parquet file."""
        buffer = io.BytesIO()
        pq.write_table(self.table, buffer, compression="zstd")
        return buffer.getvalue()


def _shard(row: Mapping[str, Any]) -> Shard:
    files = row["files"]
    if files is None:
        files, root = [{name: row[name] for name in ("uri", "size", "version")}], ""
    else:
        root = row["uri"]
    first, last = row["first_row_group"], row["last_row_group"]
    groups = None if first is None else (first, last)
    return Shard(row["name"], row["format"], tuple(File(**f) for f in files), root, groups)


def _columns_of(shards: list[Shard]) -> dict[str, Any]:
    """Returns the columns of a plan of listed shards, in order of name."""
    count, groups = len(shards), [shard.row_groups or (None, None) for shard in shards]
    files = [[asdict(file) for file in shard.files] if shard.root else None for shard in shards]
    firsts = [shard.files[0] if shard.files else None for shard in shards]
    pairs = list(zip(shards, firsts, strict=True))
    return {
        "name": [shard.name for shard in shards],
        "uri": [shard.root or cast(File, first).uri for shard, first in pairs],
        "size": [shard.size for shard in shards],
        "version": [
            cast(File, first).version if own is None else digest(own)
            for first, own in zip(firsts, files, strict=True)
        ],
        "first_row_group": pa.array([first for first, _ in groups], pa.int32()),
        "last_row_group": pa.array([last for _, last in groups], pa.int32()),
        "generation": pa.repeat(pa.scalar(0, pa.int32()), count),
        "format": [shard.format for shard in shards],
        "files": pa.array(files, pa.list_(_FILE)),
        "earlier": pa.nulls(count, _BEFORE),
    }


def _rows_named(table: pa.Table, names: list[str]) -> pa.Table:
    """Returns the rows of some shards, in the order of their names as given."""
    return table.take(pc.index_in(pa.array(names, pa.string()), table["name"].combine_chunks()))


def _planned_now(table: pa.Table, names: list[str], generation: int, earlier: pa.Array) -> pa.Table:
    """Returns rows of a listing as they come into a plan."""
    rows = _rows_named(table, names)
    columns = {name: rows[name] for name in PLAN.names}
    columns["generation"] = pa.repeat(pa.scalar(generation, pa.int32()), len(names))
    return pa.table(columns | {"earlier": earlier}, schema=PLAN)


def _differs(then: pa.Table, now: pa.Table) -> pa.ChunkedArray:
    """Returns which rows of two tables are not equal in all columns; two nulls are equal."""
    found = pa.repeat(pa.scalar(value=False), len(then))
    for name in then.column_names:
        one, other = then[name], now[name]
        unlike = pc.fill_null(pc.not_equal(one, other), fill_value=False)
        found = pc.or_(pc.or_(found, unlike), pc.xor(pc.is_null(one), pc.is_null(other)))
    return found


def _first_of_each(lists: pa.ChunkedArray) -> pa.ChunkedArray:
    """Returns lists of which none is empty: null in place of those that are."""
    return pc.if_else(pc.greater(pc.list_value_length(lists), 0), lists, pa.scalar(None, _BEFORE))
