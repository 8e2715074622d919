"""What an evaluation found: scores of samples added up, and the codes of the whole data set.

the evaluation's sink   scores and pictures of samples   ─┐
the codes' sink         footers: counts, histograms,     ─┴─►  evaluation.json, report.html
rejections; summary.json
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vqpipe import metrics, storage
from vqpipe.bottleneck import PARTS
from vqpipe.images import size_of
from vqpipe.inspection.drift import Distance, measure_drift
from vqpipe.inspection.survey import find_json
from vqpipe.metrics import Moments
from vqpipe.rejections import Reason
from vqpipe.report import (
    Counts,
    Drift,
    Example,
    Metric,
    Picture,
    Pictures,
    Quality,
    Rejected,
    Report,
    Throughput,
)
from vqpipe.schema import PICTURES, File, numbers_of, score_fields, scores_schema
from vqpipe.sink import layout, totals
from vqpipe.sink.losses import describe_losses
from vqpipe.sink.objects import read_whole
from vqpipe.sink.run import EncodeSink, EvaluateRun, EvaluateSink
from vqpipe.sink.sums import Totals
from vqpipe.storage.ahead import map_ahead

_READERS = 4

RANDOM, BEST, WORST = 12, 6, 6
"""Pictures of each kind on the page."""
DRIFTED = 20
"""Shards that `evaluation.json` names."""
SCORES = ("psnr_db", "ssim", "l1", "lpips")
"""Scores that are one number a sample."""


@dataclass(frozen=True)
class Evaluation:
    """All that is known at the end."""

    codes: EncodeSink
    was_complete: bool
    """Whether the run of the codes was complete when they were looked at."""
    scores: pa.Table
    """One row a sample: `shard`, then the columns of the evaluation's `data/` but the pictures."""
    totals: Totals
    """Of the codes."""
    drift: list[Distance]
    rejected: int
    """Samples that could not be scored."""
    rfid: float | None
    notes: tuple[str, ...]

    @property
    def unlike(self) -> float | None:
        """Share of codes that differ when encoded again in float32."""
        codes = len(self.scores) * self.codes.run.facts.codes.length
        if "code_count" in self.scores.column_names:
            codes = pc.sum(self.scores["code_count"]).as_py() or 0
        return float(np.sum(_column(self.scores, "unlike"))) / codes if codes else None


def gather(
    codes: EncodeSink, scores: EvaluateSink, notes: Sequence[str], *, was_complete: bool
) -> Evaluation:
    """Returns what was found, from the two sinks.

    Args:
        codes: What was evaluated.
        scores: The evaluation's own.
        notes: What a reader has to know.
        was_complete: Whether the run of the codes was.
    """
    summed = totals.read_totals(codes)
    table = _read_scores(scores)
    return Evaluation(
        codes=codes,
        was_complete=was_complete,
        scores=table.drop_columns([n for n in table.column_names if n.startswith("features_")]),
        totals=summed,
        drift=measure_drift(codes, summed.histogram),
        rejected=totals.read_totals(scores).rejected,
        rfid=_measure_rfid(table),
        notes=tuple(notes),
    )


def _read_scores(sink: EvaluateSink) -> pa.Table:
    """Returns the rows of all objects of `data/`, without pictures, with their shards' names."""
    columns = _columns(sink.run)

    def read(shard: tuple[str, File]) -> pa.Table:
        table = read_whole(shard[1].uri, columns)
        return table.add_column(0, "shard", pa.array([shard[0]] * len(table), pa.string()))

    return pa.concat_tables(map_ahead(read, layout.list_committed(sink.uri).items(), _READERS))


def _columns(run: EvaluateRun) -> list[str]:
    """Returns the columns of an evaluation's `data/` that are no pictures."""
    networks = run.facts.networks
    scores = score_fields(
        has_lpips=bool(networks["lpips"]),
        has_features=bool(networks["inception"]),
        has_views=run.facts.has_views,
    )
    pictures = {field.name for field in PICTURES}
    return [name for name in scores_schema(scores).names if name not in pictures]


def _measure_rfid(table: pa.Table) -> float | None:
    if "features_original" not in table.column_names or len(table) < 2:
        return None
    pair = (numbers_of(table["features_original"]), numbers_of(table["features_decoded"]))
    return metrics.frechet_distance(*(Moments.of(each) for each in pair))


def _column(table: pa.Table, name: str) -> npt.NDArray[np.float64]:
    return np.asarray(table[name].to_numpy(), np.float64)


def to_document(found: Evaluation) -> dict[str, Any]:
    """Returns what `evaluation.json` says."""
    histogram = found.totals.histogram
    names = [name for name in SCORES if name in found.scores.column_names]
    return {
        "fingerprint": found.codes.run.fingerprint,
        "run": {
            "plan_sha256": found.codes.plan.sha256(),
            "shards_planned": len(found.codes.plan),
            "shards": found.totals.shards,
            "encoded": found.totals.good,
            "data_bytes": found.totals.data_bytes,
        },
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "samples": len(found.scores),
        "shards": len(set(found.scores["shard"].to_pylist())),
        "rejected": found.rejected,
        "metrics": {name: metrics.summarise(_column(found.scores, name)) for name in names},
        "rfid": found.rfid,
        "codes_unlike_float32": found.unlike,
        "codebook": {
            "size": len(histogram),
            "usage": metrics.codebook_usage(histogram),
            "perplexity": metrics.perplexity(histogram),
            "entropy_bits": metrics.entropy_bits(histogram),
            "dead_codes": metrics.dead_codes(histogram),
        },
        "drift": {
            "shards": len(found.drift),
            "median": median([each.distance for each in found.drift]) if found.drift else None,
            "most": [vars(each) for each in found.drift[:DRIFTED]],
        },
        "rejected_by_reason": dict(sorted(found.totals.reasons.items())),
        "notes": list(found.notes),
    }


def to_report(found: Evaluation, scores: EvaluateSink, document: dict[str, Any]) -> Report:
    """Returns what the page shows.

    Args:
        found: What was found out.
        scores: The evaluation's sink, which has the pictures.
        document: What `evaluation.json` says.
    """
    codes, summed = found.codes, found.totals
    means = _mean_by_shard(found.scores)
    return Report(
        title=codes.uri.rpartition("/")[2] or codes.uri,
        counts=Counts(
            samples=summed.images,
            encoded=summed.good,
            rejected=summed.rejected_images,
            shards_done=summed.shards,
            shards_planned=len(codes.plan),
            is_complete=found.was_complete,
            bytes_per_image=summed.bytes_per_image,
            layout=codes.run.facts.codes,
            damaged=describe_losses(summed.to_dict()),
        ),
        identity=_identity(codes),
        quality=_quality(found, document),
        pictures=_pictures(found.scores, scores),
        code_counts=summed.histogram,
        drift=[
            Drift(
                shard=each.shard,
                distance=each.distance,
                samples=each.samples,
                psnr_db=means.get(each.shard),
            )
            for each in found.drift
        ],
        throughput=_throughput(codes.uri),
        rejections=_rejections(summed),
    )


def _identity(codes: EncodeSink) -> list[tuple[str, str]]:
    identity, facts = codes.run.identity, codes.run.facts
    versions = ", ".join(f"{name} {value}" for name, value in facts.versions.items())
    pixels = f"{identity.sizing}, {identity.resizing}, {identity.pixel_range} range"
    return [
        ("source", f"{identity.source} ({identity.format})"),
        ("sink", codes.uri),
        ("model", facts.model),
        ("model, SHA-256", identity.model_sha256),
        ("codebook", f"{facts.codebook_size:,} entries"),
        ("codes of an image", facts.codes.describe(" × ")),  # noqa: RUF001
        ("pixels", pixels),
        ("arithmetic", identity.dtype),
        ("fingerprint", codes.run.fingerprint),
        ("begun", facts.created),
        ("made with", versions),
    ]


def _quality(found: Evaluation, document: dict[str, Any]) -> Quality | None:
    if not len(found.scores):
        return None
    measured = [_metric(name, each) for name, each in document["metrics"].items()]
    return Quality(
        metrics=[each for each in measured if each is not None],
        samples=document["samples"],
        shards=document["shards"],
        picked="Shards and samples were picked by a hash of their names: the same on any machine.",
        psnr_db=_column(found.scores, "psnr_db").tolist(),
        flip_rate=found.unlike,
        rfid=found.rfid,
        notes=("L1 is the mean difference of two pixels, of 1 for white from black.", *found.notes),
    )


def _metric(name: str, said: dict[str, float]) -> Metric | None:
    if said["mean"] is None:
        return None
    ends = {"minimum": said["min"], "maximum": said["max"]}
    middle = {each: said[each] for each in ("mean", "std", "p05", "median", "p95")}
    return Metric(name=name, **ends, **middle)


def _mean_by_shard(scores: pa.Table) -> dict[str, float]:
    """Returns the mean PSNR of each shard's samples that differ from their originals."""
    finite = scores.filter(pa.array(np.isfinite(_column(scores, "psnr_db"))))
    grouped = finite.group_by("shard").aggregate([("psnr_db", "mean")])
    pairs = zip(grouped["shard"].to_pylist(), grouped["psnr_db_mean"].to_pylist(), strict=True)
    return dict(pairs)


def _pictures(scores: pa.Table, sink: EvaluateSink) -> Pictures:
    """Returns random, best and worst samples; the random ones are the same at every call."""
    order = np.argsort(_column(scores, "psnr_db"), kind="stable")
    spread = np.random.default_rng(0).permutation(len(scores))[:RANDOM]  # of a fixed order
    groups = {"random": spread, "best": order[::-1][:BEST], "worst": order[:WORST]}
    wanted = {int(place) for places in groups.values() for place in places}
    found = _read_pictures(scores, sink, wanted)
    return Pictures(**{name: [found[int(p)] for p in places] for name, places in groups.items()})


def _read_pictures(scores: pa.Table, sink: EvaluateSink, wanted: set[int]) -> dict[int, Picture]:
    """Returns the pictures of some rows of the scores."""
    rows = {place: scores.slice(place, 1).to_pylist()[0] for place in wanted}
    found = {}
    for shard in {row["shard"] for row in rows.values()}:
        uri = layout.data_uri(sink.uri, shard)
        stored = read_whole(uri, ["row", "original", "decoded"])
        images = {each["row"]: each for each in stored.to_pylist()}
        for place, row in rows.items():
            if row["shard"] == shard:
                found[place] = _picture(row, images[row["row"]])
    return found


def _picture(row: dict[str, Any], images: dict[str, Any]) -> Picture:
    height, width = size_of(images["original"])
    return Picture(
        key=row["key"],
        shard=row["shard"],
        original=images["original"],
        decoded=images["decoded"],
        width=width,
        height=height,
        psnr_db=row["psnr_db"],
        ssim=row["ssim"],
    )


def _throughput(sink: str) -> Throughput:
    """Returns how the last command on the codes went, as its summary says."""
    said = find_json(storage.join_uri(sink, "summary.json")) or {}
    points = [(float(seconds), int(images)) for seconds, images in said.get("throughput") or ()]
    seen = said.get("occupancy") or {}
    used, total = seen.get("gpu_memory_bytes"), seen.get("gpu_memory_total_bytes")
    return Throughput(
        points=points,
        bound_by=said.get("bound_by") or "",
        busy=[(part, float(seen[part])) for part in PARTS if part in seen],
        gpu=seen.get("gpu"),
        gpu_memory=(used, total) if used and total else None,
    )


def _rejections(found: Totals) -> list[Rejected]:
    return [
        Rejected(
            reason=reason,
            meaning=Reason(reason).meaning,
            count=count,
            examples=[_example(row) for row in found.examples.get(reason, ())],
        )
        for reason, count in found.reasons.most_common()
    ]


def _example(row: dict[str, Any]) -> Example:
    return Example(**{name: row[name] for name in ("key", "shard", "row", "message")})
