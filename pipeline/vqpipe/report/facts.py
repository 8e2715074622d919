"""What a report is made of: plain data, gathered by whoever evaluates a run."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from vqpipe.code_layout import CodeLayout
from vqpipe.metrics import Histogram


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How far a run is and what it holds."""

    samples: int
    """Images accounted for: encoded, or rejected by themselves or in a damaged shard."""
    encoded: int
    rejected: int
    """At least: what damage hides is not known as a rule."""
    shards_done: int
    shards_planned: int
    is_complete: bool
    """Whether the run is marked complete; all shards may be done before that."""
    bytes_per_image: float
    """Stored, metadata and footers included."""
    layout: CodeLayout
    """What the codes of an image are."""
    damaged: str = ""
    """Which shards could not be read to their end and what they lose; empty if none is."""

    @property
    def codes_per_image(self) -> int:
        """Length of their list."""
        return self.layout.length


@dataclass(frozen=True, kw_only=True)
class Metric:
    """How one measure is spread over the evaluated images; NaN is what could not be measured."""

    name: str
    """`psnr_db`, `ssim`, `l1` and `lpips` get their usual label; any other stands as it is."""
    mean: float
    std: float
    minimum: float
    p05: float
    median: float
    p95: float
    maximum: float


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What decoding some of the codes again has shown."""

    metrics: Sequence[Metric]
    samples: int
    """Images that were decoded and compared."""
    shards: int
    """Shards that they come from."""
    picked: str
    """A sentence: how they were chosen."""
    psnr_db: Sequence[float] = ()
    """Of each image; infinity where both are equal."""
    flip_rate: float | None = None
    """Share of codes that differ when encoded again in float32, 0 to 1; None: not measured."""
    rfid: float | None = None
    notes: Sequence[str] = ()
    """Sentences on what was left out or has to be known to read the numbers."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One evaluated image beside what its codes decode to, both JPEG and of one size."""

    key: str
    shard: str
    original: bytes
    decoded: bytes
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    psnr_db: float
    ssim: float


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The pictures of a page."""

    random: Sequence[Picture] = ()
    best: Sequence[Picture] = ()
    """The best one first."""
    worst: Sequence[Picture] = ()
    """The worst one first."""


@dataclass(frozen=True, kw_only=True)
class Drift:
    """How far the codes of one shard are from those of the whole run."""

    shard: str
    distance: float
    """Jensen-Shannon distance of the two code distributions, to base 2, so 0 to 1."""
    samples: int
    psnr_db: float | None = None
    """Mean over the evaluated images of this shard; None if there are none."""


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """How the last command on the run went."""

    points: Sequence[tuple[float, int]] = ()
    """Seconds since its start, images done until then; in order."""
    bound_by: str = ""
    """Sentences: what it waited for, and what to change."""
    busy: Sequence[tuple[str, float]] = ()
    """Parts of the run and the share of the time that each was busy, in order."""
    gpu: float | None = None
    """Share of the time that the GPUs worked, by NVML; None if not known."""
    gpu_memory: tuple[int, int] | None = None
    """Most bytes of a GPU's memory in use, and bytes that it has; None if not known."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One rejected image."""

    key: str | None
    """None where damage hides it."""
    shard: str
    row: int
    message: str


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """The images that were rejected for one reason."""

    reason: str
    meaning: str
    count: int
    examples: Sequence[Example] = ()


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that the page shows. Each part says so where it has nothing to show."""

    title: str
    """Name of the run: its sink."""
    counts: Counts
    identity: Sequence[tuple[str, str]] = ()
    """Field and value of what the codes were made with, in order."""
    quality: Quality | None = None
    pictures: Pictures = Pictures()
    code_counts: Histogram = field(default_factory=lambda: np.zeros(0, np.int64))
    """(codebook size,): how often each code occurs in the whole run."""
    drift: Sequence[Drift] = ()
    """Of all committed shards, in any order."""
    throughput: Throughput = Throughput()
    rejections: Sequence[Rejected] = ()
