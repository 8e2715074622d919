"""Encode image shards into Parquet shards of discrete codes."""

import uuid
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import pyarrow as pa

from vqpipe import schema, storage
from vqpipe.codec.config import CodecConfig
from vqpipe.codec.doctor import RangeProbe
from vqpipe.commands.console import Fields, Prose, printable
from vqpipe.commands.identity import (
    check_kept,
    facts_of,
    find_whole_run,
    grid_of,
    identity_of,
    settle_codec,
)
from vqpipe.commands.jobs import Encode
from vqpipe.commands.kept import begun_with
from vqpipe.commands.launch import Prepared, describe_store, growth_of, run_stage
from vqpipe.commands.members import settle_members
from vqpipe.commands.model import load_weights
from vqpipe.commands.places import check_lengths, check_places
from vqpipe.commands.progress import announce
from vqpipe.errors import ConfigError
from vqpipe.images import Preprocess
from vqpipe.schema import Selection
from vqpipe.sink import layout, todo
from vqpipe.sink.plan import Plan, find_plan
from vqpipe.sink.ranges import Staged
from vqpipe.sink.run import Run, start_run
from vqpipe.sink.slot import Attempt
from vqpipe.sink.writer import Writer
from vqpipe.sources import find_image, find_passed_over, kept_schema, list_shards
from vqpipe.sources.listing import Listing
from vqpipe.stages.encode import CodesProduct, Encoding
from vqpipe.stages.quarantine import read_quarantined
from vqpipe.stages.read import SampleReader
from vqpipe.stages.work import Work


def run(job: Encode) -> None:
    """Encodes what is left of the source and prints a summary.

    Raises:
        VqpipeError: If the run could not be completed; the exit code is the error's.
    """
    run_stage("encode", job, lambda: _prepare(job))


def _prepare(job: Encode) -> Prepared:
    """Returns what is to be done, with plan and identity frozen in the sink."""
    source, sink = storage.normalise_uri(job.source), storage.normalise_uri(job.sink)
    check_places(source, sink)
    weights = load_weights(job)
    grid = grid_of(job.resolution, weights)
    begun = find_whole_run(sink)
    listing, selection, kept, notes = _find(job, source, begun, find_plan(sink))
    _check_names(source, sink, listing)
    listed = Plan.of(listing.shards)
    codec, findings = settle_codec(job, begun, weights)
    asking = replace(job, image=selection.image, key_until=selection.key_until)
    identity = identity_of(asking, source, listing.format, weights, codec)
    if begun and job.retry_rejected:  # the one choice that may change: what is refused unopened
        identity["max_pixels"] = begun.identity.get("max_pixels")
    asked = Run(
        identity, facts_of(job, weights, grid, kept) | {"doctor": findings}, listed.sha256()
    )
    opened = start_run(sink, asked, listed, growth_of(job))
    check_kept(opened.run, kept)
    size = weights.description.codebook_size
    codes = schema.codes_field(size, grid)
    left = todo.unfinished(opened)
    again = todo.retriable(opened, left) if job.retry_rejected else {}
    _check_limit(job, opened.run, left)
    product = CodesProduct(kept, codes, grid, size)
    writer = Writer(opened, product, _attempt(job, again))
    if left or again:
        storage.delete(layout.success_uri(sink))
    how = Preprocess(job.resolution, job.resample, job.background, job.max_pixels)
    work = Work(
        writer=writer,
        reader=SampleReader(selection, kept),
        opens=how,
        step=Encoding(codes, codec, job.resolution, job.audit),
        weights=weights,
        todo=left | again,
    )
    introduction = [*_introduce(job, work, listing, codec, len(again)), *notes]
    return Prepared(
        work,
        introduction,
        can_judge_early=not again,
        allows_damage=job.allow_damaged_shards,
    )


def _find(
    job: Encode, source: str, begun: Run | None, planned: Plan | None
) -> tuple[Listing, Selection, pa.Schema, Fields]:
    """Returns what there is, what to read of each sample, what to keep, and what to say of it."""
    earlier = planned.shards() if planned else ()
    listing = list_shards(source, job.format, planned=earlier, read=read_quarantined)
    selection = _select(job, begun, listing)
    if listing.format == "parquet" and not begun:
        announce("looking at the columns of", len(listing.shards))  # later, those of new files
    kept = kept_schema(listing, selection, begun_with(begun, planned, job.keep))
    selection, notes = settle_members(job.key_until, begun, listing, selection)
    return listing, selection, kept, [*_describe_column(listing, selection), *notes]


def _select(job: Encode, begun: Run | None, listing: Listing) -> Selection:
    """Returns what to read of each sample; a run that has begun knows the column of images."""
    selection = Selection(job.image, job.key, job.keep)
    if job.image is None and begun and begun.identity.get("format") == listing.format:
        return replace(selection, image=begun.identity.get("image"))
    return find_image(listing, selection, read_quarantined)


def _describe_column(listing: Listing, selection: Selection) -> Fields:
    """Returns which column is taken for the images, and which others of bytes are not read."""
    if listing.format != "parquet":
        return []
    over = find_passed_over(listing, selection)
    names = ", ".join(map(repr, over[:_NAMED])) + (", ..." if over[_NAMED:] else "")
    others = f"; {len(over):,} other(s) of bytes are not read: {names}" if over else ""
    return [("images", Prose(printable(f"column {selection.image!r}{others}", 500)))]


def _check_names(source: str, sink: str, listing: Listing) -> None:
    """Checks that the sink is in no folder that is read, and has room for the shards' names."""
    check_places(source, sink, listing.followed)
    check_lengths(sink, (shard.name for shard in listing.shards))


def _check_limit(job: Encode, run: Run, left: dict[int, Staged]) -> None:
    """Checks that shards which are encoded for the first time are so under the run's own limit."""
    limit = run.identity["max_pixels"]
    if left and job.max_pixels != limit:
        raise ConfigError(
            f"{len(left):,} shard(s) are not encoded yet, and the run's --max-pixels is {limit}: "
            "run the command without --retry-rejected and with that limit first"
        )


def _attempt(job: Encode, again: dict[int, Staged]) -> Attempt | None:
    if not again:
        return None
    facts = {"max_pixels": job.max_pixels, "pillow": version("pillow")}
    revisions = {index: staged.revision + 1 for index, staged in again.items()}
    return Attempt(uuid.uuid4().hex, revisions, facts)


def _introduce(job: Encode, work: Work, listing: Listing, codec: CodecConfig, again: int) -> Fields:
    """Returns what was found and what is about to happen."""
    writer, size = work.writer, sum(file.size for shard in listing.shards for file in shard.files)
    entries = f"{writer.product.codebook_size:,} codes"
    fields: Fields = [
        ("source", f"{listing.format}, {size / 1e6:,.1f} MB in {len(listing.shards):,} shard(s)"),
        ("model", f"{work.weights.where}, {entries}"),
        ("pixels", f"{job.resolution} px, {codec.pixel_range} range, {codec.dtype}"),
        ("doctor", _describe_findings(writer.sink.run.facts["doctor"])),
        ("sink", writer.sink.uri),
        ("left to do", _describe_left(work, again)),
    ]
    return [*fields, *_describe_unread(listing), *describe_store(writer.sink)]


def _describe_unread(listing: Listing) -> Fields:
    """Returns what was found in the source beside what is read."""
    fields: Fields = []
    if listing.followed or listing.repeated:
        fields.append(("links", Prose(_describe_links(listing))))
    if listing.ignored:
        others = ", ".join(f"{count:,} {name}" for name, count in listing.ignored.items())
        fields.append(("not read", f"other files beside the shards: {others}"))
    if listing.unsearched:
        count, first = len(listing.unsearched), listing.unsearched[0]
        said = f"{count:,} folder(s) whose names begin with a dot: {printable(first)}"
        fields.append(("not searched", Prose(said)))
    if listing.format == "folder" and _SIDE_FILES & listing.ignored.keys():
        fields.append(("take care", Prose(_NO_SIDE_FILES)))
    return fields


_NAMED = 10

_SIDE_FILES = {".txt", ".caption", ".json", ".jsonl", ".csv", ".parquet"}
_NO_SIDE_FILES = (
    "captions and metadata in files beside images are not read yet; put both into tars or Parquet "
    "to have --keep copy them"
)


def _describe_links(listing: Listing) -> str:
    """Returns which folders were found by links, and which were not read a second time."""
    said = []
    if listing.followed:
        said.append(f"{len(listing.followed):,} linked folder(s) followed: {listing.followed[0]}")
    if listing.repeated:
        count, first = len(listing.repeated), listing.repeated[0]
        said.append(f"{count:,} folder(s) not read twice, being there under two names: {first}")
    return "; ".join(said)


def _describe_left(work: Work, again: int) -> str:
    left = f"{len(work.todo) - again:,} of {len(work.writer.sink.plan):,} shard(s)"
    return left + (f", and rejected samples of {again:,} other(s) to try again" if again else "")


def _describe_findings(findings: dict[str, Any] | None) -> str:
    if findings is None:
        return "skipped"
    seen = RangeProbe(findings["psnr_db"]).describe()
    flips = findings.get("flips")
    return seen if flips is None else f"{seen}; {flips:.2%} of their codes are unlike float32's"
