"""What each part of the page says: the facts worked out, still without any markup."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vqpipe import metrics
from vqpipe.metrics import Histogram
from vqpipe.report import charts
from vqpipe.report.charts import Chart
from vqpipe.report.facts import Counts, Drift, Metric, Quality, Rejected, Report, Throughput
from vqpipe.report.formats import count, counted, fixed, rough, share

MOST_DRIFTED = 10
_MOST_REASONS, _MOST_EXAMPLES = 20, 5

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Figure:
    """One number of the header."""

    label: str
    value: str
    unit: str
    note: str


@dataclass(frozen=True)
class Measure:
    """A metric as a column of the table."""

    label: str
    unit: str
    values: Sequence[str]
    """In the order of `STATISTICS`."""


STATISTICS = (
    ("mean", "mean"),
    ("std", "standard deviation"),
    ("minimum", "lowest"),
    ("p05", "5th percentile"),
    ("median", "median"),
    ("p95", "95th percentile"),
    ("maximum", "highest"),
)
"""Fields of a metric, with their names on the page."""

_LABELS = {
    "psnr_db": ("PSNR", "dB", "higher", 2),
    "ssim": ("SSIM", "", "higher", 4),
    "l1": ("L1", "", "lower", 4),
    "lpips": ("LPIPS", "", "lower", 4),
}
"""Label, unit, what is better, and decimals of the metrics that are known."""


@dataclass(frozen=True)
class QualitySection:
    """Distances to the originals."""

    summary: str
    legend: str
    """A sentence: which metrics are better when higher, which when lower."""
    measures: Sequence[Measure]
    extras: Sequence[tuple[str, str]]
    """Single numbers: label and value."""
    notes: Sequence[str]
    chart: Chart | None


@dataclass(frozen=True)
class CodebookSection:
    """Use of the codebook."""

    figures: Sequence[tuple[str, str, str]]
    """Label, value, and what it means."""
    chart: Chart


@dataclass(frozen=True)
class DriftSection:
    """Differences between shards."""

    chart: Chart | None
    worst: Sequence[Drift]


@dataclass(frozen=True)
class RejectionSection:
    """What was rejected."""

    summary: str
    groups: Sequence[Rejected]
    hidden: int
    """Reasons that are not listed."""


def describe_state(counts: Counts) -> str:
    """Returns how far the run is, in a line."""
    done, planned = count(counts.shards_done), count(counts.shards_planned)
    if counts.is_complete:
        return f"all {done} shards committed" if counts.shards_done != 1 else "one shard, committed"
    if counts.shards_done < counts.shards_planned:
        return f"{done} of {planned} shards committed"
    return f"{done} of {planned} shards committed, not marked complete yet"


def describe_outcome(counts: Counts) -> str:
    """Returns what became of the images, in a sentence or two."""
    if not counts.samples:
        return "No image has been through yet."
    codes = f"{rough(counts.encoded * counts.codes_per_image)} codes, "
    made = f"{count(counts.encoded)} of {count(counts.samples)} images became {codes}"
    shape = counts.layout.describe("\xa0×\xa0")  # noqa: RUF001
    said = f"in a grid of {shape}" if counts.layout.kind == "grid" else shape
    each = f"{count(counts.codes_per_image)} an image, {said}."
    return made + each


def list_figures(report: Report) -> list[Figure]:
    """Returns the numbers of the header: those that say how good the codes are."""
    figures = _quality_figures(report.quality) if report.quality else []
    counts, codes = report.counts, report.code_counts
    if codes.any():
        dead = len(codes) - np.count_nonzero(codes)
        usage = metrics.codebook_usage(codes)
        note = f"{count(int(dead))} of {count(len(codes))} codes dead"
        figures.append(Figure("Codebook in use", share(usage), "", note))
    if counts.samples:
        rejected = share(counts.rejected / counts.samples)
        note = f"{count(counts.rejected)} of {count(counts.samples)} images"
        figures.append(Figure("Rejected", rejected, "", note))
    if counts.encoded:
        note = f"an image of {count(counts.codes_per_image)} codes"
        figures.append(Figure("Stored", fixed(counts.bytes_per_image, 0), "bytes", note))
    return figures


def _quality_figures(quality: Quality) -> list[Figure]:
    known = {metric.name: metric for metric in quality.metrics}
    return [
        _quality_figure(known[name], digits)
        for name, digits in (("psnr_db", 1), ("ssim", 3), ("lpips", 3))
        if name in known
    ]


def _quality_figure(metric: Metric, digits: int) -> Figure:
    """Returns the mean, or the median where identical images make the mean infinite."""
    label, unit, *_ = _LABELS[metric.name]
    name = "mean" if math.isfinite(metric.mean) else "median"
    value = fixed(getattr(metric, name), digits)
    low, high = fixed(metric.p05, digits), fixed(metric.p95, digits)
    note = f"90% within {low}–{high}" if low != high else "nearly all alike"  # noqa: RUF001
    return Figure(f"{name.capitalize()} {label}", value, unit, note)


def describe_quality(quality: Quality) -> QualitySection:
    """Returns the table of metrics and the histogram of PSNR."""
    values = np.asarray(quality.psnr_db, np.float64)
    finite = values[np.isfinite(values)]
    extras = []
    if quality.rfid is not None:
        extras.append(("rFID", fixed(quality.rfid, 2)))
    if quality.flip_rate is not None:
        extras.append(("codes that differ from float32's", share(quality.flip_rate)))
    images, shards = counted(quality.samples, "image"), counted(quality.shards, "shard")
    were = "was" if quality.samples == 1 else "were"
    return QualitySection(
        f"{images} of {shards} {were} decoded again and compared with the original.",
        _describe_directions([metric.name for metric in quality.metrics]),
        [_describe_metric(metric) for metric in quality.metrics],
        extras,
        [*quality.notes, *_remark(values)],
        charts.psnr_histogram(finite) if len(finite) else None,
    )


def _describe_directions(names: Sequence[str]) -> str:
    labels: dict[str, list[str]] = {"higher": [], "lower": []}
    for name in names:
        if name in _LABELS:
            label, _, better, _ = _LABELS[name]
            labels[better].append(label)
    first, *rest = [(better, " and ".join(named)) for better, named in labels.items() if named] or [
        ("", "")
    ]
    also = "".join(f", {better} for {named}" for better, named in rest)
    return f"{first[0].capitalize()} is better for {first[1]}{also}." if first[0] else ""


def _describe_metric(metric: Metric) -> Measure:
    label, unit, _, digits = _LABELS.get(metric.name, (metric.name, "", "", 4))
    values = [fixed(getattr(metric, field), digits) for field, _ in STATISTICS]
    return Measure(label, unit, values)


def _remark(psnr_db: Floats) -> list[str]:
    """Returns sentences on the values that a histogram cannot show."""
    equal, odd = int(np.isposinf(psnr_db).sum()), int(np.isnan(psnr_db).sum())
    remarks = []
    if equal == 1:
        remarks.append("1 reconstruction equals its original: its PSNR is infinite.")
    elif equal:
        remarks.append(f"{count(equal)} reconstructions equal their originals: PSNR is infinite.")
    if odd:
        remarks.append(f"PSNR could not be measured of {counted(odd, 'image')}.")
    return remarks


def describe_codebook(code_counts: Histogram) -> CodebookSection | None:
    """Returns the use of the codebook; None if no code has been counted."""
    total, size = int(code_counts.sum()), len(code_counts)
    if not total:
        return None
    used = int(np.count_nonzero(code_counts))
    perplexity = metrics.perplexity(code_counts)
    figures = [
        ("in use", share(used / size), f"{count(used)} of {count(size)} codes occur"),
        ("dead", count(size - used), f"{share(1 - used / size)} of all never occur"),
        ("perplexity", fixed(perplexity, 1), f"{share(perplexity / size)} of the codebook's size"),
        ("entropy", *_describe_entropy(perplexity, size)),
        *_list_frequent(code_counts, total),
    ]
    return CodebookSection(figures, charts.rank_frequency(code_counts))


def _describe_entropy(perplexity: float, size: int) -> tuple[str, str]:
    return (
        f"{fixed(math.log2(perplexity), 2)} bits",
        f"a code, of {fixed(math.log2(size), 2)} at most",
    )


def _list_frequent(code_counts: Histogram, total: int) -> Iterator[tuple[str, str, str]]:
    first = int(code_counts.argmax())
    top = len(code_counts) // 100
    if top > 1:
        most = int(np.sort(code_counts)[-top:].sum()) / total
        note = f"of the stored codes are one of these {count(top)}"
        yield "most frequent 1%", share(most), note
    most = int(code_counts[first]) / total
    yield "most frequent code", share(most), f"of the stored codes are code {first}"


def describe_drift(drift: Sequence[Drift]) -> DriftSection:
    """Returns the curve of all shards and the few that are furthest from the whole."""
    known = sorted(
        (each for each in drift if math.isfinite(each.distance)),
        key=lambda each: (-each.distance, each.shard),
    )
    if len(known) < 2:
        return DriftSection(None, known)
    chart = charts.drift_curve(np.array([each.distance for each in known]))
    return DriftSection(chart, known[:MOST_DRIFTED])


def describe_busy(throughput: Throughput) -> list[tuple[str, str, str]]:
    """Returns label, value and note of each part of the run, and of its GPUs."""
    found = [(part, f"{share:.0%}", _BUSY_OF.get(part, "")) for part, share in throughput.busy]
    if throughput.gpu is not None:
        found.append(("GPU", f"{throughput.gpu:.0%}", "by NVML"))
    if throughput.gpu_memory:
        used, total = (each / 2**30 for each in throughput.gpu_memory)
        found.append(("GPU memory", f"{used:,.1f} GiB", f"at most, of {total:,.1f} GiB"))
    return found


_BUSY_OF = {
    "reading": "of the time of those who read",
    "opening": "of the cores",
    "codec": "of the codecs' time",
    "committing": "of the time none could begin",
}
"""What the share of each part is one of."""


def describe_throughput(throughput: Throughput) -> Chart | None:
    """Returns the rate over time; None if there are too few points to tell one."""
    points = np.array([point for point in throughput.points if math.isfinite(point[0])])
    if len(points) < 2:
        return None
    seconds, first = np.unique(points[:, 0], return_index=True)
    images = np.maximum.accumulate(points[:, 1])[first]
    return charts.rate_curve(seconds, images) if len(seconds) > 1 else None


def describe_rejections(counts: Counts, rejections: Sequence[Rejected]) -> RejectionSection:
    """Returns the reasons, the most frequent first."""
    ordered = sorted(rejections, key=lambda each: (-each.count, each.reason))
    shown = [
        Rejected(
            reason=each.reason,
            meaning=each.meaning,
            count=each.count,
            examples=each.examples[:_MOST_EXAMPLES],
        )
        for each in ordered[:_MOST_REASONS]
    ]
    return RejectionSection(_describe_rejected(counts), shown, len(ordered) - len(shown))


def _describe_rejected(counts: Counts) -> str:
    if not counts.samples:
        return "No image has been through yet, so none was rejected."
    if not counts.rejected and counts.is_complete:
        return "Nothing was rejected: every image has its codes."
    if not counts.rejected:
        return "Nothing has been rejected so far."
    were = "was" if counts.rejected == 1 else "were"
    part = share(counts.rejected / counts.samples)
    images = counted(counts.rejected, "image")
    hidden = f" Of these, {counts.damaged}." if counts.damaged else ""
    return f"{images} {were} rejected, {part} of all; everything else has its codes.{hidden}"
