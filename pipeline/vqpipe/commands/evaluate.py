"""Evaluate codes: decode a sample of them, compare with the images, and write a report."""

import json
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from vqpipe import storage
from vqpipe.codec.config import CodecConfig
from vqpipe.commands.console import Fields, Prose, print_fields, stdout
from vqpipe.commands.launch import Prepared, describe_store, run_stage, stoppable
from vqpipe.commands.model import load_recorded
from vqpipe.commands.progress import announce
from vqpipe.commands.result import Result
from vqpipe.commands.runs import check_encoded, load_run, now, versions
from vqpipe.commands.stage_jobs import Evaluate
from vqpipe.errors import ConfigError
from vqpipe.images import Preprocess
from vqpipe.inspection import evaluation, reencode
from vqpipe.inspection.evaluation import Evaluation
from vqpipe.picks import pick_names
from vqpipe.quality.inception import load_inception
from vqpipe.quality.judges import Judge
from vqpipe.quality.lpips import load_lpips
from vqpipe.report import render_report
from vqpipe.schema import File, KeyUntil, Selection, Shard
from vqpipe.sink import layout, todo
from vqpipe.sink.digest import digest
from vqpipe.sink.footer import read_footer
from vqpipe.sink.growth import Growth
from vqpipe.sink.identity import EvaluateFacts, EvaluateIdentity
from vqpipe.sink.plan import Plan
from vqpipe.sink.run import EncodeSink, EvaluateRun, EvaluateSink, is_complete, open_sink
from vqpipe.sink.start import start_run
from vqpipe.sink.writer import Writer
from vqpipe.sources import list_shards
from vqpipe.stages.evaluate import (
    PICTURE_SIDE,
    Evaluating,
    PairReader,
    ScoresProduct,
    picture_rows,
    share_out,
)
from vqpipe.stages.read import SampleReader
from vqpipe.stages.work import TableFunction, Work
from vqpipe.vqgan.tensors import digest_tensors


@dataclass(frozen=True)
class _Picked:
    """What is looked at."""

    plan: Plan
    quotas: dict[str, int]
    """Samples of each shard, by name."""
    objects: dict[str, File]
    """The codes of those shards."""

    def sha256(self) -> str:
        """Digest of how many samples are taken of what; the plan has the digest of the images."""
        objects = {name: [file.size, file.version] for name, file in self.objects.items()}
        return digest([self.quotas, objects])


def run(job: Evaluate) -> Result:
    """Measures what is left of the samples, adds up, writes the report; returns how it has ended.

    Raises:
        VqpipeError: If the run is refused, or cannot go on.
    """
    source = storage.normalise_uri(job.source)
    found = check_encoded(load_run(source), source)
    if found.identity.drop_codes:
        raise ConfigError(
            f"the run in {source} left its codes out (--drop-codes), which vqpipe evaluate decodes:"
            " encode some of its images with their codes, into another sink, and evaluate that one"
        )
    codes, was_complete = open_sink(source, found), is_complete(source)
    with stoppable():
        work, result = run_stage("evaluate", job, lambda: _prepare(job, codes))
        if result.error:
            return result
        notes = _notes(job, was_complete=was_complete)
        announce("adding up and comparing", len(codes.plan))
        sink = work.writer.sink
        assert isinstance(sink.run, EvaluateRun), "as it was prepared"
        scores = EvaluateSink(sink.uri, sink.run, sink.plan)
        measured = evaluation.gather(codes, scores, notes, was_complete=was_complete)
        return replace(result, evaluation=_finish(measured, scores))


def _prepare(job: Evaluate, codes: EncodeSink) -> Prepared[Work]:
    """Returns what is to be done, with plan and identity frozen in the evaluation's own sink."""
    identity = codes.run.identity
    weights = load_recorded(job, codes.run)
    picked = _pick(job, codes)
    how = CodecConfig(dtype="float32", pixel_range=identity.pixel_range, eager=True)
    views = _preprocess(codes, picked)
    of_image = codes.run.facts.codes
    step = Evaluating(
        how,
        views.shapes,
        of_image,
        weights.description.multiple,
        has_views=views.views > 1 or of_image.differs,
        **_find_judges(job),
    )
    asked = EvaluateRun(
        _identity_of(job, codes, picked, step), _facts_of(step), picked.plan.sha256()
    )
    sink = storage.join_uri(codes.uri, "evaluation", asked.fingerprint[:12])
    opened = start_run(sink, asked, picked.plan, Growth())
    left = todo.unfinished(opened)
    if left:
        storage.delete(layout.success_uri(sink))
    product = ScoresProduct(tuple(step.scores))
    until: KeyUntil = identity.key_until or "first-dot"
    selection = Selection(identity.image, identity.key, key_until=until)
    kept = pa.schema([])
    work = Work(
        writer=Writer(opened, product),
        reader=PairReader(SampleReader(selection, kept), codes.uri, picked.quotas),
        opens=views,
        step=step,
        after=TableFunction(picture_rows, (product.rows.names,)),
        weights=weights,
        todo=left,
    )
    return Prepared(work, _introduce(codes, picked, work))


def _find_judges(job: Evaluate) -> dict[str, Judge]:
    """Returns the weights that are at hand, by field of the step."""
    found = {}
    for name, load in (("lpips", load_lpips), ("inception", load_inception)):
        where = getattr(job, name)
        if where is not None:
            resolved = where if where.startswith("hf://") else storage.normalise_uri(where)
            found[name] = Judge(resolved, digest_tensors(load(resolved).state_dict()))
    return found


def _pick(job: Evaluate, codes: EncodeSink) -> _Picked:
    """Returns the shards and how many samples of each are looked at."""
    left = todo.unfinished(codes)
    done = [name for index, name in enumerate(codes.plan.names) if index not in left]
    names = pick_names(done, job.shards)
    objects = {name: storage.stat(layout.data_uri(codes.uri, name)) for name in names}
    counts = {name: _count_views(file) for name, file in objects.items()}
    quotas = share_out(job.samples, counts)
    if not quotas:
        raise ConfigError(f"{codes.uri} has no codes yet: run vqpipe encode first")
    shards = _find_images(job, codes, quotas)
    return _Picked(Plan.of(shards), quotas, {name: objects[name] for name in quotas})


def _count_views(file: File) -> int:
    """Returns how many rows an object has."""
    origin = read_footer(file).origin
    return int(origin["good"] * origin.get("views", 1))


def _find_images(job: Evaluate, codes: EncodeSink, quotas: dict[str, int]) -> list[Shard]:
    """Returns the shards of images that codes were made of, where they are now."""
    planned = codes.plan.shards()
    if job.images is None:
        return [shard for shard in planned if shard.name in quotas]
    source, kind = storage.normalise_uri(job.images), codes.run.identity.format
    listed = list_shards(source, kind, planned=planned)
    found = {shard.name: shard for shard in listed.shards if shard.name in quotas}
    missing = sorted(quotas.keys() - found.keys())
    if missing:
        raise ConfigError(
            f"--images {job.images} has no shard {missing[0]}, of which {codes.uri} has codes: "
            "give the images that the codes were made of"
        )
    return list(found.values())


def _preprocess(codes: EncodeSink, picked: _Picked) -> Preprocess:
    """Returns how the run turned images into views."""
    places = {name: index for index, name in enumerate(codes.plan.names)}
    return reencode.preprocess_of(codes, [places[name] for name in picked.quotas])


def _identity_of(
    job: Evaluate, codes: EncodeSink, picked: _Picked, step: Evaluating
) -> EvaluateIdentity:
    """Returns every choice that changes results, beside the plan of the images."""
    return EvaluateIdentity(
        source=codes.uri,
        codes=codes.run.fingerprint,
        samples=job.samples,
        shards=job.shards,
        picked=picked.sha256(),
        model_sha256=codes.run.identity.model_sha256,
        lpips=step.lpips.sha256 if step.lpips else None,
        inception=step.inception.sha256 if step.inception else None,
    )


def _facts_of(step: Evaluating) -> EvaluateFacts:
    """Returns what else is to be known of the scores."""
    return EvaluateFacts(
        picture_px=min(max(map(max, step.shapes)), PICTURE_SIDE),
        has_views=step.has_views,
        created=now(),
        versions=versions(),
        networks={"lpips": _where(step.lpips), "inception": _where(step.inception)},
    )


def _where(judge: Judge | None) -> str | None:
    return judge.where if judge else None


_NETWORKS = {
    "lpips": "LPIPS was not measured: give its weights with --lpips.",
    "inception": "rFID was not measured: give Inception's weights with --inception.",
}
"""What is said where a network's weights are not at hand."""


def _notes(job: Evaluate, *, was_complete: bool) -> list[str]:
    """Returns what a reader of the numbers has to know."""
    notes = [said for name, said in _NETWORKS.items() if getattr(job, name) is None]
    if job.inception:
        notes.append("rFID of few images is too high: compare it only with one of as many.")
    if not was_complete:
        notes.append("The run was not complete when this was measured.")
    return notes


def _introduce(codes: EncodeSink, picked: _Picked, work: Work) -> Fields:
    """Returns what was found and what is about to happen."""
    samples = sum(picked.quotas.values())
    return [
        ("codes", codes.uri),
        ("model", work.weights.where),
        ("samples", f"{samples:,} of {len(picked.quotas):,} shard(s), picked by hash"),
        ("sink", work.writer.sink.uri),
        ("left to do", f"{len(work.todo):,} of {len(work.writer.sink.plan):,} shard(s)"),
        *describe_store(work.writer.sink),
    ]


def _finish(found: Evaluation, scores: EvaluateSink) -> dict[str, Any]:
    """Writes evaluation.json and report.html, says what is in them, and returns the former."""
    document = evaluation.to_document(found)
    page = render_report(evaluation.to_report(found, scores, document))
    numbers, report = (storage.join_uri(found.codes.uri, name) for name in _OUTPUT)
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    storage.replace(numbers, text.encode() + b"\n")
    storage.replace(report, page.encode())
    fields = [
        *_describe(document),
        *(("note", Prose(note)) for note in found.notes),
        ("scores", f"{scores.uri}/data/"),
        ("numbers", numbers),
        ("report", report),
    ]
    print_fields(stdout(), "evaluation", fields)
    return document


_OUTPUT = ("evaluation.json", "report.html")


def _describe(document: dict[str, Any]) -> Fields:
    book = document["codebook"]
    unlike = document["codes_unlike_float32"]
    used = (
        f"{book['usage']:.1%} of {book['size']:,} entries, {book['dead_codes']:,} never; "
        f"{book['entropy_bits']:.2f} bits a code, perplexity {book['perplexity']:,.1f}"
    )
    lines: Fields = [
        (_NAMES[name], form.format(**said))
        for name, said in document["metrics"].items()
        if (form := _FORMS[name]) and said["mean"] is not None
    ]
    if document["rfid"] is not None:
        lines.append(("rFID", f"{document['rfid']:.2f}"))
    if unlike is not None:
        lines.append(("unlike float32", f"{unlike:.2%} of the codes"))
    return [*lines, ("codebook", Prose(used))]


_NAMES = {"psnr_db": "PSNR", "ssim": "SSIM", "l1": "L1", "lpips": "LPIPS"}
_FORMS = {
    "psnr_db": "{mean:.2f} dB, nine in ten images {p05:.2f} to {p95:.2f}",
    "ssim": "{mean:.4f}",
    "l1": "{mean:.4f} of 1",
    "lpips": "{mean:.4f}",
}
