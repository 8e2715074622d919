"""The page's four charts, as places in percent of a plot whose corner (0, 0) is top left.

A template draws them (`templates/chart.html`). Percentages, and not pixels, let a chart be as wide
as the screen while its letters keep their size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vqpipe.metrics import Histogram
from vqpipe.report.formats import count, counted, fixed
from vqpipe.report.scales import Scale, Tick, decades, from_zero, nice_step, ticks

CURVE_POINTS = 240
"""Most points of a curve: what a screen can show, and a few kilobytes."""
RATE_BINS = 60
FEW_SHARDS = 50
"""Up to so many, each shard is a stair of its own."""
_UNITS = ((3 * 86400, 86400, "days"), (3 * 3600, 3600, "hours"), (180, 60, "minutes"))

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A rectangle, in percent of the plot, and what it stands for."""

    x: float
    y: float
    width: float
    height: float
    title: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A plot with its axes."""

    name: str
    """Unique on the page."""
    title: str
    description: str
    """What it shows, for those who cannot see it."""
    legend: str
    """Sentences: what its dashed line and its shade stand for."""
    x_label: str
    y_label: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    bars: Sequence[Bar] = ()
    line: str = ""
    """Path of a curve, in a square of 1,000 by 1,000."""
    upright: float | None = None
    """Percent from the left: where a dashed line stands."""
    level: float | None = None
    """Percent from the top: where a dashed line lies."""
    shade: float | None = None
    """Percent: where the plot is shaded from to its right end."""


def psnr_histogram(psnr_db: Floats) -> Chart:
    """Returns how many images have which PSNR.

    Args:
        psnr_db: Finite values in dB; at least one.
    """
    low, high = float(psnr_db.min()), float(psnr_db.max())
    edges = _bin_edges(psnr_db, low, high)
    counts = np.histogram(psnr_db, edges)[0]
    x, (y, y_ticks) = Scale(edges[0], edges[-1]), from_zero(float(counts.max()), whole=True)
    median = float(np.median(psnr_db))
    digits = 0 if edges[1] - edges[0] >= 1 else 2
    bars = [
        Bar(
            x=x.place(left),
            y=100 - y.place(number),
            width=x.place(right) - x.place(left),
            height=y.place(number),
            title=f"{fixed(left, digits)} to {fixed(right, digits)} dB: {count(number)}",
        )
        for left, right, number in zip(edges, edges[1:], counts.tolist(), strict=False)
        if number
    ]
    return Chart(
        name="psnr",
        title="Histogram of PSNR",
        description=f"{counted(len(psnr_db), 'image')} between {fixed(low, 2)} and "
        f"{fixed(high, 2)} dB; the median is {fixed(median, 2)} dB.",
        legend=f"Dashed: the median, {fixed(median, 2)} dB.",
        x_label="PSNR in dB",
        y_label="images",
        x_ticks=ticks(x, nice_step(x.high - x.low, 8)),
        y_ticks=y_ticks,
        bars=bars,
        upright=x.place(median),
    )


def _bin_edges(values: Floats, low: float, high: float) -> Floats:
    """Returns edges at round values, of bins as wide as their number makes sensible.

    The width is Freedman's and Diaconis', https://doi.org/10.1007/BF01025868, rounded.
    """
    quarter, three_quarters = np.percentile(values, [25, 75])
    ideal = 2 * (three_quarters - quarter) / len(values) ** (1 / 3)
    span = high - low
    step = nice_step(min(max(ideal, span / 50), span / 8), 1, 0.1)
    first, last = np.floor(low / step), np.floor(high / step) + 1
    return np.asarray(np.arange(first, last + 1) * step)


def rank_frequency(code_counts: Histogram) -> Chart:
    """Returns how often codes occur, the most frequent first, both axes logarithmic.

    Args:
        code_counts: (codebook size,) with at least one code that occurs.
    """
    size, total = len(code_counts), int(code_counts.sum())
    used = np.sort(code_counts[code_counts > 0])[::-1]
    least, most = float(np.log10(used[-1])), float(np.log10(used[0]))
    x = Scale(1, max(size, 10), is_log=True)
    y = Scale(10 ** np.floor(least), 10 ** (np.floor(most) + 1), is_log=True)
    dead, even = size - len(used), total / size
    legend = []
    if even >= y.low:
        legend.append(f"Dashed: {fixed(even, _digits(even))} times each, were all used evenly.")
    if dead:
        legend.append(f"Shaded: {count(dead)} dead codes.")
    return Chart(
        name="ranks",
        title="How often each code occurs",
        description=f"Codes by rank, both axes logarithmic: the most frequent occurs "
        f"{count(int(used[0]))} times, the rarest used one {count(int(used[-1]))} times; "
        f"{count(dead)} of {count(size)} never occur.",
        legend=" ".join(legend),
        x_label="rank of the code",
        y_label="times it occurs",
        x_ticks=decades(x),
        y_ticks=decades(y),
        line=_path(_ranked(x, y, used)),
        level=100 - y.place(even) if even >= y.low else None,
        shade=x.place(len(used)) if dead else None,
    )


def drift_curve(distances: Floats) -> Chart:
    """Returns the distance of each shard, the largest first.

    Args:
        distances: At least one, 0 to 1, in any order.
    """
    ordered = np.sort(distances)[::-1]
    number, median = len(ordered), float(np.median(ordered))
    y, y_ticks = from_zero(max(float(ordered[0]), 0.01))
    if number > FEW_SHARDS:  # a logarithmic axis gives the few that stand out most of the room
        x = Scale(1, number, is_log=True)
        x_ticks, places = decades(x), _ranked(x, y, ordered)
    else:
        x = Scale(0, number)
        x_ticks, places = ticks(x, nice_step(number, 6, 1.0)), _steps(x, y, ordered)
    return Chart(
        name="drift",
        title="Drift of each shard",
        description=f"Jensen-Shannon distance of {count(number)} shards, the largest first: "
        f"from {fixed(float(ordered[0]), 3)} down to {fixed(float(ordered[-1]), 3)}; "
        f"the median is {fixed(median, 3)}.",
        legend=f"Dashed: the median, {fixed(median, 3)}.",
        x_label="shards, the most drifted first",
        y_label="distance to the whole run",
        x_ticks=x_ticks,
        y_ticks=y_ticks,
        line=_path(places),
        level=100 - y.place(median),
    )


def rate_curve(seconds: Floats, images: Floats) -> Chart:
    """Returns images per second over time, the mean of each of up to 60 equal stretches.

    Args:
        seconds: (points,), increasing, at least two.
        images: (points,) done until then, never decreasing.
    """
    bins = min(RATE_BINS, len(seconds) - 1)
    edges = np.linspace(seconds[0], seconds[-1], bins + 1)
    rates = np.diff(np.interp(edges, seconds, images)) / np.diff(edges)
    mean = float((images[-1] - images[0]) / (seconds[-1] - seconds[0]))
    y, y_ticks = from_zero(max(float(rates.max()), 1e-3))
    _, unit, word = next((each for each in _UNITS if edges[-1] > each[0]), (0, 1, "seconds"))
    x = Scale(seconds[0] / unit, seconds[-1] / unit)
    digits = _digits(mean)
    return Chart(
        name="rate",
        title="Throughput of the last command",
        description=f"{counted(round(float(images[-1])), 'image')} in "
        f"{fixed(float(seconds[-1]), 0)} seconds: {fixed(mean, digits)} a second on average, "
        f"{fixed(float(rates.max()), digits)} at most, "
        f"{fixed(float(rates.min()), digits)} at least.",
        legend=f"Dashed: the mean, {fixed(mean, digits)} images per second.",
        x_label=f"{word} since its start",
        y_label="images per second",
        x_ticks=ticks(x, nice_step(x.high - x.low, 7)),
        y_ticks=y_ticks,
        line=_path(_steps(x, y, rates)),
        level=100 - y.place(mean),
    )


def _digits(value: float) -> int:
    return 0 if value >= 100 else 1 if value >= 1 else 3


def _ranked(x: Scale, y: Scale, ordered: Floats | Histogram) -> list[tuple[float, float]]:
    """Returns a curve of values by rank, from 1, with points as far apart on a logarithmic axis."""
    ranks = np.unique(np.geomspace(1, len(ordered), CURVE_POINTS).round().astype(np.int64))
    return [(x.place(rank), y.place(float(ordered[rank - 1]))) for rank in ranks.tolist()]


def _steps(x: Scale, y: Scale, values: Floats) -> list[tuple[float, float]]:
    """Returns the corners of stairs, one stair a value, in percent from the lower left."""
    edges = np.linspace(x.low, x.high, len(values) + 1).tolist()
    return [
        (x.place(edge), y.place(value))
        for left, right, value in zip(edges, edges[1:], values.tolist(), strict=False)
        for edge, value in ((left, value), (right, value))
    ]


def _path(places: list[tuple[float, float]]) -> str:
    return "L".join(f"{10 * x:.0f} {1000 - 10 * y:.0f}" for x, y in places)
