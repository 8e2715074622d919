"""What of a sink is committed, frozen: which object of each shard, and how many rows it has.

Who reads a sink for months reads the same rows each time, or is told by name what is another one.
A snapshot is made of one listing and a footer of each object, or read from a file where an earlier
one was kept (`keep_snapshot`).
"""

import functools
import hashlib
import io
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vqpipe import storage
from vqpipe.errors import ConfigError, IncompleteError, MismatchError, StorageError
from vqpipe.schema import File
from vqpipe.sink import layout, seal
from vqpipe.sink.footer import Footer, read_tail
from vqpipe.sink.growth import some_of
from vqpipe.sink.run import CodesRun, CodesSink, find_run, guess_sink, open_sink
from vqpipe.sink.sums import Totals
from vqpipe.sink.totals import begin_totals, check_footer
from vqpipe.storage.ahead import map_ahead

SNAPSHOT = pa.schema(
    [
        pa.field("name", pa.string()),  # of the shard
        pa.field("rows", pa.int64()),
        pa.field("samples", pa.int64()),  # of which each has as many rows as an image has views
        pa.field("seal", pa.binary(32)),  # SHA-256 of all that lies before the footer
        pa.field("generation", pa.int32()),  # of the plan that it was made by
        pa.field("revision", pa.int32()),
        pa.field("bytes", pa.int64()),  # of the object
    ]
)
"""One row a shard, in order of name."""

_READERS = 32
_SINK, _FINGERPRINT = b"sink", b"fingerprint"


@dataclass(frozen=True)
class Part:
    """One shard of a snapshot."""

    name: str
    uri: str
    """Of its object."""
    rows: int
    samples: int
    seal: bytes
    """SHA-256 of all that lies before the object's footer."""


class Snapshot:
    """Which objects of a run there are; cheap to send anywhere, being one Arrow table."""

    def __init__(self, uri: str, run: CodesRun, table: pa.Table) -> None:
        """Takes what `take_snapshot` found.

        Args:
            uri: The sink.
            run: Its identity.
            table: Of schema `SNAPSHOT`.
        """
        self.uri, self.run, self.table = uri, run, table

    def __reduce__(self) -> tuple[type["Snapshot"], tuple[str, CodesRun, pa.Table]]:
        return Snapshot, (self.uri, self.run, self.table)

    def __len__(self) -> int:
        return len(self.table)

    @property
    def views(self) -> int:
        """Rows of a sample."""
        return self.run.facts.views

    @functools.cached_property
    def rows(self) -> npt.NDArray[np.int64]:
        """(shards,): rows of each."""
        return cast(npt.NDArray[np.int64], self.table["rows"].to_numpy())

    @functools.cached_property
    def starts(self) -> npt.NDArray[np.int64]:
        """(shards + 1,): rows before each, and of all."""
        return np.append(0, np.cumsum(self.rows))

    @functools.cached_property
    def samples(self) -> int:
        """Of all shards."""
        return int(self.table["samples"].to_numpy().sum())

    @functools.cached_property
    def digest(self) -> str:
        """Digest of the run and of what its objects hold, wherever they are; hexadecimal."""
        return digest_of(self.run.fingerprint, self.table)

    def part(self, index: int) -> Part:
        """Returns one shard."""
        row = self.table.slice(index, 1).to_pylist()[0]
        uri = layout.data_uri(self.uri, row["name"])
        return Part(row["name"], uri, row["rows"], row["samples"], row["seal"])

    def to_bytes(self) -> bytes:
        """Returns it as a Parquet file."""
        buffer = io.BytesIO()
        said = {_SINK: self.uri.encode(), _FINGERPRINT: self.run.fingerprint.encode()}
        pq.write_table(self.table.replace_schema_metadata(said), buffer, compression="zstd")
        return buffer.getvalue()


def digest_of(fingerprint: str, table: pa.Table) -> str:
    """Returns the digest of a snapshot of a run, by its rows."""
    found = hashlib.sha256(fingerprint.encode())
    for name in table["name"].to_pylist():
        found.update(name.encode() + b"\0")
    found.update(table["rows"].to_numpy().astype("<i8").tobytes())
    found.update(b"".join(table["seal"].to_pylist()))
    return found.hexdigest()


def take_snapshot(
    uri: str, *, generation: int | None = None, allow_incomplete: bool = False
) -> Snapshot:
    """Returns what of a sink of codes is committed now; as `count_snapshot`."""
    return count_snapshot(uri, generation=generation, allow_incomplete=allow_incomplete)[0]


def count_snapshot(
    uri: str, *, generation: int | None = None, allow_incomplete: bool = False
) -> tuple[Snapshot, Totals]:
    """Returns what of a sink of codes is committed now, and what its objects add up to.

    Args:
        uri: The sink.
        generation: Leave out shards that were planned later; None leaves out none.
        allow_incomplete: Take what is committed of a run that is not complete: some shards are not
            there yet, or could not be read to their end.

    Raises:
        ConfigError: If `uri` is none.
        MismatchError: If it is no sink of codes.
        IncompleteError: If some of it is not there, and that is not allowed.
        StorageError: If `data/` has something else, named, such as an object of another run.
        DamagedError: If a footer is not as it was written.
    """
    uri = storage.normalise_uri(uri)
    run = find_codes(uri)
    listed = layout.list_committed(uri)
    sink = open_sink(uri, run)  # after the listing: what is there by then has been planned
    foreign = sorted(listed.keys() - set(sink.plan.names))
    if foreign:
        raise StorageError(
            f"{listed[foreign[0]].uri!r} belongs to no shard of the plan of {uri}: it was put "
            "there by something else. Remove it, or keep it elsewhere"
        )
    wanted = _wanted(sink, generation)
    files = {name: listed[name] for name in wanted if name in listed}
    tails = map_ahead(_look, files.values(), _READERS)
    rows, totals = [], begin_totals(run)
    for file, found in zip(files.values(), tails, strict=True):
        rows.append(_row(sink, file, found))
        if rows[-1]["is_current"]:
            totals.add(found[0], found[1])
    if not allow_incomplete:
        _check_complete(sink, wanted, rows)
    current = [_told(row) for row in rows if row["is_current"]]
    return Snapshot(uri, run, pa.Table.from_pylist(current, schema=SNAPSHOT)), totals


def find_codes(uri: str) -> CodesRun:
    """Returns the run of a sink of `vqpipe encode`, or of `vqpipe compact`.

    Raises:
        ConfigError: If it is none of any command.
        MismatchError: If it is another command's; says which.
    """
    run = find_run(uri)
    if run is None:
        raise ConfigError(
            f"{uri} is no sink of vqpipe encode: there is no run.json. "
            f"{guess_sink(uri) or 'Give the place that such a command wrote to'}"
        )
    if not isinstance(run, CodesRun):
        raise MismatchError(
            f"{uri} is a sink of vqpipe {run.stage}, which has no codes: give that of vqpipe encode"
        )
    return run


def _wanted(sink: CodesSink, generation: int | None) -> dict[str, int]:
    """Returns the shards that were planned by then, with the generation of each, in order.

    Raises:
        MismatchError: If one of them has been planned anew since.
    """
    table = sink.plan.table
    generations = dict(zip(sink.plan.names, table["generation"].to_pylist(), strict=True))
    if generation is None:
        return generations
    last = max(generations.values(), default=0)
    if generation > last:
        raise ConfigError(
            f"generation is {generation}, and the plan of {sink.uri} has 0 to {last} by now"
        )
    earlier = table["earlier"].to_pylist()
    firsts = {
        name: before[0]["generation"] if before else generations[name]
        for name, before in zip(sink.plan.names, earlier, strict=True)
    }
    known = {name: at for name, at in firsts.items() if at <= generation}
    newer = [name for name in known if generations[name] > generation]
    if newer:
        raise MismatchError(
            f"{sink.uri}: {some_of(newer)} changed after generation {generation}, and what it was "
            "then is gone: read the sink without a generation, as it is now"
        )
    return known


def _look(file: File) -> tuple[Footer, File, bytes]:
    footer, found, tail = read_tail(file)
    return footer, found, seal.body_digest(tail)


def _row(sink: CodesSink, listed: File, found: tuple[Footer, File, bytes]) -> dict[str, Any]:
    """Returns what is said of one object, once it is known to be one of this run."""
    footer, file, body = found
    check_footer(sink, listed, footer)
    origin = footer.origin
    generation, revision = footer.order
    return {
        "name": origin["shard"],
        "rows": origin["good"] * sink.run.facts.views,
        "samples": origin["good"],
        "seal": body,
        "generation": generation,
        "revision": revision,
        "bytes": file.size,
        "is_current": _is_current(sink, file, footer),
        "is_damaged": bool(origin["damage"]),
    }


def _is_current(sink: CodesSink, file: File, footer: Footer) -> bool:
    """Tells whether an object is of its shard as it is planned now; an earlier one waits."""
    index = sink.plan.places[footer.origin["shard"]]
    planned = sink.plan.generation(index)
    if footer.origin["generation"] > planned:
        raise IncompleteError(
            f"{file.uri} is of a later plan than the one that was just read: run this again"
        )
    return bool(footer.origin["generation"] == planned)


def _told(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in SNAPSHOT.names}


def _check_complete(sink: CodesSink, wanted: dict[str, int], rows: list[dict[str, Any]]) -> None:
    current = {row["name"] for row in rows if row["is_current"]}
    missing = [name for name in wanted if name not in current]
    damaged = [row["name"] for row in rows if row["is_damaged"]]
    if missing:
        raise IncompleteError(
            f"{sink.uri} is not complete: {len(missing):,} of {len(wanted):,} shards are not there "
            f"({some_of(missing)}). Run its vqpipe {sink.run.stage} to its end, or take what is "
            "there: --allow-incomplete, allow_incomplete=True"
        )
    if damaged:
        raise IncompleteError(
            f"{sink.uri}: {len(damaged):,} shards could not be read to their end "
            f"({some_of(damaged)}): see vqpipe inspect --rejected, or take what is there: "
            "--allow-incomplete, allow_incomplete=True"
        )


def keep_snapshot(uri: str, snapshot: Snapshot) -> Snapshot:
    """Keeps a snapshot as a file, unless one is there; returns the one that is there then.

    Raises:
        MismatchError: If what is there is of another run, or none.
    """
    storage.publish(storage.normalise_uri(uri), snapshot.to_bytes())
    return load_snapshot(uri, snapshot.uri)


def load_snapshot(uri: str, sink: str) -> Snapshot:
    """Returns a snapshot that was kept as a file.

    Args:
        uri: The file.
        sink: The sink that it is of, wherever that is now.

    Raises:
        FileNotFoundError: If there is no file.
        MismatchError: If it is none, or of another run than the sink's.
    """
    uri, sink = storage.normalise_uri(uri), storage.normalise_uri(sink)
    data, run = storage.read(uri), find_codes(sink)
    said, table = parse_snapshot(uri, data)
    if said != run.fingerprint:
        raise MismatchError(f"{uri} is a snapshot of another run than that of {sink}")
    return Snapshot(sink, run, table)


def parse_snapshot(uri: str, data: bytes) -> tuple[str, pa.Table]:
    """Returns of which run, by its fingerprint, a stored snapshot is, and its rows (`SNAPSHOT`).

    Args:
        uri: Where it was, for messages.
        data: What was there.

    Raises:
        MismatchError: If it is none.
    """
    try:
        table = pq.read_table(io.BytesIO(data))
        said = (table.schema.metadata or {})[_FINGERPRINT].decode()
        return said, table.replace_schema_metadata(None).cast(SNAPSHOT)
    except (pa.ArrowException, ValueError, KeyError, OSError) as error:
        raise MismatchError(f"{uri} is no snapshot of a sink; give another file") from error


def total_bytes(snapshot: Snapshot) -> int:
    """Returns the bytes of all objects."""
    return cast(int, pc.sum(snapshot.table["bytes"]).as_py() or 0)
