"""Put the rows of a sink into evenly sized Parquet files in a new sink, shuffled if asked to."""

import contextlib
import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from vqpipe import schema, storage
from vqpipe.commands.console import Fields, Prose, printable
from vqpipe.commands.kept import kept_of
from vqpipe.commands.launch import Prepared, describe_store, run_stage
from vqpipe.commands.places import check_lengths, check_places
from vqpipe.commands.progress import announce
from vqpipe.commands.result import Result
from vqpipe.commands.runs import now, versions
from vqpipe.commands.stage_jobs import Compact
from vqpipe.errors import ConfigError
from vqpipe.schema import File, Shard
from vqpipe.sink import layout, todo
from vqpipe.sink.arrangement import Arrangement, whole_rows
from vqpipe.sink.frozen import Changes, freeze, thaw
from vqpipe.sink.growth import Growth
from vqpipe.sink.identity import CompactFacts, CompactIdentity
from vqpipe.sink.parts import data_types
from vqpipe.sink.plan import Plan
from vqpipe.sink.run import CodesRun, CompactRun, find_run
from vqpipe.sink.snapshot import Snapshot, count_snapshot, find_codes, total_bytes
from vqpipe.sink.start import start_run
from vqpipe.sink.sums import Totals
from vqpipe.sink.totals import digest_of_counts
from vqpipe.sink.writer import Writer
from vqpipe.stages.compact import Compaction, CompactProduct
from vqpipe.stages.encode import CodesProduct

_MUCH_MEMORY = 2e9
"""Bytes of the rows of a file that a worker is to have in memory, above which it is said."""


def run(job: Compact) -> Result:
    """Makes the files that are left, prints a summary, and returns how it has ended.

    Raises:
        VqpipeError: If the run is refused, or cannot go on.
    """
    _, result = run_stage("compact", job, lambda: _prepare(job))
    return result


@dataclass(frozen=True)
class _Source:
    """What is put into files, and what is to be known of it."""

    snapshot: Snapshot
    totals: dict[str, Any]
    """What its objects add up to."""
    histogram: str
    """Digest of how often they have each code."""
    left_out: int = 0
    """Shards that are there by now, and were not when the run began."""

    @property
    def run(self) -> CodesRun:
        """That made it."""
        return self.snapshot.run


def _prepare(job: Compact) -> Prepared[Compaction]:
    """Returns what is to be done, with snapshot, plan and identity frozen in the sink."""
    uri, sink = storage.normalise_uri(job.source), storage.normalise_uri(job.sink)
    check_places(uri, sink)
    source = _find_source(job, uri, sink)
    snapshot = source.snapshot
    arrangement = Arrangement(
        samples=snapshot.samples,
        views=snapshot.views,
        rows_per_file=whole_rows(job.rows_per_file, snapshot.views),
        shuffle=job.shuffle,
    )
    kept = kept_of(source.run, lambda: data_types(snapshot))
    product = _product_of(source.run, kept)
    listed = _plan_of(snapshot, arrangement)
    check_lengths(sink, listed.names)
    identity = _identity_of(source, arrangement)
    asked = CompactRun(identity, _facts_of(source, product), listed.sha256())
    freeze(sink, snapshot)
    opened = start_run(sink, asked, listed, Growth())
    left = tuple(todo.unfinished(opened))
    if left:
        storage.delete(layout.success_uri(sink))
    work = Compaction(Writer(opened, product), snapshot, arrangement, product, left)
    return Prepared(work, _introduce(job, source, work))


def _find_source(job: Compact, uri: str, sink: str) -> _Source:
    """Returns what a sink is made of: what it was when the run began, if it has begun.

    Raises:
        MismatchError: If the source is not what it was then; names the shards.
        IncompleteError: If it is not complete, and that is not allowed.
        ConfigError: If it has no rows.
    """
    found, begun = find_codes(uri), find_run(sink)
    if isinstance(begun, CompactRun) and begun.identity.codes == found.fingerprint:
        with contextlib.suppress(FileNotFoundError):  # else it is taken again, and held against it
            return _go_on(job, begun, uri, sink)
    announce("adding up", len(layout.list_committed(uri)))
    snapshot, totals = count_snapshot(uri, allow_incomplete=job.allow_incomplete)
    if not snapshot.samples:
        raise ConfigError(f"{uri} has no rows, so that there is nothing to put into files")
    return _Source(snapshot, _told(totals), digest_of_counts(totals.histogram))


def _go_on(job: Compact, begun: CompactRun, uri: str, sink: str) -> _Source:
    snapshot, facts = thaw(sink, begun, uri), begun.facts
    changes = Changes.since(snapshot)
    changes.check(uri, sink, allow_new=job.allow_incomplete)
    return _Source(snapshot, dict(facts.source_totals), facts.source_histogram, len(changes.new))


def _told(totals: Totals) -> dict[str, Any]:
    """Returns totals as JSON has them."""
    said: dict[str, Any] = json.loads(json.dumps(totals.to_dict()))
    return said


def _product_of(run: CodesRun, kept: pa.Schema) -> CompactProduct:
    """Returns what rows of a run become."""
    facts = run.facts
    codes = CodesProduct(
        kept,
        schema.codes_field(facts.codes),
        facts.codes,
        facts.views,
        facts.vectors,
        has_codes=not run.identity.drop_codes,
    )
    if isinstance(run, CompactRun):
        return CompactProduct(codes, run.facts.shard_column, has_shard=True)
    return CompactProduct(codes, _free_name(codes.data.names))


def _free_name(taken: list[str]) -> str:
    """Returns what the column of shards is called, where kept columns may have that name."""
    names = ("shard", "source_shard", *(f"source_shard_{i}" for i in range(2, len(taken) + 3)))
    return next(name for name in names if name not in taken)


def _plan_of(snapshot: Snapshot, arrangement: Arrangement) -> Plan:
    """Returns the files as shards of a plan; what each is made of is its version."""
    share = total_bytes(snapshot) / arrangement.samples
    digest, order = snapshot.digest, arrangement.shuffle
    drawn = "" if order is None else f", shuffled by {order}"
    shards = []
    for index, name in enumerate(arrangement.names):
        first, last = arrangement.places(index)
        version = f"samples {first} to {last} of {digest}{drawn}"
        file = File(snapshot.uri, round((last - first) * share), version)
        shards.append(Shard(name, "codes", (file,)))
    return Plan.of(shards)


def _identity_of(source: _Source, arrangement: Arrangement) -> CompactIdentity:
    """Returns every choice that changes results."""
    run = source.run
    return CompactIdentity(
        source=source.snapshot.uri,
        codes=run.fingerprint,
        snapshot=source.snapshot.digest,
        rows_per_file=arrangement.rows_per_file,
        shuffle=arrangement.shuffle,
        encode=run.encoding.document(),
        model_sha256=run.identity.model_sha256,
    )


def _facts_of(source: _Source, product: CompactProduct) -> CompactFacts:
    """Returns what a reader of the rows needs, all that their run says among it."""
    run = source.run
    own = {
        "created": now(),
        "versions": versions(),
        "shard_column": product.shard_column,
        "source_run": _describe_run(run),
        "source_totals": source.totals,
        "source_histogram": source.histogram,
    }
    return CompactFacts.read({**run.facts.document(), **own})


def _describe_run(run: CodesRun) -> dict[str, Any]:
    """Returns what a run says of itself that is told nowhere else."""
    facts = run.facts
    said = {
        "stage": run.stage,
        "fingerprint": run.fingerprint,
        "plan_sha256": run.plan_sha256,
        "created": facts.created,
        "versions": dict(facts.versions),
    }
    if not isinstance(run, CompactRun):
        return said
    identity = {name: value for name, value in run.identity.document().items() if name != "encode"}
    inner = {"source_run": run.facts.source_run, "source_totals": run.facts.source_totals}
    return {**said, "identity": identity, **inner}


def _introduce(job: Compact, source: _Source, work: Compaction) -> Fields:
    """Returns what was found and what is about to happen."""
    arrangement, size = work.arrangement, total_bytes(source.snapshot)
    order = "as the source has them, shards by name"
    if arrangement.shuffle is not None:
        order = f"shuffled over all files, seed {arrangement.shuffle}"
    held = f"{source.snapshot.starts[-1]:,} rows, {size / 1e6:,.1f} MB in {len(source.snapshot):,}"
    rows = f"{arrangement.rows_per_file:,} rows"
    files = f"{len(arrangement):,}, each of {rows}, the last of what is left"
    return [
        ("source", f"{held} shard(s)"),
        *_describe_aside(source.totals),
        ("sink", work.writer.sink.uri),
        ("files", files),
        *_describe_rounding(job, arrangement),
        ("rows", order),
        *_describe_column(work.product),
        ("left to do", f"{len(work.todo):,} of {len(arrangement):,} file(s)"),
        *_describe_new(source),
        *_describe_memory(work),
        *describe_store(work.writer.sink),
    ]


def _describe_aside(totals: dict[str, Any]) -> Fields:
    """Returns the line about samples of the source that have no row."""
    rejected, out = totals["rejected"], totals.get("left_out", 0)
    parts = [
        *([f"{rejected:,} were rejected there"] if rejected else []),
        *([f"{out:,} were left out"] if out else []),
    ]
    said = f"{' and '.join(parts)}: these have no rows, run.json of the new sink has their counts"
    return [("not taken", Prose(said))] if parts else []


def _describe_rounding(job: Compact, arrangement: Arrangement) -> Fields:
    if arrangement.rows_per_file == job.rows_per_file:
        return []
    said = (
        f"{job.rows_per_file:,} rows are no multiple of the {arrangement.views} views of an image, "
        f"which stay together: files have {arrangement.rows_per_file:,}"
    )
    return [("", Prose(said))]


def _describe_column(product: CompactProduct) -> Fields:
    if product.shard_column == "shard":
        return []
    said = f"{product.shard_column} has the name of a row's shard: a kept column is called shard"
    return [("column", Prose(printable(said)))]


def _describe_new(source: _Source) -> Fields:
    if not source.left_out:
        return []
    said = (
        f"the source has {source.left_out:,} shard(s) more than when this sink was begun, which it "
        "does not get: compact it anew into another one"
    )
    return [("take care", Prose(said))]


def _describe_memory(work: Compaction) -> Fields:
    """Returns a warning if the rows of a file, which meet in a worker in a shuffle, are many."""
    size = work.arrangement.rows_per_file * work.product.row_bytes
    if work.arrangement.shuffle is None or size < _MUCH_MEMORY:
        return []
    said = (
        f"the rows of a file take about {size / 1e9:,.0f} GB, and the worker that writes it holds "
        "them about three times: give it as much memory, or files fewer rows"
    )
    return [("take care", Prose(said))]
