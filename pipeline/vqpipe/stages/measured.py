"""What was measured on a few images before a run: plain numbers, of which a forecast is made."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Reading:
    """What it took to read some images, one after the other."""

    images: int
    size: int
    """Bytes of them as they are stored."""
    shards: int
    """That they are of."""
    seconds: float
    core_s: float
    """Seconds of a core that this took; the rest was waiting."""


@dataclass(frozen=True)
class Opening:
    """What it took to open some images."""

    images: int
    """Samples that were looked at."""
    good: int
    """Of these, how many opened."""
    left_out: int
    """Of these, how many a condition leaves out."""
    opened: int
    """How many were opened in all, the same ones again among them."""
    core_s: float
    """Seconds of a core for one sample, while all the cores were at work."""
    cores: int
    """How many these were."""

    @property
    def rejected(self) -> int:
        """Samples that were rejected."""
        return self.images - self.good - self.left_out


@dataclass(frozen=True)
class Coding:
    """What it took to encode some views."""

    device: str
    """As a person calls it."""
    kind: str
    """`cuda` or `cpu`."""
    devices: int
    """Of that kind on the machine or cluster."""
    views: int
    """That were encoded, the same ones again among them."""
    view_s: float
    """Seconds of the device for one view, batches being full."""
    audit_s: float
    """Seconds more for one that is looked at twice."""
    audit_share: float
    """Of images that are."""
    warm_up_s: float
    """Seconds to load the weights, to compile and to choose kernels."""
    batch_size: int


@dataclass(frozen=True)
class Writing:
    """What rows became in memory, as a commit makes objects of them."""

    rows: int
    row_bytes: float
    """Of one more row in an object."""
    object_bytes: float
    """Of an object besides its rows: schema, footer, histogram, dictionary."""
    row_s: float
    """Seconds of a core for one more row."""
    object_s: float
    """Seconds of a core for an object besides."""


@dataclass(frozen=True)
class StartUp:
    """What a run of a few images took besides its images."""

    ready_s: float
    """From the start of Ray to the first codec that was ready."""
    work_s: float
    """From then to the last commit."""
    end_s: float | None
    """From then until Ray had ended; None on a cluster, where no run is tried."""
    images: int
    """Of that run."""
    shards: int


@dataclass(frozen=True)
class Measured:
    """All of it; None of what could not be measured."""

    reading: Reading
    opening: Opening
    coding: Coding | None
    writing: Writing | None
    start_up: StartUp | None
    views: int
    """Rows of a good sample."""
    cores: int
    """Of the machine, or of the cluster."""
    command_s: float
    """From the prompt until work can begin: imports, weights, doctor, looking at the source."""
    driver_shard_s: float | None = None
    """Seconds that the driver takes for a shard, whatever is in it; None where nobody measured."""
