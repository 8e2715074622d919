"""The frozen list of shards, the identity of a run, and what is left to do.

A run is a sink with its identity. `plan.parquet` and `run.json` are written once, before the first
shard, and never change; every later command on the sink must ask for the same thing. What is done
is not written down anywhere: it is what `data/` and `staging/` hold.
"""

import functools
import hashlib
import io
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import MismatchError, SourceChangedError, StorageError
from pipeline.schema import File, Shard

_FILE = pa.struct([("uri", pa.string()), ("size", pa.int64()), ("version", pa.string())])

PLAN = pa.schema(
    [
        pa.field("name", pa.string()),  # stem of the output objects
        pa.field("uri", pa.string()),  # the shard's file, or the folder that holds its images
        pa.field("size", pa.int64()),  # bytes
        pa.field("version", pa.string()),  # ETag or modification time; of a folder shard, a hash
        pa.field("format", pa.string()),
        pa.field("first_row_group", pa.int32()),  # null: the whole file
        pa.field("last_row_group", pa.int32()),  # exclusive
        pa.field("files", pa.list_(_FILE)),  # folder shards: the images, in order
    ]
)
"""Schema of `plan.parquet`, one row a shard."""

RowRange = tuple[int, int]
"""Rows of a shard: first (inclusive) and last (exclusive)."""


@dataclass(frozen=True)
class Staged:
    """Row ranges of one uncommitted shard that are safe in `staging/`."""

    ranges: tuple[RowRange, ...] = ()
    total: int | None = None
    """Rows of the whole shard, once known."""

    def holds(self, row: int) -> bool:
        """Tells whether a row is staged already."""
        return any(first <= row < last for first, last in self.ranges)

    @property
    def complete(self) -> bool:
        """Tells whether the ranges cover the whole shard."""
        end = 0
        for first, last in sorted(self.ranges):
            if first > end:
                return False
            end = max(end, last)
        return self.total is not None and end >= self.total


class Plan:
    """The shards of a run, in order of name; cheap to send anywhere, being one Arrow table."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    @classmethod
    def of(cls, shards: Iterable[Shard]) -> "Plan":
        """Returns the plan of listed shards."""
        rows = [_plan_row(shard) for shard in sorted(shards, key=lambda shard: shard.name)]
        return cls(pa.Table.from_pylist(rows, schema=PLAN))

    def __len__(self) -> int:
        return len(self.table)

    @functools.cached_property
    def names(self) -> list[str]:
        """Names of all shards, in order."""
        return cast(list[str], self.table["name"].to_pylist())

    def name(self, index: int) -> str:
        """Returns the name of one shard."""
        return cast(str, self.table["name"][index].as_py())

    def size(self, index: int) -> int:
        """Returns the compressed bytes of one shard."""
        return cast(int, self.table["size"][index].as_py())

    def shard(self, index: int) -> Shard:
        """Returns one shard of the plan."""
        row = self.table.slice(index, 1).to_pylist()[0]
        files = row["files"]
        if files is None:
            files, root = [{name: row[name] for name in ("uri", "size", "version")}], ""
        else:
            root = row["uri"]
        first, last = row["first_row_group"], row["last_row_group"]
        groups = None if first is None else (first, last)
        return Shard(row["name"], row["format"], tuple(File(**f) for f in files), root, groups)

    def sha256(self) -> str:
        """Returns a digest of every shard's name, place, size and version."""
        columns = ("name", "uri", "size", "version", "first_row_group", "last_row_group")
        return digest([self.table[name].to_pylist() for name in columns])

    def to_bytes(self) -> bytes:
        """Returns the plan as a Parquet file."""
        buffer = io.BytesIO()
        pq.write_table(self.table, buffer, compression="zstd")
        return buffer.getvalue()


def _plan_row(shard: Shard) -> dict[str, Any]:
    first, last = shard.row_groups or (None, None)
    row = {
        "name": shard.name,
        "format": shard.format,
        "size": shard.size,
        "first_row_group": first,
        "last_row_group": last,
    }
    if shard.root:
        files = [asdict(file) for file in shard.files]
        return {**row, "uri": shard.root, "version": digest(files), "files": files}
    return {**row, "uri": shard.files[0].uri, "version": shard.files[0].version, "files": None}


def digest(value: object) -> str:
    """Returns the SHA-256 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Run:
    """A sink with its identity: what `run.json` says."""

    identity: dict[str, Any]
    """Every choice that changes results, by field; together with the plan, the fingerprint."""
    facts: dict[str, Any]
    """What a reader of the codes needs and what was found out: grid, codebook size, versions."""
    plan_sha256: str

    @functools.cached_property
    def fingerprint(self) -> str:
        """Digest of identity and plan; equal fingerprints mean interchangeable shards."""
        return digest([self.identity, self.plan_sha256])

    def to_json(self) -> bytes:
        """Returns the content of `run.json`."""
        document = {
            "fingerprint": self.fingerprint,
            **self.facts,
            "identity": self.identity,
            "plan_sha256": self.plan_sha256,
        }
        return json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> "Run":
        """Returns the run that a `run.json` describes."""
        try:
            document = json.loads(data)
            identity, plan = document.pop("identity"), document.pop("plan_sha256")
            document.pop("fingerprint")
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise MismatchError(
                "the sink's run.json is none that vqpipe wrote; use another sink"
            ) from error
        return cls(identity, document, plan)


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


def range_uri(sink: str, name: str, rows: RowRange, total: int | None) -> str:
    """Returns where a row range is staged; its name says which rows, and the total if known."""
    suffix = "" if total is None else f"-of-{total:08d}"
    stem = f"{rows[0]:08d}-{rows[1]:08d}{suffix}"
    return storage.join_uri(staging_uri(sink, name), f"{stem}.parquet")


_RANGE = re.compile(r"(\d{8,})-(\d{8,})(?:-of-(\d{8,}))?\.parquet")


def is_range(uri: str) -> bool:
    """Tells whether an object of a staging folder is a row range."""
    return _RANGE.fullmatch(uri.rpartition("/")[2]) is not None


def parse_ranges(uris: Iterable[str]) -> Staged:
    """Returns what the objects of one staging folder hold, by their names."""
    matches = [m for m in (_RANGE.fullmatch(uri.rpartition("/")[2]) for uri in uris) if m]
    ranges = tuple((int(m[1]), int(m[2])) for m in matches)
    return Staged(ranges, next((int(m[3]) for m in matches if m[3]), None))


def load_run(sink: str) -> Run:
    """Returns the run of a sink.

    Raises:
        FileNotFoundError: If no run has been started there.
    """
    return Run.from_json(storage.read(run_uri(sink)))


def find_run(sink: str) -> Run | None:
    """Returns the run of a sink, or None if none has been started there."""
    try:
        return load_run(sink)
    except FileNotFoundError:
        return None


def is_complete(sink: str) -> bool:
    """Tells whether a sink's run has ended with everything committed and checked."""
    try:
        storage.stat(storage.join_uri(sink, "_SUCCESS"))
    except FileNotFoundError:
        return False
    return True


def load_plan(sink: str) -> Plan:
    """Returns the plan of a sink, as it was frozen."""
    return Plan(pq.read_table(io.BytesIO(storage.read(plan_uri(sink)))).cast(PLAN))


def start_run(sink: str, run: Run, plan: Plan) -> Run:
    """Freezes plan and identity in the sink, or checks that it holds the same ones.

    Returns:
        The run as the sink has it; two commands that start at once agree on one of them.

    Raises:
        MismatchError: If the sink belongs to another run; names the fields that differ.
        SourceChangedError: If the inputs differ from the plan; names the first shards.
    """
    found = find_run(sink)
    if found is None:
        storage.replace(plan_uri(sink), plan.to_bytes())
        storage.publish(run_uri(sink), run.to_json())
        found = load_run(sink)
    _check_identity(sink, found.identity, run.identity)
    if found.plan_sha256 != run.plan_sha256:
        _refuse_changes(sink, load_plan(sink), plan)
    return found


def _check_identity(sink: str, found: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    differing = [
        f"  {name}: the sink has {found.get(name)!r}, this command asks for {asked.get(name)!r}"
        for name in sorted(found.keys() | asked.keys())
        if found.get(name) != asked.get(name)
    ]
    if differing:
        raise MismatchError(
            f"{sink} belongs to another run; these fields differ:\n"
            + "\n".join(differing)
            + "\nUse another --sink, or the options of that run."
        )


def _refuse_changes(sink: str, frozen: Plan, listed: Plan) -> None:
    then, now = _versions(frozen), _versions(listed)
    changes = {
        "changed": [name for name in then if name in now and now[name] != then[name]],
        "gone": [name for name in then if name not in now],
        "new": [name for name in now if name not in then],
    }
    said = [f"  {len(names)} {what}: {_some(names)}" for what, names in changes.items() if names]
    raise SourceChangedError(
        f"the source is not what {sink} was planned from:\n"
        + "\n".join(said)
        + "\nRestore it, or encode into a new sink."
    )


def _versions(plan: Plan) -> dict[str, tuple[Any, ...]]:
    columns = ("name", "uri", "size", "version", "first_row_group", "last_row_group")
    rows = zip(*(plan.table[name].to_pylist() for name in columns), strict=True)
    return {name: rest for name, *rest in rows}  # type: ignore[misc]


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def check_creates_once(sink: str, run: Run) -> bool:
    """Tells whether the store honours create-if-absent, by creating `run.json` again.

    Either way the object holds the same bytes afterwards.
    """
    return not storage.publish(run_uri(sink), run.to_json())


def committed(sink: str) -> set[str]:
    """Returns the names of the shards in `data/`, by one fresh listing."""
    return set(_names(storage.join_uri(sink, "data")))


def _names(base: str) -> list[str]:
    uris = (file.uri for file in storage.list_files(base))
    return [stem(base, uri) for uri in uris if uri.endswith(".parquet")]


def stem(base: str, uri: str) -> str:
    """Returns the shard whose object `uri` is, below `data/` or `rejected/`."""
    return uri[len(base) + 1 : -len(".parquet")]


def staged(sink: str) -> dict[str, Staged]:
    """Returns what each uncommitted shard has in `staging/`, by one fresh listing."""
    base = storage.join_uri(sink, "staging")
    folders: dict[str, list[str]] = {}
    for file in storage.list_files(base):
        folders.setdefault(file.uri[len(base) + 1 :].rpartition("/")[0], []).append(file.uri)
    return {name: parse_ranges(uris) for name, uris in folders.items()}


def check_frozen(sink: str, run: Run, plan: Plan) -> None:
    """Checks that the sink's plan is the one its identity speaks of.

    Raises:
        StorageError: If it is not: two runs were started at once with different inputs.
    """
    if plan.sha256() != run.plan_sha256:
        raise StorageError(
            f"{plan_uri(sink)} is not the plan that {run_uri(sink)} names; two runs with "
            "different inputs were started at once: remove the sink and start one of them"
        )
