"""Numbers of a run that goes on, for Prometheus, by Ray's own exporter.

Ray puts `ray_` before their names, and tags of its own beside ours: the node, the process. The
driver emits what it learns, so that nothing counts twice where a worker dies; what only the codec
knows its actors emit. A local Ray collects no metrics: there all of this ends in the process.

What is named _total only grows, and a rate is a matter of who asks: `rate(...[1m])`. How busy a
part is, is what it spent of what there was:
`rate(vqpipe_busy_seconds_total) / rate(vqpipe_available_seconds_total)`, by `part`.
"""

import time
from collections import Counter as Multiset
from collections import deque
from collections.abc import Generator
from contextlib import closing
from typing import Any

from ray.util.metrics import Counter, Gauge, Histogram, Metric

from vqpipe.bottleneck import PARTS, find_bound
from vqpipe.engine.counter import Tally
from vqpipe.engine.watchdog import Tick
from vqpipe.occupancy import Occupancy, Setting, Spent

TAGS = ("stage", "run")
_BATCH_S = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0]
_EVERY_S = 1.0
_WINDOW_S, _STEP_S = 60.0, 5.0
"""Over what time it is told what binds, and how often that is noted."""


def tags_of(stage: str, fingerprint: str) -> dict[str, str]:
    """Returns the tags of all numbers of a run: which stage, and the start of its fingerprint."""
    return {"stage": stage, "run": fingerprint[:12]}


class _Numbers:
    """Numbers under one run's tags, made when they are first told."""

    def __init__(self, tags: dict[str, str]) -> None:
        self._tags = tags
        self._made: dict[str, Any] = {}

    def make(self, kind: type[Metric], name: str, *keys: str, **how: Any) -> Any:  # noqa: ANN401 (as of Ray's)
        """Returns a number, made if it is new."""
        if name not in self._made:
            made = kind(f"vqpipe_{name}", _SAID[name], tag_keys=(*TAGS, *keys), **how)
            self._made[name] = made.set_default_tags(self._tags)
        return self._made[name]

    def count(self, name: str, more: float, **tags: str) -> None:
        """Adds to what only grows."""
        number = self.make(Counter, name, *tags)
        if more > 0:
            number.inc(more, tags)

    def show(self, name: str, value: float, **tags: str) -> None:
        """Sets what goes up and down."""
        self.make(Gauge, name, *tags).set(value, tags)


def tell_along(
    ticks: Generator[Tick, None, None], tags: dict[str, str], place: Setting, shards: int
) -> Generator[Tick, None, None]:
    """Yields the ticks of a graph, and tells Ray's exporter what they say (`RunMetrics`)."""
    metrics, counts = RunMetrics(tags, place, shards), Tally()
    with closing(ticks):
        for tick in ticks:
            counts = tick.counts
            metrics.note(counts, tick.receipts.to_pylist() if tick.receipts else [])
            yield tick
    metrics.end(counts)


class RunMetrics:
    """What the driver tells of a run."""

    def __init__(self, tags: dict[str, str], place: Setting, shards: int) -> None:
        """Begins with nothing done.

        Args:
            tags: Of the run.
            place: Where it is.
            shards: That are to do.
        """
        self._numbers = _Numbers(tags)
        self._place = place
        self._left = shards
        self._images = self._aside = self._committed = 0
        self._before = Tally()
        self._told = -_EVERY_S
        self._past: deque[tuple[float, Spent, int, int]] = deque()

    def note(self, counts: Tally, receipts: list[dict[str, Any]]) -> None:
        """Tells what has been done since the last time.

        Args:
            counts: What workers have done so far.
            receipts: Of what became durable since (`commit.RECEIPT`).
        """
        for receipt in receipts:
            self._receive(receipt)
        now = time.monotonic()
        if receipts or now - self._told >= _EVERY_S:
            self._tell(counts)
            self._tell_bound(counts, now)
            self._told = now

    def end(self, counts: Tally) -> None:
        """Tells what came too soon after the last word, and is the end."""
        self._tell(counts)

    def _receive(self, receipt: dict[str, Any]) -> None:
        reasons = Multiset(receipt["reasons"])
        self._images += receipt["good"]
        self._aside += receipt["rejected"] + receipt["left_out"]
        self._numbers.count("images_total", receipt["good"])
        self._numbers.count("left_out_total", receipt["left_out"])
        for reason, count in reasons.items():
            self._numbers.count("rejections_total", count, reason=reason)
        if receipt["committed"] is not None:
            self._committed += 1
            self._numbers.count("committed_shards_total", 1)

    def _tell(self, counts: Tally) -> None:
        numbers, before, self._before = self._numbers, self._before, counts
        spent = counts.spent.minus(before.spent)
        numbers.count("read_samples_total", counts.read - before.read)
        numbers.count("opened_images_total", counts.opened - before.opened)
        numbers.count("encoded_images_total", counts.encoded - before.encoded)
        numbers.count("read_bytes_total", spent.fetched_bytes)
        numbers.count("written_bytes_total", spent.written_bytes)
        for part, (busy, there) in _times(spent, opens=self._place.opens).items():
            numbers.count("busy_seconds_total", busy, part=part)
            numbers.count("available_seconds_total", there, part=part)
        came = counts.opened if self._place.opens else counts.read
        numbers.show("queue_images", max(0, came - counts.encoded - self._aside))
        numbers.show("shards_left", max(0, self._left - self._committed))
        numbers.show("codecs", counts.codecs)

    def _tell_bound(self, counts: Tally, now: float) -> None:
        """Tells what bound the last minute: 1 for that part, 0 for all others."""
        if not self._past or now - self._past[-1][0] >= _STEP_S:
            self._past.append((now, counts.spent, self._images, self._committed))
        while len(self._past) > 2 and now - self._past[1][0] >= _WINDOW_S:
            self._past.popleft()
        then, spent, images, shards = self._past[0]
        bound = None
        if now > then and counts.encoded:
            seen = Occupancy.of(
                counts.spent.minus(spent),
                now - then,
                self._place,
                images=self._images - images,
                shards=self._committed - shards,
            )
            bound = find_bound(seen)
        for part in PARTS:
            self._numbers.show("bound", float(bool(bound and bound.part == part)), part=part)


def _times(spent: Spent, *, opens: bool) -> dict[str, tuple[float, float]]:
    """Returns seconds in which each part was busy, and how many there were for it."""
    readers = spent.read_s + spent.asked_s + spent.held_s
    return {
        "reading": (spent.read_s, max(readers, spent.seconds)),
        **({"opening": (spent.open_s, spent.core_s)} if opens else {}),
        "codec": (spent.codec_s, spent.codec_there_s),
        "committing": (spent.full_s, spent.seconds),
    }


class CodecMetrics:
    """What a codec's actor tells."""

    def __init__(self, tags: dict[str, str]) -> None:
        self._numbers = _Numbers(tags)
        self._batch = self._numbers.make(Histogram, "batch_seconds", boundaries=_BATCH_S)

    def time_batch(self, seconds: float) -> None:
        """Tells how long a batch took, from the one before it to its results."""
        self._batch.observe(max(seconds, 0.0))

    def show_gpu(self, utilisation: float | None, memory: tuple[int, int] | None) -> None:
        """Tells of the GPU what is known: the share of time that it worked, bytes in use."""
        if utilisation is not None:
            self._numbers.show("gpu_utilization_ratio", utilisation)
        if memory:
            self._numbers.show("gpu_memory_peak_bytes", memory[0])
            self._numbers.show("gpu_memory_size_bytes", memory[1])


_SAID = {
    "images_total": "Images that are safe in the sink.",
    "rejections_total": "Samples that were rejected, by reason.",
    "left_out_total": "Samples that were left out by --where.",
    "read_samples_total": "Samples read from the source.",
    "opened_images_total": "Images opened; those of a task that is tried again count again.",
    "encoded_images_total": "Images through a codec; those of one that dies count again.",
    "read_bytes_total": "Bytes that came out of the store of the source.",
    "written_bytes_total": "Bytes that went into the store of the sink.",
    "committed_shards_total": "Shards committed by this command.",
    "shards_left": "Shards that this command has to commit yet.",
    "queue_images": "Images, about, that are opened and wait for a codec.",
    "codecs": "Codecs that have been at work.",
    "busy_seconds_total": "Seconds in which a part of the run was busy.",
    "available_seconds_total": "Seconds that there were for it.",
    "bound": "1 for the part that bound the last minute, 0 for the others.",
    "batch_seconds": "Seconds of a batch in a codec.",
    "gpu_utilization_ratio": "Share of the time in which the codec's GPU worked, by NVML.",
    "gpu_memory_peak_bytes": "Most bytes of that GPU's memory in use, by NVML.",
    "gpu_memory_size_bytes": "Bytes of memory that the GPU has, by NVML.",
}
