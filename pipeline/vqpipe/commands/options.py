"""The options that several commands have, and what they may be; nothing here imports what is heavy.

Each is a base of the jobs that have it (`commands.jobs`).
"""

from dataclasses import dataclass

from vqpipe.codec.config import Device
from vqpipe.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Source:
    """From where; the last base of a job, so that help begins with it."""

    source: str


@dataclass(frozen=True, kw_only=True)
class Places(Source):
    """From where to where."""

    sink: str


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which model; a job declares `model` again where it takes it by position."""

    model: str
    """A folder (local or s3://) of a diffusers VQModel, a Hugging Face repository (org/name), or
    one file with weights (.ckpt, .pth, .pt, .safetensors, .bin), such as a VQGAN of CompVis."""
    subfolder: str | None = None
    """Folder of the VQModel inside --model, such as vqvae in a diffusers pipeline."""
    revision: str | None = None
    """Branch, tag or commit of a Hugging Face repository; run.json records the commit."""
    variant: str | None = None
    """Which of a folder's weights to take, such as fp16; the plain ones if not given."""
    model_config: str | None = None
    """Config of a --model that is one file: CompVis' YAML or diffusers' JSON; found if it is the
    only one beside it."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a stage runs; nothing here changes a result."""

    device: Device = "auto"
    """[speed] Where the codec works; auto takes GPUs if the cluster has any."""
    batch_size: int | None = None
    """[speed] Images in one forward of a GPU, by default 64; a CPU takes one at a time."""
    actors: int | None = None
    """[speed] Most codecs at work; default one for every GPU of the cluster, or one on a CPU."""
    max_rejected: float = 0.1
    """[speed] Most rejected images before the run ends with exit code 2: a fraction below 1, a
    count from 1."""
    address: str | None = None
    """[speed] Ray cluster to join, such as auto or head:6379; default: RAY_ADDRESS, else this
    machine alone."""
    stall_timeout_s: float = 900.0
    """[speed] Seconds without any progress before the run gives up with exit code 5."""

    def __post_init__(self) -> None:
        check_least(self, "batch_size", "actors")
        if not self.max_rejected >= 0:
            raise ValueError(f"--max-rejected is {self.max_rejected}; it must be 0 or more")
        if not self.stall_timeout_s > 0:
            raise ValueError(f"--stall-timeout-s is {self.stall_timeout_s}; it must be above 0")


@dataclass(frozen=True, kw_only=True)
class GrowthOptions:
    """What a stage takes in of a source that is not what it was, or not whole."""

    extend: bool = False
    """Take in shards that the source has gained since the run began."""
    replace_changed: bool = False
    """Do shards again whose files have changed since they were planned; their objects in the sink
    are replaced one by one."""
    allow_damaged_shards: bool = False
    """[speed] End with exit code 0 though shards could not be read to their end. What they hold
    beyond is lost, and the images in it are known by a Parquet footer, judged by a tar's bytes, or
    not known; without this option the run ends with exit code 2 and says so."""


def check_least(job: object, *names: str, least: int = 1) -> None:
    """Checks that options, where they are given, are not below a number.

    Raises:
        ValueError: If one is; names option, value and bound.
    """
    for name in names:
        value = getattr(job, name)
        if value is not None and value < least:
            option = name.replace("_", "-")
            raise ValueError(f"--{option} is {value}; it must be at least {least}")


def check_uris(job: object, *names: str) -> None:
    """Refuses what can be no URI, passwords included: `submit` sends the command on.

    Raises:
        ConfigError: If one is empty, of another scheme, or has credentials in it.
    """
    from vqpipe.storage import normalise_uri  # noqa: PLC0415 (the room takes pyarrow and fsspec)

    for name in names:
        uri = getattr(job, name)
        if uri is not None and not uri.strip():
            raise ConfigError(f"--{name.replace('_', '-')} is empty: give a folder or a URL")
        normalise_uri(uri or "")
