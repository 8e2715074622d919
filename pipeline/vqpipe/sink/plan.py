"""The list of shards of a run, frozen in its sink before the first one is encoded.

A plan grows only when it is told to: shards that are new in the source, or whose files changed,
come in as a new generation. What a shard was before stays in its row, so that the plan of the
first day, which the run's fingerprint is made of, can always be had again.
"""

import functools
import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vqpipe import storage
from vqpipe.errors import MismatchError, SourceChangedError, StorageError
from vqpipe.schema import File, Shard
from vqpipe.sink import layout

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

_IDENTITY = ("name", "uri", "size", "version", "first_row_group", "last_row_group")


@dataclass(frozen=True)
class Growth:
    """What a plan may take in when the source is not what it was."""

    extend: bool = False
    """Shards that are new."""
    replace_changed: bool = False
    """Shards whose files changed; they are done again."""
    is_settled: bool = False
    """Whether the plan of a run that has begun is taken as it is, whatever a listing says."""


@dataclass(frozen=True)
class _Changes:
    """Names of shards, by what became of them since they were planned."""

    new: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)


class Plan:
    """The shards of a run, in order of name; cheap to send anywhere, being one Arrow table."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    @classmethod
    def of(cls, shards: Iterable[Shard]) -> "Plan":
        """Returns the plan of listed shards."""
        return cls._of_rows([_plan_row(shard) for shard in shards])

    @classmethod
    def _of_rows(cls, rows: list[dict[str, Any]]) -> "Plan":
        rows = sorted(rows, key=lambda row: cast(str, row["name"]))
        return cls(pa.Table.from_pylist(rows, schema=PLAN))

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

    def name(self, index: int) -> str:
        """Returns the name of one shard."""
        return cast(str, self.table["name"][index].as_py())

    def size(self, index: int) -> int:
        """Returns the compressed bytes of one shard."""
        return cast(int, self.table["size"][index].as_py())

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
        return [_shard(row) for row in self.table.to_pylist()]

    def sha256(self) -> str:
        """Returns a digest of every shard's name, place, size, version and generation.

        A shard that was planned anew and then back to what it was before is another one: of a
        plan of before, a command may be at work that knows nothing of either.
        """
        return digest([self.table[name].to_pylist() for name in (*_IDENTITY, "generation")])

    def first(self) -> "Plan":
        """Returns the plan as it was when the run began, without the images of folder shards."""
        if not pc.any(pc.greater(self.table["generation"], 0)).as_py():
            return self
        rows = ({**row, **(row["earlier"] or [{}])[0]} for row in self.table.to_pylist())
        return Plan._of_rows([row for row in rows if row["generation"] == 0])

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
        if changes == _Changes():
            return self
        _check_allowed(changes, growth, sink)
        mine, theirs = self._rows(), listed._rows()  # noqa: SLF001 (the same class)
        generation = 1 + (pc.max(self.table["generation"]).as_py() or 0)
        for name in changes.new:
            mine[name] = {**theirs[name], "generation": generation}
        for name in changes.changed:
            before = {each.name: mine[name][each.name] for each in _PLACE}
            earlier = [*(mine[name]["earlier"] or []), before]
            mine[name] = {**theirs[name], "generation": generation, "earlier": earlier}
        return Plan._of_rows(list(mine.values()))

    def _rows(self) -> dict[str, dict[str, Any]]:
        return {row["name"]: row for row in self.table.to_pylist()}

    def _compare(self, listed: "Plan") -> _Changes:
        then, now = self._versions(), listed._versions()  # noqa: SLF001 (the same class)
        return _Changes(
            new=[name for name in now if name not in then],
            changed=[name for name in then if name in now and now[name] != then[name]],
            gone=[name for name in then if name not in now],
        )

    def _versions(self) -> dict[str, tuple[Any, ...]]:
        rows = zip(*(self.table[name].to_pylist() for name in _IDENTITY), strict=True)
        return {name: rest for name, *rest in rows}  # type: ignore[misc]

    def to_bytes(self) -> bytes:
        """Returns the plan as a Parquet file."""
        buffer = io.BytesIO()
        pq.write_table(self.table, buffer, compression="zstd")
        return buffer.getvalue()


def _check_allowed(changes: _Changes, growth: Growth, sink: str) -> None:
    """Refuses what the plan may not take in, and says which option would let it."""
    cures = {
        "new": ("take them in with --extend", growth.extend),
        "changed": ("do them again with --replace-changed", growth.replace_changed),
        "gone": ("bring them back: what a run has planned stays part of it", False),
    }
    said = [
        f"  {len(names):,} {what}: {some_of(names)}\n    {cure}"
        for what, (cure, is_allowed) in cures.items()
        if (names := getattr(changes, what)) and not is_allowed
    ]
    if said:
        raise SourceChangedError(
            f"the source is not what {sink} was planned from:\n"
            + "\n".join(said)
            + "\nOr take a new sink. Nothing was changed."
        )


def some_of(names: list[str]) -> str:
    """Returns the first few names of shards, for a message."""
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _shard(row: Mapping[str, Any]) -> Shard:
    files = row["files"]
    if files is None:
        files, root = [{name: row[name] for name in ("uri", "size", "version")}], ""
    else:
        root = row["uri"]
    first, last = row["first_row_group"], row["last_row_group"]
    groups = None if first is None else (first, last)
    return Shard(row["name"], row["format"], tuple(File(**f) for f in files), root, groups)


def _plan_row(shard: Shard) -> dict[str, Any]:
    first, last = shard.row_groups or (None, None)
    row = {
        "name": shard.name,
        "format": shard.format,
        "size": shard.size,
        "first_row_group": first,
        "last_row_group": last,
        "generation": 0,
    }
    if shard.root:
        files = [asdict(file) for file in shard.files]
        return {**row, "uri": shard.root, "version": digest(files), "files": files}
    return {**row, "uri": shard.files[0].uri, "version": shard.files[0].version, "files": None}


def digest(value: object) -> str:
    """Returns the SHA-256 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def load_plan(sink: str) -> Plan:
    """Returns the plan of a sink as it is now.

    A start that was killed may have left no `plan.parquet` yet: nothing was added by then.

    Raises:
        FileNotFoundError: If no run has been started there.
        MismatchError: If it is none of ours.
        StorageError: If all plans of a run are gone.
    """
    uri = layout.plan_uri(sink)
    try:
        return parse_plan(uri, storage.read(uri))
    except FileNotFoundError:
        return load_first_plan(sink)


def load_first_plan(sink: str) -> Plan:
    """Returns the plan that a sink's `run.json` names.

    Raises:
        FileNotFoundError: If no run has been started there.
        MismatchError: If either is none of ours.
        StorageError: If the plan is gone.
    """
    try:
        sha256 = str(json.loads(storage.read(layout.run_uri(sink)))["plan_sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise MismatchError(
            f"{layout.run_uri(sink)} is none that vqpipe wrote; use another sink"
        ) from error
    uri = layout.first_plan_uri(sink, sha256)
    try:
        return parse_plan(uri, storage.read(uri))
    except FileNotFoundError:
        raise StorageError(
            f"{sink} has a run.json, and its plan is gone: bring back {layout.plan_uri(sink)} or "
            f"{uri}, or use another sink"
        ) from None


def parse_plan(uri: str, data: bytes) -> Plan:
    """Returns the plan that a `plan.parquet` has, wherever that is.

    Raises:
        MismatchError: If it is none of ours.
    """
    try:
        return Plan(pq.read_table(io.BytesIO(data)).cast(PLAN))
    except (pa.ArrowException, ValueError, OSError) as error:
        raise MismatchError(
            f"{uri} is no plan that this version of vqpipe wrote; use another sink"
        ) from error


def find_plan(sink: str) -> Plan | None:
    """Returns the plan of a sink, or None if no run has been started there."""
    try:
        return load_plan(sink)
    except FileNotFoundError:
        return None
