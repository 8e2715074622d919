"""How the time of a run was spent: what workers say, and what share of what there was it is.

Every worker says how many seconds it was at what, in the words that it has for the counter anyway;
whoever watches says how many seconds of cores and codecs there were meanwhile. Sums of both are a
`Spent`; the difference of two, over some seconds, an `Occupancy`.

    reads    reading | asking | held           one of them at any time, in every task that reads
    opens    opening images                    held against all cores
    codec    working                           held against all codecs
    commits  more finished rows than commits may be on their way: the codecs have to wait
"""

import operator
from dataclasses import dataclass
from typing import NamedTuple


class Spent(NamedTuple):
    """Seconds of all workers together, and what came of them; all of it adds up."""

    read_s: float = 0.0
    """Reading: waiting for the store, and taking apart what came."""
    read_wait_s: float = 0.0
    """Waiting for the store of the source; of requests at the same time, all of them."""
    asked_s: float = 0.0
    """Those who read waited for Ray: for what they share, and for the counter's word on a shard."""
    held_s: float = 0.0
    """Those who read waited for somebody to take what they had."""
    open_s: float = 0.0
    """Opening images, a core each."""
    codec_s: float = 0.0
    """Codecs at work on rows, by the clock of their processes."""
    device_s: float = 0.0
    """Of these, forwards on the device, by its own clock."""
    commit_s: float = 0.0
    """Committing."""
    commit_wait_s: float = 0.0
    """Of these, waiting for the store of the sink."""
    fetched_bytes: float = 0.0
    """Out of the store of the source."""
    fetches: float = 0.0
    """Requests for them; none on a disk."""
    written_bytes: float = 0.0
    """Into the store of the sink."""
    gpu_busy_s: float = 0.0
    """In which GPUs were at work by NVML, whoever had them do it."""
    gpu_seen_s: float = 0.0
    """For which NVML was asked."""
    core_s: float = 0.0
    """Of cores that there were."""
    codec_there_s: float = 0.0
    """Of codecs that there were."""
    full_s: float = 0.0
    """In which no more commits could begin, or nothing else was left to do."""
    seconds: float = 0.0
    """By the driver's clock."""

    def plus(self, other: "Spent") -> "Spent":
        """Returns both together."""
        return Spent(*map(operator.add, self, other))

    def minus(self, other: "Spent") -> "Spent":
        """Returns what came after another."""
        return Spent(*map(operator.sub, self, other))


class Setting(NamedTuple):
    """Where a run is."""

    kind: str
    """Of the codecs' devices, `cuda` or `cpu`."""
    opens: bool = True
    """Whether images are opened before the codec."""
    gpu_memory: tuple[int, int] | None = None
    """Most bytes of a GPU's memory in use, and bytes that it has; None if not known."""


@dataclass(frozen=True, kw_only=True)
class Occupancy:
    """How busy each part of a run was for some seconds; shares are of the time, in [0, 1]."""

    seconds: float
    images: int
    """That were through in them."""
    shards: int = 0
    """That were committed in them."""
    reading: float
    """Share of the time of those who read in which they did, of as many as were there at least one
    of at any time: the rest is waiting for who takes it, and for Ray."""
    reading_waits: float
    """Share of that in which they waited for the store."""
    opening: float | None
    """Share of the cores; None where no image is opened."""
    codec: float
    """Share of the codecs' time."""
    device: float | None
    """Share of it in which forwards ran on the device; None if it did not say."""
    committing: float
    """Share of the time in which no more commits could begin, so that codecs had to wait."""
    committing_waits: float
    """Share of the time of commits in which they waited for the store."""
    cores: float
    """That there were."""
    codecs: float
    """That there were."""
    kind: str
    """Of their devices, `cuda` or `cpu`."""
    fetched_bytes: float = 0.0
    fetches: float = 0.0
    """Requests for these; 0 on a disk."""
    fetch_s: float = 0.0
    """Seconds of these, added up."""
    written_bytes: float = 0.0
    gpu: float | None = None
    """Mean utilisation by NVML; None where it said nothing."""
    gpu_memory: tuple[int, int] | None = None
    """Most bytes of a GPU's memory in use, and bytes that it has."""

    @classmethod
    def of(
        cls,
        spent: Spent,
        seconds: float,
        place: Setting,
        *,
        images: int = 0,
        shards: int = 0,
    ) -> "Occupancy":
        """Returns what some seconds were spent on.

        Args:
            spent: In them.
            seconds: More than 0.
            place: Where.
            images: That were through.
            shards: That were committed.
        """
        readers = spent.read_s + spent.asked_s + spent.held_s
        return cls(
            seconds=seconds,
            images=images,
            shards=shards,
            reading=_share(spent.read_s, max(readers, seconds)),
            reading_waits=_share(spent.read_wait_s, spent.read_s),
            opening=_share(spent.open_s, spent.core_s) if place.opens else None,
            codec=_share(spent.codec_s, spent.codec_there_s),
            device=_share(spent.device_s, spent.codec_there_s) if spent.device_s else None,
            committing=_share(spent.full_s, seconds),
            committing_waits=_share(spent.commit_wait_s, spent.commit_s),
            cores=spent.core_s / seconds,
            codecs=spent.codec_there_s / seconds,
            kind=place.kind,
            fetched_bytes=spent.fetched_bytes,
            fetches=spent.fetches,
            fetch_s=spent.read_wait_s,
            written_bytes=spent.written_bytes,
            gpu=_share(spent.gpu_busy_s, spent.gpu_seen_s) if spent.gpu_seen_s else None,
            gpu_memory=place.gpu_memory,
        )

    @property
    def parts(self) -> dict[str, float]:
        """Occupancy of each part that there is, in the order in which rows go through them."""
        opening = {} if self.opening is None else {"opening": self.opening}
        return {"reading": self.reading, **opening, "codec": self.codec} | {
            "committing": self.committing
        }


def _share(part: float, whole: float) -> float:
    """Returns a part of a whole, in [0, 1]; clocks of several processes may add up to more."""
    return min(1.0, part / whole) if whole > 0 else 0.0
