"""How far the codes of each shard are from those of the whole run, from the footers alone."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pipeline import layout, metrics
from pipeline.footer import Footer, Histogram, read_footer
from pipeline.plan import Plan
from pipeline.schema import File

_READERS = 32


@dataclass(frozen=True)
class Distance:
    """How far one shard is from the rest."""

    shard: str
    distance: float
    """Jensen-Shannon distance of the code distributions, 0 to 1."""
    samples: int
    """Encoded."""


def measure_drift(sink: str, plan: Plan, total: Histogram) -> list[Distance]:
    """Returns the distance of every committed shard that has codes, the most distant first.

    Args:
        sink: Where the run is.
        plan: Its plan.
        total: How often each code occurs in the whole run.
    """
    names = set(plan.names)
    files = [file for name, file in layout.list_committed(sink).items() if name in names]
    found = (_measure(footer, total) for footer in _read(files) if footer.histogram.any())
    return sorted(found, key=lambda each: (-each.distance, each.shard))


def _read(files: list[File]) -> Iterator[Footer]:
    with ThreadPoolExecutor(_READERS) as pool:
        yield from pool.map(read_footer, files)


def _measure(footer: Footer, total: Histogram) -> Distance:
    distance = metrics.jensen_shannon(footer.histogram, total)
    return Distance(footer.origin["shard"], distance, footer.origin["good"])
