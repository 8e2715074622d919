"""Encode image shards into Parquet shards of discrete codes."""

import json
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import pyarrow as pa

from vqpipe import schema, storage
from vqpipe.code_layout import CodeLayout
from vqpipe.codec import doctor
from vqpipe.codec.config import CodecConfig
from vqpipe.codec.weights import Weights
from vqpipe.commands.choice import describe_choice, settle_conditions, take_first
from vqpipe.commands.console import Fields, Prose, printable
from vqpipe.commands.description import describe_vectors, describe_views, warn_of_shapes
from vqpipe.commands.dry_run import show
from vqpipe.commands.keeping import describe_about, settle_kept
from vqpipe.commands.kept import begun_with, check_kept, name_types, pack_asked, pack_schema
from vqpipe.commands.launch import (
    Prepared,
    describe_left,
    describe_store,
    growth_of,
    run_stage,
)
from vqpipe.commands.members import settle_members
from vqpipe.commands.model import describe_family, load_weights, record_model
from vqpipe.commands.part import Part, parse_part
from vqpipe.commands.places import check_lengths, check_places
from vqpipe.commands.progress import announce
from vqpipe.commands.result import Result
from vqpipe.commands.runs import now, versions
from vqpipe.commands.stage_jobs import Encode
from vqpipe.commands.views import codes_of, identify, settle_views
from vqpipe.conditions.expression import parse
from vqpipe.errors import ConfigError
from vqpipe.images import Preprocess
from vqpipe.schema import Selection
from vqpipe.sink import layout, todo
from vqpipe.sink.identity import EncodeFacts, EncodeIdentity
from vqpipe.sink.plan import Plan
from vqpipe.sink.plan_file import find_plan
from vqpipe.sink.ranges import Staged
from vqpipe.sink.run import DecodeRun, EncodeRun, EncodeSink, Run, find_run
from vqpipe.sink.slot import Attempt
from vqpipe.sink.start import foresee_run, start_run
from vqpipe.sink.writer import Writer
from vqpipe.sources import find_image, find_passed_over, kept_schema, list_shards, with_about
from vqpipe.sources.classes import class_names
from vqpipe.sources.limits import Cut
from vqpipe.sources.listing import Listing
from vqpipe.stages.conditions import Conditions
from vqpipe.stages.encode import CodesProduct, Encoding
from vqpipe.stages.quarantine import read_quarantined
from vqpipe.stages.read import SampleReader
from vqpipe.stages.work import Work
from vqpipe.vector_layout import ASKED, VectorLayout, document_of


def run(job: Encode) -> Result:
    """Encodes what is left of the source, prints a summary, and returns how it has ended.

    Raises:
        VqpipeError: If the run is refused, or cannot go on.
    """
    if job.dry_run:
        return show("encode", job, *foresee(job))
    _, result = run_stage("encode", job, lambda: _prepare(job))
    return result


def _prepare(job: Encode) -> Prepared[Work]:
    """Returns what is to be done, with plan and identity frozen in the sink."""
    asked = find_asked(job)
    opened = start_run(asked.sink, asked.run, asked.listed, growth_of(job))
    work, again = asked.work(job, opened)
    if work.todo:
        storage.delete(layout.success_uri(asked.sink))
    return Prepared(
        work,
        asked.introduce(work, again, describe_store(opened)),
        can_judge_early=not again,
        allows_damage=job.allow_damaged_shards,
        part=asked.part,
    )


def foresee(job: Encode) -> tuple[Work, Fields]:
    """Returns what would be done, and what would be said of it; nothing is written.

    Raises:
        VqpipeError: If the run would be refused.
    """
    asked = find_asked(job)
    opened = foresee_run(asked.sink, asked.run, asked.listed, growth_of(job))
    work, again = asked.work(job, opened)
    return work, asked.introduce(work, again)


def find_asked(job: Encode) -> "Asked":
    """Returns what a command asks for, with all that there is to find out; nothing is written.

    Raises:
        VqpipeError: If source, model or options are not to be used like this.
    """
    source, sink = storage.normalise_uri(job.source), storage.normalise_uri(job.sink)
    check_places(source, sink)
    weights = load_weights(job)
    how = settle_views(job, weights)
    codes = codes_of(how, weights)
    begun = find_run(sink)
    found = _find(job, source, begun, find_plan(sink))
    listing, kept = found.listing, found.kept
    _check_names(source, sink, listing)
    listed = Plan.of(listing.shards)
    codec, findings = settle_codec(job, begun, weights)
    identity = identity_of(job, listing, found.selection, weights, codec, how)
    if isinstance(begun, EncodeRun) and job.retry_rejected:  # the one choice that may change
        identity = replace(identity, max_pixels=begun.identity.max_pixels)
    column, vectors = schema.codes_field(codes), _vectors_of(job, codes, weights)
    product = CodesProduct(kept, column, codes, how.views, vectors, has_codes=not job.drop_codes)
    facts = facts_of(job, weights, product, findings)
    run = EncodeRun(identity, found.settle(facts), listed.sha256())
    step = Encoding(column, codec, how.shapes, job.audit, vectors)
    part = parse_part(job.part)
    return Asked(sink, run, listed, found.planned(), weights, how, product, step, part)


def _vectors_of(job: Encode, codes: CodeLayout, weights: Weights) -> tuple[VectorLayout, ...]:
    """Returns what columns of vectors are to hold; both kinds have the shape of latents."""
    shape: tuple[int | str, ...] = weights.description.latent_shape_of(codes)
    if codes.differs:
        shape = (shape[0], *(each.name for each in schema.GRID))
    names = ASKED[job.latents] if job.latents else ()
    return tuple(VectorLayout(name, shape, job.latents_dtype) for name in names)


def settle_codec(
    job: Encode, begun: Run | None, weights: Weights
) -> tuple[CodecConfig, dict[str, Any] | None]:
    """Returns how pixels become codes, and what the doctor found out about it.

    A sink that has a run of these weights has settled it already.
    """
    known = begun.identity if isinstance(begun, EncodeRun | DecodeRun) else None
    findings = None
    if known and known.model_sha256 == weights.sha256():
        settled = known.pixel_range if job.pixel_range == "auto" else job.pixel_range
    elif job.pixel_range == "auto" or not job.skip_doctor:
        settled, findings = doctor.check_start(weights, job.dtype, job.pixel_range)
    else:
        settled = job.pixel_range
    how = CodecConfig(dtype=job.dtype, pixel_range=settled, eager=job.eager)
    return how, findings


def identity_of(
    job: Encode,
    listing: Listing,
    selection: Selection,
    weights: Weights,
    codec: CodecConfig,
    how: Preprocess,
) -> EncodeIdentity:
    """Returns every choice that changes results."""
    return EncodeIdentity(
        source=storage.normalise_uri(job.source),
        format=listing.format,
        image=selection.image,
        label=job.label,
        key=job.key,
        key_until=selection.key_until if listing.format == "webdataset" else None,
        keep=selection.keep,
        where=parse(job.where).text or None,
        limit=job.limit,
        limit_shards=job.limit_shards,
        **identify(how),
        dtype=codec.dtype,
        latents=job.latents,
        latents_dtype=job.latents_dtype if job.latents else None,
        drop_codes=job.drop_codes,
        pixel_range=codec.pixel_range,
        eager=codec.eager,
        model_sha256=weights.sha256(),
        model_config=json.loads(
            json.dumps(dict(weights.description.config))
        ),  # tuples become lists
    )


def facts_of(
    job: Encode,
    weights: Weights,
    product: CodesProduct,
    findings: dict[str, Any] | None,
) -> EncodeFacts:
    """Returns what a reader of the codes needs, and with what they were made."""
    return EncodeFacts(
        layout=product.layout.document(),
        codebook_size=product.codebook_size,
        codebook_sha256=weights.codebook_sha256(),
        views=product.views,
        downsample_factor=weights.description.multiple,
        model=weights.where,
        model_commit=weights.commit,
        model_options=record_model(job, weights),
        kept=name_types(product.kept),
        kept_schema=pack_schema(product.kept),
        keep_all=job.keep_all,
        classes=tuple(class_names(product.kept)) if job.label else None,
        created=now(),
        versions=versions(),
        doctor=findings,
        model_family=weights.provenance or None,
        latents=document_of(product.vectors),
    )


@dataclass(frozen=True)
class _Found:
    """What there is to encode."""

    listing: Listing
    selection: Selection
    """What to read of each sample."""
    kept: pa.Schema
    conditions: Conditions
    """Of stored columns."""
    shards: int
    """That the source has, whether or not all are taken."""
    taken: int
    """Of these, that are."""
    size: int
    """Bytes of theirs."""
    cut: Cut | None
    """How the last shard is cut, as the source is now."""
    notes: Fields
    """What to say of it."""

    def planned(self) -> "_Found":
        """Returns the same without its shards, which a plan has in a fifth of the memory."""
        return replace(self, listing=replace(self.listing, shards=()))

    def settle(self, facts: EncodeFacts) -> EncodeFacts:
        """Returns facts with what was found out about which samples are taken."""
        asked = pack_asked(self.conditions.asked)
        return replace(facts, limit_last=self.cut, where_schema=asked)

    def reader(self, run: EncodeRun) -> SampleReader:
        """Returns what reads the samples of a run, which says how its last shard is cut."""
        return SampleReader(self.selection, self.kept, self.conditions, run.facts.limit_last)

    def describe(self, run: EncodeRun) -> Fields:
        """Returns the lines about what is taken."""
        return [*describe_choice(run, self.taken, self.shards), *self.notes]


@dataclass(frozen=True)
class Asked:
    """What a command asks for, and what was found out about it."""

    sink: str
    run: EncodeRun
    listed: Plan
    """The shards that the source has now."""
    found: _Found
    weights: Weights
    how: Preprocess
    product: CodesProduct
    step: Encoding
    part: Part | None
    """Which of the shards it does; None for all."""

    def work(self, job: Encode, opened: EncodeSink) -> tuple[Work, int]:
        """Returns what is left to do in a sink, and how many shards are only tried again.

        Raises:
            MismatchError: If columns to keep are of other types by now.
            ConfigError: If shards are new that the limit of a retry is not for.
        """
        check_kept(opened.run, self.product.kept)
        left = todo.unfinished(opened)
        left = self.part.take(opened.plan, left) if self.part else left
        again = todo.retriable(opened, left) if job.retry_rejected else {}
        _check_limit(job, opened.run, left)
        work = Work(
            writer=Writer(opened, self.product, _attempt(job, again)),
            reader=self.found.reader(opened.run),
            opens=self.how,
            step=self.step,
            weights=self.weights,
            todo=left | again,
            adds_earlier=self.part is None,
        )
        return work, len(again)

    def introduce(self, work: Work, again: int, store: Iterable[tuple[str, object]] = ()) -> Fields:
        """Returns what was found and what is about to happen.

        Args:
            work: What is left to do.
            again: Shards of these that are only tried again.
            store: What to say of the sink's store.
        """
        said = _introduce(work, self.found, self.step.how, again, self.part)
        return [*said, *store, *self.found.describe(_run_of(work.writer))]


def _find(job: Encode, source: str, begun: Run | None, planned: Plan | None) -> _Found:
    """Returns what there is to encode."""
    listing = _list(job, source, begun, planned)
    selection = _select(job, begun, listing)
    selection, notes = settle_members(job.key_until, begun, listing, selection)
    shards = len(listing.shards)
    listing, cut = take_first(job, begun, planned, listing, selection)
    if listing.format == "parquet" and not begun:
        announce("looking at the columns of", len(listing.shards))  # later, those of new files
    selection, more = settle_kept(begun, listing, selection, is_all=job.keep_all)
    listing = with_about(listing, selection) if listing.about else listing
    kept = kept_schema(listing, selection, begun_with(begun, planned, selection.keep))
    conditions = settle_conditions(job, begun, planned, listing, selection, kept)
    notes = [*notes, *more, *describe_about(listing, selection)]
    notes = [*_describe_column(listing, selection), *notes]
    size = sum(file.size for shard in listing.shards for file in shard.files)
    taken = len(listing.shards)
    return _Found(listing, selection, kept, conditions, shards, taken, size, cut, notes)


def _list(job: Encode, source: str, begun: Run | None, planned: Plan | None) -> Listing:
    """Returns the shards of the source; as planned where this is a part of a run that has begun."""
    if planned and isinstance(begun, EncodeRun) and growth_of(job).is_settled:
        return Listing(begun.identity.format, tuple(planned.shards()), {})
    earlier = planned.folders() if planned else []
    return list_shards(source, job.format, planned=earlier, read=read_quarantined)


def _select(job: Encode, begun: Run | None, listing: Listing) -> Selection:
    """Returns what to read of each sample; a run that has begun knows the columns of images."""
    image = job.image if job.image is None or job.image[1:] else job.image[0]
    selection = Selection(image, job.key, job.keep, label=job.label)
    known = begun.identity if isinstance(begun, EncodeRun) else None
    if known and known.format == listing.format:
        named = replace(selection, image=known.image)
        if job.image is None or named.images == job.image:
            return named
    return find_image(listing, selection, read_quarantined)


def _describe_column(listing: Listing, selection: Selection) -> Fields:
    """Returns which columns are taken for the images, and which others of bytes are not read."""
    if listing.format != "parquet":
        return []
    over = find_passed_over(listing, selection)
    names = ", ".join(map(repr, over[:_NAMED])) + (", ..." if over[_NAMED:] else "")
    others = f"; {len(over):,} other(s) of bytes are not read: {names}" if over else ""
    taken = f"column {', '.join(map(repr, selection.images))}"
    each = "; each image of a row becomes one" if isinstance(selection.image, tuple) else ""
    return [("images", Prose(printable(f"{taken}{each}{others}", 500)))]


def _check_names(source: str, sink: str, listing: Listing) -> None:
    """Checks that the sink is in no folder that is read, and has room for the shards' names."""
    check_places(source, sink, listing.followed)
    check_lengths(sink, (shard.name for shard in listing.shards))


def _check_limit(job: Encode, run: EncodeRun, left: dict[int, Staged]) -> None:
    """Checks that shards which are encoded for the first time are so under the run's own limit."""
    limit = run.identity.max_pixels
    if left and job.max_pixels != limit:
        raise ConfigError(
            f"{len(left):,} shard(s) are not encoded yet, and the run's --max-pixels is {limit}: "
            "run the command without --retry-rejected and with that limit first"
        )


def _attempt(job: Encode, again: dict[int, Staged]) -> Attempt | None:
    if not again:
        return None
    revisions = {index: staged.revision + 1 for index, staged in again.items()}
    return Attempt(uuid.uuid4().hex, revisions, job.max_pixels, version("pillow"))


def _introduce(
    work: Work, found: _Found, codec: CodecConfig, again: int, part: Part | None
) -> Fields:
    """Returns what was found and what is about to happen."""
    writer, listing = work.writer, found.listing
    assert isinstance(writer.sink.run, EncodeRun), "as it was prepared"
    identity = writer.sink.run.identity
    entries = f"{writer.product.codebook_size:,} codes"
    fields: Fields = [
        ("source", f"{listing.format}, {found.size / 1e6:,.1f} MB in {found.taken:,} shard(s)"),
        ("model", f"{work.weights.where}, {entries}"),
        *describe_family(work.weights),
        ("pixels", f"{identity.sizing}, {codec.pixel_range} range, {codec.dtype}"),
        *describe_views(identity, writer.product.views),
        *describe_vectors(_run_of(writer)),
        *warn_of_shapes(identity),
        ("doctor", _describe_doctor(_run_of(writer))),
        ("sink", writer.sink.uri),
        ("left to do", describe_left(work, part, again)),
    ]
    return [*fields, *_describe_unread(listing)]


def _run_of(writer: Writer) -> EncodeRun:
    run = writer.sink.run
    assert isinstance(run, EncodeRun), "as it was prepared"
    return run


def _describe_doctor(run: EncodeRun) -> str:
    return doctor.describe_findings(run.facts.doctor) if run.facts.doctor else "skipped"


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
    return fields


_NAMED = 10


def _describe_links(listing: Listing) -> str:
    """Returns which folders were found by links, and which were not read a second time."""
    said = []
    if listing.followed:
        said.append(f"{len(listing.followed):,} linked folder(s) followed: {listing.followed[0]}")
    if listing.repeated:
        count, first = len(listing.repeated), listing.repeated[0]
        said.append(f"{count:,} folder(s) not read twice, being there under two names: {first}")
    return "; ".join(said)
