"""How far the codes of each shard are from those of the whole run, from the footers alone."""

from dataclasses import dataclass

from pipeline import layout, metrics
from pipeline.footer import Histogram, read_footer
from pipeline.plan import Plan
from pipeline.schema import File
from pipeline.threads import map_ahead

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

    A histogram is let go as soon as it is measured: a thousand of large codebooks take gigabytes.

    Args:
        sink: Where the run is.
        plan: Its plan.
        total: How often each code occurs in the whole run.
    """
    names = set(plan.names)
    files = [file for name, file in layout.list_committed(sink).items() if name in names]
    measured = map_ahead(lambda file: _measure(file, total), files, _READERS)
    found = [each for each in measured if each is not None]
    return sorted(found, key=lambda each: (-each.distance, each.shard))


def _measure(file: File, total: Histogram) -> Distance | None:
    """Returns the distance of one shard; None if it has no codes."""
    footer = read_footer(file)
    if not footer.histogram.any():
        return None
    distance = metrics.jensen_shannon(footer.histogram, total)
    return Distance(footer.origin["shard"], distance, footer.origin["good"])
