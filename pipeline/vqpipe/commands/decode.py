"""Decode Parquet shards of codes back into images."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from vqpipe import storage
from vqpipe.code_layout import CodeLayout
from vqpipe.codec import doctor
from vqpipe.codec.config import CodecConfig
from vqpipe.codec.weights import Weights
from vqpipe.commands.console import Fields
from vqpipe.commands.dry_run import show
from vqpipe.commands.kept import begun_with, check_kept, name_types, pack_schema
from vqpipe.commands.launch import (
    Prepared,
    describe_left,
    describe_store,
    growth_of,
    run_stage,
)
from vqpipe.commands.model import load_for_codes, record_model
from vqpipe.commands.part import parse_part
from vqpipe.commands.places import check_lengths, check_places
from vqpipe.commands.progress import announce
from vqpipe.commands.result import Result
from vqpipe.commands.runs import check_codes, now, versions
from vqpipe.commands.stage_jobs import RESERVED, Decode
from vqpipe.errors import ConfigError
from vqpipe.images import ImageFormat
from vqpipe.schema import IMAGE, Selection, Shard
from vqpipe.sink import layout, todo
from vqpipe.sink.growth import Growth
from vqpipe.sink.identity import DecodeFacts, DecodeIdentity
from vqpipe.sink.plan import Plan
from vqpipe.sink.plan_file import find_plan
from vqpipe.sink.run import CodesRun, CompactRun, DecodeRun, DecodeSink, find_run, is_complete
from vqpipe.sink.start import foresee_run, start_run
from vqpipe.sink.writer import Writer
from vqpipe.sources import count_rows
from vqpipe.sources.agreement import Begun
from vqpipe.sources.codes import kept_schema, list_shards
from vqpipe.stages.decode import Decoding, Form, ImagesProduct, compress_rows
from vqpipe.stages.read import SampleReader
from vqpipe.stages.work import TableFunction, Work
from vqpipe.tokenizers.tokenizer import Description
from vqpipe.vector_layout import QUANTIZED


def run(job: Decode) -> Result:
    """Decodes what is left of the source, prints a summary, and returns how it has ended.

    Raises:
        VqpipeError: If the run is refused, or cannot go on.
    """
    if job.dry_run:
        return show("decode", job, *_find(job, foresee_run))
    _, result = run_stage("decode", job, lambda: _prepare(job))
    return result


@dataclass(frozen=True)
class _Source:
    """What is decoded, as far as it is known of it."""

    uri: str
    run: CodesRun | None
    """That made it, if it is a sink of `vqpipe encode`."""
    shards: tuple[Shard, ...]
    followed: tuple[str, ...] = ()
    """URIs of linked folders that were searched."""

    @classmethod
    def of(cls, job: Decode) -> "_Source":
        """Returns the source that a command names."""
        uri = storage.normalise_uri(job.source)
        found = None if uri.endswith(".parquet") else find_run(uri)
        if found:
            run = check_codes(found, uri)
            _check_column(job, run, uri)
            return cls(uri, run, tuple(_finished(job, uri, run)))
        listing = list_shards(uri, job.kind)
        return cls(uri, None, listing.shards, listing.followed)

    @property
    def alike(self) -> tuple[Shard, ...]:
        """Shards of which each may have other types; those of a run have the same ones."""
        return self.shards[:1] if self.run else self.shards

    def selection(self, job: Decode) -> Selection:
        """Returns which columns to read."""
        kept, parts = (tuple(self.run.facts.kept) if self.run else ()), self._parts(job)
        kept = tuple(name for name in kept if name not in parts)
        if job.keep is None and RESERVED & set(kept):
            raise ConfigError(
                f"the source's run kept {', '.join(sorted(RESERVED & set(kept)))}, names that the "
                "output has of its own: say with --keep what to keep"
            )
        key = job.key or ("key" if self.run else None)
        keep = kept if job.keep is None else job.keep
        run = self.run.fingerprint if self.run else None
        return Selection(
            key=key,
            keep=keep,
            codes=job.latents or job.codes,
            run=run,
            has_grids=bool(self.run and self.run.facts.codes.differs),
            parts=parts,
        )

    def _parts(self, job: Decode) -> tuple[str, ...]:
        """Returns the columns that tell rows of one key apart; keys get their values."""
        if self.run is None or job.key is not None:
            return ()
        several = (IMAGE,) if self.run.identity.has_several_images else ()
        shard = (self.run.facts.shard_column,) if isinstance(self.run, CompactRun) else ()
        return (*several, *(("view",) if self.run.facts.views > 1 else ()), *shard)

    def form(self, job: Decode, weights: Weights) -> Form:
        """Returns what the codes or latents of an image look like."""
        codes = self._layout(job, weights.description)
        latents = weights.description.latent_shape_of(codes) if job.latents is not None else ()
        return Form(codes, latents, self._is_quantized(job))

    def _is_quantized(self, job: Decode) -> bool:
        """Returns whether what is decoded is from behind the look-up, which a run of ours knows."""
        known = self.run.facts.vectors if self.run else ()
        if job.latents not in {each.name for each in known}:
            return job.quantized
        if job.quantized and job.latents != QUANTIZED:
            raise ConfigError(
                f"{job.latents} of {self.uri} are from before the look-up in the codebook: leave "
                "--quantized out"
            )
        return job.latents == QUANTIZED

    def _layout(self, job: Decode, model: Description) -> CodeLayout:
        kinds = {each.kind for each in model.fixed.values()}
        if job.grid and kinds == {"sequence"}:
            known = " or ".join(each.describe() for each in model.fixed.values())
            raise ConfigError(
                f"--grid {job.grid[0]} {job.grid[1]} is of a grid, and this model's codes of an "
                f"image are {known}: leave --grid out"
            )
        codes = self.run.facts.codes if self.run else None
        is_own = (job.kind, job.codes) == ("codes", "codes")  # not a column that was kept
        if codes and job.grid and is_own and (codes.differs or job.grid != codes.shapes[-1][:2]):
            raise ConfigError(
                f"--grid is {job.grid[0]} {job.grid[1]}, and the codes of an image of the run in "
                f"{self.uri} are {codes.describe()}: leave --grid out"
            )
        if job.grid and not model.fixed:
            return model.layout_of_grid(*job.grid)
        return codes or self._only_layout(job, model)

    def _only_layout(self, job: Decode, model: Description) -> CodeLayout:
        """Returns what codes of another tool are, of which the model takes but one layout."""
        fitting = [each for each in model.fixed.values() if job.grid in (None, each.shapes[-1])]
        if len(fitting) != 1:
            known = " or ".join(each.describe() for each in model.fixed.values())
            raise ConfigError(
                f"{self.uri} is no sink of vqpipe encode, so that nothing says how many rows and "
                f"columns of codes an image has{f' ({known})' if known else ''}: add --grid ROWS "
                f"COLUMNS{', of the last scale' if known else ''}"
            )
        return fitting[0]


def _check_column(job: Decode, run: CodesRun, source: str) -> None:
    """Refuses to decode codes of a run that left them out."""
    if run.identity.drop_codes and (job.kind, job.codes) == ("codes", "codes"):
        names = " or ".join(f"--latents {each.name}" for each in run.facts.vectors)
        raise ConfigError(f"the run in {source} left its codes out (--drop-codes): add {names}")


def _finished(job: Decode, source: str, run: CodesRun) -> list[Shard]:
    """Returns the shards that a run has codes of.

    Codes of an earlier version of a shard, which wait to be replaced, are taken only where the
    decoding sink has planned them. A part of a run that has begun takes what that has planned.
    """
    planned = find_plan(storage.normalise_uri(job.sink))
    if planned and growth_of(job).is_settled:
        return planned.shards()
    known = planned.files() if planned else frozenset()
    files = todo.finished(source, run, known)
    if not files:
        raise ConfigError(f"{source} has no finished shard yet: run vqpipe encode first")
    return [Shard(name, job.kind, (file,)) for name, file in files.items()]


def _prepare(job: Decode) -> Prepared[Work]:
    """Returns what is to be done, with plan and identity frozen in the sink."""
    work, introduction = _find(job, start_run)
    sink = work.writer.sink
    if work.todo:
        storage.delete(layout.success_uri(sink.uri))
    said = [*introduction, *describe_store(sink)]
    part = parse_part(job.part)
    return Prepared(work, said, allows_damage=job.allow_damaged_shards, part=part)


def _find(
    job: Decode, start: Callable[[str, DecodeRun, Plan, Growth], DecodeSink]
) -> tuple[Work, Fields]:
    """Returns what is to be done, and what is said of it.

    Args:
        job: What is asked for.
        start: Freezes plan and identity in the sink, or looks what it would come to.
    """
    sink = storage.normalise_uri(job.sink)
    source = _Source.of(job)
    check_places(source.uri, sink, source.followed)
    check_lengths(sink, (shard.name for shard in source.shards))
    weights = load_for_codes(job, source.run, source.uri)
    form = source.form(job, weights)
    selection = replace(source.selection(job), shape=form.shape)
    announce("looking at the columns of", len(source.alike))
    kept = kept_schema(source.alike, selection, _begun(sink, selection))
    how, findings = _settle_codec(job, source.run, weights)
    step = Decoding(form, how, weights.description.size_of(form.layout))
    size = None if form.layout.differs else step.size
    listed = Plan.of(source.shards)
    facts = _facts_of(job, weights, size, kept, findings)
    identity = _identity_of(job, source, selection, weights, step)
    asked = DecodeRun(identity, facts, listed.sha256())
    opened = start(sink, asked, listed, growth_of(job))
    check_kept(opened.run, kept)
    part, left = parse_part(job.part), todo.unfinished(opened)
    left = part.take(opened.plan, left) if part else left
    how_stored = ImageFormat(job.format, job.quality)
    product = ImagesProduct(kept, how_stored, job.layout, size)
    work = Work(
        writer=Writer(opened, product),
        reader=SampleReader(selection, kept),
        step=step,
        after=TableFunction(compress_rows, (how_stored,)),
        weights=weights,
        todo=left,
        adds_earlier=part is None,
    )
    return work, _introduce(job, source, work, step)


def _begun(sink: str, selection: Selection) -> Begun | None:
    return begun_with(find_run(sink), find_plan(sink), selection.keep)


def _settle_codec(
    job: Decode, run: CodesRun | None, weights: Weights
) -> tuple[CodecConfig, dict[str, Any] | None]:
    """Returns how codes become pixels, and what the doctor found out about it."""
    findings = None
    if not run or (job.model and job.pixel_range != "auto"):
        settled, findings = doctor.check_start(weights, "float32", job.pixel_range)
    else:
        settled = run.encoding.pixel_range
        if job.pixel_range not in {"auto", settled}:
            raise ConfigError(
                f"--pixel-range is {job.pixel_range}, and the run used its model with {settled}: "
                "leave it out"
            )
    return CodecConfig(dtype=job.dtype, pixel_range=settled, eager=job.eager), findings


def _identity_of(
    job: Decode, source: _Source, selection: Selection, weights: Weights, step: Decoding
) -> DecodeIdentity:
    """Returns every choice that changes results."""
    return DecodeIdentity(
        source=source.uri,
        codes=source.run.fingerprint if source.run else None,
        kind=step.form.kind,
        column=selection.codes,
        key=selection.key,
        parts=selection.parts,
        keep=selection.keep,
        code_layout=step.form.layout.document(),
        format=job.format,
        quality=None if job.format == "png" else job.quality,
        layout=job.layout,
        dtype=step.how.dtype,
        pixel_range=step.how.pixel_range,
        eager=step.how.eager,
        model_sha256=weights.sha256(),
    )


def _facts_of(
    job: Decode,
    weights: Weights,
    size: tuple[int, int] | None,
    kept: pa.Schema,
    findings: dict[str, Any] | None,
) -> DecodeFacts:
    """Returns what a reader of the images may want to know."""
    return DecodeFacts(
        size=size,
        model=weights.where,
        model_commit=weights.commit,
        model_options=record_model(job, weights) if job.model else None,
        kept=name_types(kept),
        kept_schema=pack_schema(kept),
        created=now(),
        versions=versions(),
        doctor=findings,
    )


def _introduce(job: Decode, source: _Source, work: Work, step: Decoding) -> Fields:
    """Returns what was found and what is about to happen."""
    height, width = step.size
    most = "up to " if step.form.layout.differs else ""
    size = sum(shard.size for shard in source.shards)
    fields: Fields = [
        ("source", f"{step.form.kind}, {size / 1e6:,.1f} MB in {len(source.shards):,} shard(s)"),
        ("model", f"{work.weights.where}, {step.form.layout.codebook_size:,} codes"),
        ("pixels", f"{most}{width} x {height} px, {step.how.pixel_range} range, {step.how.dtype}"),
        ("images", f"{job.format}, layout {job.layout}"),
        ("sink", work.writer.sink.uri),
        ("left to do", describe_left(work, parse_part(job.part))),
    ]
    if source.run and not is_complete(source.uri):
        more = (
            "once that is so, the same command with --extend (and --replace-changed) does the rest"
        )
        fields.append(("take care", f"the source is not complete yet: {more}"))
    return [*fields, *_describe_memory(job, source, step)]


def _describe_memory(job: Decode, source: _Source, step: Decoding) -> Fields:
    """Returns a warning if the images of the largest shard, which meet in one worker, are many.

    In Parquet they go through it some at a time.
    """
    if job.layout == "parquet":
        return []
    largest = max(source.shards, key=lambda shard: shard.size)
    rows = count_rows(largest, Selection()) or 0
    most = rows * step.row_bytes * (1 if job.format == "png" else _OF_LOSSY)
    if most < _MUCH_MEMORY:
        return []
    cure = "" if source.run else ", or write the codes in files of fewer rows"
    said = (
        f"the {rows:,} images of shard {largest.name} may take {most / 1e9:,.0f} GB, and the worker"
        f" that commits them holds them about three times: give it as much memory{cure}"
    )
    return [("take care", said)]


_OF_LOSSY = 1 / 4
"""Size of a JPEG of quality 95 by that of its pixels, at most, of photos."""
_MUCH_MEMORY = 4e9
"""Bytes of compressed images."""
