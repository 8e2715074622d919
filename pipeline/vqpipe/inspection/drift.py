"""How far the codes of each shard are from those of the whole run, from the footers alone."""

from dataclasses import dataclass

from vqpipe import metrics
from vqpipe.schema import File
from vqpipe.sink import layout
from vqpipe.sink.footer import Footer, Histogram, read_footer
from vqpipe.sink.run import Sink
from vqpipe.sink.slot import Slot
from vqpipe.storage.ahead import map_ahead

_READERS = 32


@dataclass(frozen=True)
class Distance:
    """How far one shard is from the rest."""

    shard: str
    distance: float
    """Jensen-Shannon distance of the code distributions, 0 to 1."""
    samples: int
    """Encoded."""


def measure_drift(sink: Sink, total: Histogram) -> list[Distance]:
    """Returns the distance of every committed shard that has codes, the most distant first.

    A histogram is let go as soon as it is measured: a thousand of large codebooks take gigabytes.

    Args:
        sink: What to measure; objects of earlier versions of its shards are left out.
        total: How often each code occurs in the whole run.
    """
    places = {name: index for index, name in enumerate(sink.plan.names)}

    def measure(listed: tuple[str, File]) -> Distance | None:
        footer = read_footer(listed[1])
        is_current = Slot(sink, places[listed[0]]).is_current(footer)
        return _measure(footer, total) if is_current and footer.histogram.any() else None

    listed = [each for each in layout.list_committed(sink.uri).items() if each[0] in places]
    found = [each for each in map_ahead(measure, listed, _READERS) if each is not None]
    return sorted(found, key=lambda each: (-each.distance, each.shard))


def _measure(footer: Footer, total: Histogram) -> Distance:
    distance = metrics.jensen_shannon(footer.histogram, total)
    return Distance(footer.origin["shard"], distance, footer.origin["good"])
