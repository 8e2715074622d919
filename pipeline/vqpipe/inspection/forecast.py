"""What a run will take, by arithmetic from what was measured on a few of its images.

    images   x  share that opens  x  views             ->  rows
    rows     x  seconds a view on the device           ->  seconds of devices
    images   x  seconds a core for opening, reading .. ->  seconds of cores
    the longest of: devices, cores, streams of the store, shards through the driver  ->  wall time

Nothing is read here, and nothing is known of this machine: numbers in, numbers out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vqpipe.inspection.requests import Load, Requests, count_sink, count_source
from vqpipe.stages.census import Census
from vqpipe.stages.measured import Measured, StartUp

OVERHEAD = 1.18
"""Seconds of cores for one of opening: Ray hands blocks from process to process (3.14 ms of a core
an image, 2.66 of them opening; tests/benchmarks/RESULTS.md, "Whole pipeline")."""
GATHER_S = 5.0
"""Seconds after which finished rows are committed, whether their shard is whole or not."""


@dataclass(frozen=True)
class Prices:
    """What things cost, in any currency; None of what nobody said."""

    gpu_hour: float | None = None
    core_hour: float | None = None
    reads: float | None = None
    """1,000 requests that are billed as GET."""
    writes: float | None = None
    """1,000 requests that are billed as PUT."""
    gb_month: float | None = None


@dataclass(frozen=True)
class Work:
    """What a run has to do."""

    census: Census
    format: str
    files: int
    """That shards are made of: single images of a folder, else one a shard."""


@dataclass(frozen=True)
class Amounts:
    """How much there is of everything, wherever it runs."""

    images: int
    """Left to do."""
    good: int
    """Of these, how many become rows."""
    rows: int
    device_s: float | None
    """Seconds of one device; None where nothing was measured."""
    opening_s: float
    """Seconds of one core."""
    writing_s: float
    reading_s: float
    """Seconds that one stream from the store takes, waiting included."""
    cores_s: float
    """Seconds of one core for all but the codec, Ray's own included."""
    bytes_read: int
    bytes_written: int | None

    @property
    def cores_per_device(self) -> float | None:
        """Cores that keep one device busy."""
        return self.cores_s / self.device_s if self.device_s else None


def add_up(work: Work, measured: Measured) -> Amounts:
    """Returns how much there is of everything."""
    images, opening = work.census.images, measured.opening
    good = round(images * opening.good / max(1, opening.images))
    rows, shards = good * measured.views, work.census.shards
    coding, writing = measured.coding, measured.writing
    audited = min(rows, shards + coding.audit_share * good) if coding and coding.audit_share else 0
    device_s = rows * coding.view_s + audited * coding.audit_s if coding else None
    opening_s = images * opening.core_s
    writing_s = rows * writing.row_s + shards * writing.object_s if writing else 0.0
    reading = measured.reading
    core_s = reading.core_s / max(1, reading.images) * images
    size = rows * writing.row_bytes + shards * writing.object_bytes if writing else None
    return Amounts(
        images=images,
        good=good,
        rows=rows,
        device_s=device_s,
        opening_s=opening_s,
        writing_s=writing_s,
        reading_s=images * reading.seconds / max(1, reading.images),
        cores_s=OVERHEAD * (opening_s + core_s + writing_s),
        bytes_read=work.census.size,
        bytes_written=None if size is None else round(size),
    )


@dataclass(frozen=True)
class Run:
    """A run on so many devices."""

    devices: int
    kind: str
    cores: int
    start_s: float | None
    """From the prompt until images are encoded, and from the last one until it is back; None where
    it was not measured."""
    work_s: float
    """Between these."""
    bound_by: str
    """`opening`, `codec`, `storage` or `scheduling`: what takes all of that time."""
    limits: dict[str, float]
    """Seconds that each of them would take by itself."""

    @property
    def wall_s(self) -> float:
        """Seconds of all of it, as far as it is known."""
        return self.work_s + (self.start_s or 0.0)


def run_on(
    amounts: Amounts, measured: Measured, shards: int, devices: int, cores: int | None
) -> Run | None:
    """Returns the run on so many devices of the kind that was measured; None where none was.

    Args:
        amounts: What there is to do.
        measured: On a few images.
        shards: Left to do.
        devices: That codecs are on.
        cores: Of all machines together; None is as many as keep the devices busy.
    """
    coding = measured.coding
    if coding is None or amounts.device_s is None:
        return None
    busy = max(1, math.ceil((amounts.cores_per_device or 0) * devices))
    is_cpu = coding.kind == "cpu"
    cores = cores or (measured.cores if is_cpu else busy)
    limits = {
        "opening": amounts.cores_s / cores,
        "codec": amounts.device_s / devices,
        "storage": amounts.reading_s / cores,
    }
    if measured.driver_shard_s is not None:
        limits["scheduling"] = shards * measured.driver_shard_s
    bound_by = max(limits, key=limits.__getitem__)
    work_s = limits[bound_by]
    if is_cpu:  # the codec takes the same cores, one image at a time
        work_s = max(work_s, limits["opening"] + limits["codec"])
    start_s = start_of(measured, amounts, work_s)
    return Run(devices, coding.kind, cores, start_s, work_s, bound_by, limits)


def start_of(measured: Measured, amounts: Amounts, work_s: float) -> float | None:
    """Returns seconds that a run takes besides its images."""
    start = measured.start_up
    if start is None:
        return None
    image_s = work_s / max(1, amounts.images)
    return measured.command_s + start.ready_s + _slack(start, image_s) + (start.end_s or 0)


def _slack(start: StartUp, image_s: float) -> float:
    """Returns what the rehearsal's images took beyond their time: pipes that fill and run empty."""
    return max(0.0, start.work_s - start.images * image_s)


def load_of(work: Work, amounts: Amounts, measured: Measured, run: Run | None) -> Load:
    """Returns what a run has to do as its stores see it."""
    shards = work.census.shards
    bad = 1 - measured.opening.good / max(1, measured.opening.images)
    each = amounts.images / max(1, shards)
    asides = round(shards * (1 - (1 - bad) ** each)) if bad else 0
    ranges = _ranges_of(shards, run)
    return Load(
        format=work.format,
        shards=shards,
        files=work.files,
        size=work.census.size,
        asides=asides,
        ranges=ranges * shards,
        staged_shards=shards if ranges else 0,
    )


def _ranges_of(shards: int, run: Run | None) -> int:
    """Returns in about how many pieces a shard's rows become safe; 0 where it is whole at once.

    As many shards are on their way at a time as cores open images, and every few seconds what has
    come of each is committed.
    """
    if run is None or not shards:
        return 0
    shard_s = run.work_s / shards * min(run.cores, shards)
    return 0 if shard_s <= GATHER_S else math.ceil(shard_s / GATHER_S)


def requests_of(load: Load, *, source: bool, sink: bool) -> Requests:
    """Returns the requests to the stores that are asked, and billed.

    Args:
        load: What there is to do.
        source: Whether the source is in a store.
        sink: Whether the sink is.
    """
    found = count_source(load) if source else Requests()
    return found + count_sink(load) if sink else found


def cost_of(
    prices: Prices, run: Run | None, requests: Requests, bytes_written: int | None
) -> dict[str, float]:
    """Returns what a run costs, by what for, as far as there are prices."""
    hours = run.wall_s / 3600 if run else 0.0
    gpus = run.devices * hours if run and run.kind == "cuda" else None
    stored = bytes_written / 1e9 if bytes_written is not None else None
    amounts = {
        "gpu": (gpus, prices.gpu_hour),
        "cpu": (run.cores * hours if run else None, prices.core_hour),
        "get": (requests.reads / 1000, prices.reads),
        "put": (requests.writes / 1000, prices.writes),
        "storage_month": (stored, prices.gb_month),
    }
    return {
        name: amount * price
        for name, (amount, price) in amounts.items()
        if amount is not None and price is not None
    }


@dataclass(frozen=True)
class Option:
    """A run on so many devices, and what it asks of its stores and costs."""

    run: Run | None
    """None where no device was measured."""
    requests: Requests
    cost: dict[str, float]
    """By what for, as far as there are prices."""


@dataclass(frozen=True)
class Outlook:
    """What a run would take."""

    work: Work
    measured: Measured
    amounts: Amounts
    options: tuple[Option, ...]
    unmeasured_gpus: tuple[int, ...]
    """For how many GPUs nothing can be told, since none was there to measure on."""


def foresee(
    work: Work,
    measured: Measured,
    gpus: Sequence[int],
    cores: int | None,
    paid: tuple[Prices, tuple[bool, ...]],
) -> Outlook:
    """Returns what a run would take.

    Args:
        work: What it has to do.
        measured: On a few images.
        gpus: For how many GPUs to tell the time; none is as many as there are.
        cores: Beside these.
        paid: What things cost, and whether source and sink are in stores.
    """
    amounts, coding = add_up(work, measured), measured.coding
    has_gpu = coding is not None and coding.kind == "cuda"
    counts = tuple(gpus) if has_gpu and gpus else (coding.devices if coding else 1,)
    own = cores if has_gpu and gpus else cores or measured.cores
    runs = [run_on(amounts, measured, work.census.shards, each, own) for each in counts]
    options = tuple(_option(work, amounts, measured, run, paid) for run in runs)
    return Outlook(work, measured, amounts, options, () if has_gpu else tuple(gpus))


def _option(
    work: Work,
    amounts: Amounts,
    measured: Measured,
    run: Run | None,
    paid: tuple[Prices, tuple[bool, ...]],
) -> Option:
    prices, (source, sink) = paid
    requests = requests_of(load_of(work, amounts, measured, run), source=source, sink=sink)
    return Option(run, requests, cost_of(prices, run, requests, amounts.bytes_written))
