"""What `vqpipe inspect` says of the sinks of one stage, beside what is true of all of them.

A stage is named by `stage` in its run's identity; one that is not listed here has nothing to add.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vqpipe import schema
from vqpipe.commands.console import Fields, Prose, printable
from vqpipe.commands.description import (
    describe_limit,
    describe_psnr,
    describe_vectors,
    describe_views,
    describe_where,
)
from vqpipe.inspection.readiness import Remark, check_codes
from vqpipe.inspection.survey import Evaluated
from vqpipe.sink.run import CodesRun, CompactRun, DecodeRun, Run
from vqpipe.sink.totals import made


@dataclass(frozen=True)
class Contents:
    """What is known of a sink when it is described."""

    sink: str
    run: Run
    totals: dict[str, Any]
    about: str
    """`about ` before numbers that are estimates."""
    evaluation: Evaluated | None


@dataclass(frozen=True)
class Stage:
    """What there is to say of one stage's sinks."""

    question: str
    """Name of the line that says whether the sink is fit for use."""
    check: Callable[[Contents], list[Remark]]
    """What there is to say against using it."""
    explain: Callable[[Contents], dict[str, Any]]
    """What a reader of its rows needs to know; stands in `--json` as `reader`."""
    describe: Callable[[Contents], Fields]
    """The lines about its rows."""


def find_stage(run: Run) -> Stage:
    """Returns what there is to say of the stage of a run."""
    return _STAGES.get(run.stage, _PLAIN)


def _check_codes(contents: Contents) -> list[Remark]:
    assert isinstance(contents.run, CodesRun)
    evaluated = contents.evaluation
    said = evaluated.said if evaluated and not evaluated.outdated else None
    if "codebook_usage" not in contents.totals:
        return []  # codes were left out before their rows came into these files
    return check_codes(contents.run.facts, contents.totals, said)


def _explain_codes(contents: Contents) -> dict[str, Any]:
    assert isinstance(contents.run, CodesRun)
    facts, identity = contents.run.facts, contents.run.encoding
    vectors = {"latents": dict(facts.latents or {}), "has_codes": not identity.drop_codes}
    return {
        "codes_dtype": str(schema.code_type(facts.codebook_size)),
        "codes_per_image": None if facts.codes.differs else facts.codes.length,
        "layout": dict(facts.layout),
        "views": facts.views,
        "codebook_size": facts.codebook_size,
        "resolution": identity.resolution,
        "pixel_range": identity.pixel_range,
        "model": facts.model,
        "model_sha256": identity.model_sha256,
        **(vectors if facts.latents else {}),
    }


def _describe_codes(contents: Contents) -> Fields:
    assert isinstance(contents.run, CodesRun)
    facts, identity = contents.run.facts, contents.run.encoding
    reader = _explain_codes(contents)
    codes = (
        f"{facts.codes.count} {facts.unit} ({facts.codes.describe()}), {reader['codes_dtype']}, of "
        f"{facts.codebook_size:,} entries"
    )
    pixels = (
        f"{identity.sizing}, {identity.resizing}, {identity.pixel_range} range, {identity.dtype}"
    )
    return [
        ("format", identity.format),
        ("codes", Prose(codes)),
        *describe_vectors(contents.run),
        *_describe_use(contents),
        *_describe_audit(contents),
        *describe_psnr(contents.totals),
        ("model", Prose(f"{facts.model}, sha256 {identity.model_sha256[:12]}")),
        ("pixels", Prose(pixels)),
        *describe_views(identity, facts.views),
        *describe_where(identity),
        *([("limit", limit)] if (limit := describe_limit(identity)) else []),
    ]


def _describe_use(contents: Contents) -> Fields:
    totals = contents.totals
    if not made(totals) or "codebook_usage" not in totals:
        return []
    usage, perplexity = totals["codebook_usage"], totals["codebook_perplexity"]
    least = "at least " if contents.about else ""  # more shards may use more entries
    said = f"{least}{usage:.1%} of the entries, perplexity {perplexity:,.1f}"
    return [("codebook usage", Prose(said))]


def _describe_audit(contents: Contents) -> Fields:
    totals = contents.totals
    if totals.get("flip_rate") is None:
        return []
    share, images = totals["flip_rate"], totals["audited"]
    said = f"{share:.2%} of the codes, measured on {contents.about}{images:,} image(s)"
    return [("unlike float32", Prose(said))]


def _explain_files(contents: Contents) -> dict[str, Any]:
    assert isinstance(contents.run, CompactRun)
    identity, facts = contents.run.identity, contents.run.facts
    return {
        **_explain_codes(contents),
        "rows_per_file": identity.rows_per_file,
        "shuffle": identity.shuffle,
        "shard_column": facts.shard_column,
        "source_run": dict(facts.source_run),
        "source_totals": dict(facts.source_totals),
    }


def _describe_files(contents: Contents) -> Fields:
    assert isinstance(contents.run, CompactRun)
    identity, facts, said = contents.run.identity, contents.run.facts, describe_source(contents.run)
    order = "as in the source, shards by name"
    if identity.shuffle is not None:
        order = f"shuffled over all files, seed {identity.shuffle}"
    return [
        ("made from", Prose(printable(said, 500))),
        ("rows of a file", f"{identity.rows_per_file:,}"),
        ("order", order),
        ("column", Prose(printable(f"{facts.shard_column} has the name of each row's shard"))),
        *_describe_codes(contents),
    ]


def describe_source(run: CompactRun) -> str:
    """Returns what a compacted sink was made of, and what of it has no rows, in words."""
    said, source = run.facts.source_totals, run.facts.source_run
    aside = {"rejected": said["rejected"], "left out": said.get("left_out", 0)}
    parts = [f"{count:,} {what}" for what, count in aside.items() if count]
    without = f", beside {' and '.join(parts)}" if parts else ""
    return (
        f"run {str(source['fingerprint'])[:12]} of {source['created']}: {made(dict(said)):,} "
        f"samples in {said['shards']:,} shards{without}"
    )


def _explain_images(contents: Contents) -> dict[str, Any]:
    assert isinstance(contents.run, DecodeRun)
    identity = contents.run.identity
    return {
        "format": identity.format,
        "quality": identity.quality,
        "layout": identity.layout,
        "dtype": identity.dtype,
        "pixel_range": identity.pixel_range,
        "model_sha256": identity.model_sha256,
        "size": contents.run.facts.size and list(contents.run.facts.size),
    }


def _describe_images(contents: Contents) -> Fields:
    assert isinstance(contents.run, DecodeRun)
    identity, facts = contents.run.identity, contents.run.facts
    model = f"{facts.model}, sha256 {identity.model_sha256[:12]}"
    fields: Fields = [
        ("images", Prose(f"{_describe_px(facts.size)}, {identity.format}")),
        ("decoded from", Prose(f"{identity.kind}, {identity.dtype}")),
        ("model", Prose(model)),
    ]
    if identity.layout != "parquet":
        fields.append(("image files", f"{contents.sink}/images/"))
    return fields


def _describe_px(size: tuple[int, int] | None) -> str:
    return f"{size[1]} x {size[0]} px" if size else "of several sizes"


_STAGES = {
    "encode": Stage("train on it", _check_codes, _explain_codes, _describe_codes),
    "compact": Stage("train on it", _check_codes, _explain_files, _describe_files),
    "decode": Stage("use it", lambda _: [], _explain_images, _describe_images),
}
_PLAIN = Stage("use it", lambda _: [], lambda _: {}, lambda _: [])


def describe_evaluation(contents: Contents) -> Fields:
    """Returns the lines about what `vqpipe evaluate` measured, if it did."""
    evaluated = contents.evaluation
    if evaluated is None:
        return []
    found = evaluated.said
    means = {name: each.get("mean") for name, each in (found.get("metrics") or {}).items()}
    means["rfid"] = found.get("rfid")
    said = [form.format(means[name]) for name, form in _METRICS if means.get(name) is not None]
    images = f"on {found.get('samples', 0):,} image(s)"
    fields: Fields = [("reconstruction", Prose(", ".join(said) + f", {images}"))]
    return [*fields, *([("evaluation", Prose(evaluated.outdated))] if evaluated.outdated else [])]


_METRICS = (
    ("psnr_db", "PSNR {:.2f} dB"),
    ("ssim", "SSIM {:.3f}"),
    ("l1", "L1 {:.4f}"),
    ("lpips", "LPIPS {:.3f}"),
    ("rfid", "rFID {:.2f}"),
)
