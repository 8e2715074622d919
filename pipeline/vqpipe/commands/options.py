"""The options that several commands have, and what they may be; nothing here imports what is heavy.

Each is a base of the jobs that have it (`commands.all_jobs`).
"""

import enum
from dataclasses import dataclass
from typing import Annotated, TypeVar

from vqpipe.codec.config import Device
from vqpipe.commands.machines import (
    OF_A_CODEC,
    PICKS_HERE,
    parse_gpus,
    parse_labels,
    parse_resources,
)
from vqpipe.errors import ConfigError
from vqpipe.hub.names import parse_hub_file
from vqpipe.tokenizers.family_names import FamilyName, Which


class Group(enum.Enum):
    """What an option is about. Help and job definitions have the groups in this order."""

    WHAT = "What is read, with which model, and where the results go."
    HOW = "How it is done. Another choice makes other results."
    WHEN = (
        "What to take in and what to put up with when a source has grown, has changed or is "
        "damaged. May change between runs on one sink."
    )
    WHERE = "On which machines. May change between runs on one sink."
    SPEED = "How much at once, and how long. May change between runs on one sink."
    COST = "What things cost, in any currency; nothing is told of what has no price."


@dataclass(frozen=True)
class Shown:
    """What stands for an option's value in help, where its type does not say much."""

    text: str


class OneOrMore:
    """Marks a list of which one value is as good as a list of one."""


T = TypeVar("T")
What = Annotated[T, Group.WHAT]
How = Annotated[T, Group.HOW]
When = Annotated[T, Group.WHEN]
Where = Annotated[T, Group.WHERE]
Speed = Annotated[T, Group.SPEED]
Labels = Annotated[tuple[str, ...], Group.WHERE, Shown("LABEL=VALUE ..."), OneOrMore()]
Amounts = Annotated[tuple[str, ...], Group.WHERE, Shown("NAME=AMOUNT ..."), OneOrMore()]
DefinitionFile = Annotated[str | None, Shown("FILE")]


@dataclass(frozen=True, kw_only=True)
class Source:
    """From where; the last base of a job, so that help begins with it."""

    source: What[str]


@dataclass(frozen=True, kw_only=True)
class Places(Source):
    """From where to where."""

    sink: What[str]


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which model; a job declares `model` again where it takes it by position."""

    model: What[str]
    """A folder (local or s3://), a Hugging Face repository (org/name), or one file with weights
    (.ckpt, .pth, .pt, .safetensors, .bin), local, s3:// or hf://org/name/file: a diffusers VQModel,
    or a checkpoint of a family that is known (--family)."""
    subfolder: What[str | None] = None
    """Folder of the tokenizer inside --model, such as vqvae in a diffusers pipeline."""
    revision: What[str | None] = None
    """Branch, tag or commit of a Hugging Face repository; run.json records the commit."""
    variant: What[str | None] = None
    """Which of a folder's weights to take, such as fp16; the plain ones if not given."""
    family: Annotated[FamilyName | None, Group.WHAT, Shown("NAME")] = None
    """What a --model is of that is no diffusers VQModel, such as llamagen or ibq. The names of its
    tensors and its config show this as a rule; where they do not, the command asks, and lists what
    it may be."""
    weights: What[Which | None] = None
    """Which weights to take of a file that has them as training left them (raw) and averaged over
    training (ema); asked for where the family's own programs do not settle it."""
    model_config: What[str | None] = None
    """Config of a --model that is one file: the YAML or JSON that it was published with; found if
    it is the only one beside it."""


@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """Where a stage runs; nothing here changes a result."""

    address: Where[str | None] = None
    """Ray cluster to join, on one of its nodes, such as auto or head:6379; default: RAY_ADDRESS,
    else this machine alone. From elsewhere: vqpipe submit."""
    progress_file: Annotated[str | None, Group.WHERE, Shown("FILE")] = None
    """File on the machine where the command runs that a line of JSON is appended to every few
    seconds, when a shard is committed and at the end: how far it is. README has its fields."""
    stall_timeout_s: Speed[float] = 900.0
    """Seconds without any progress before the run gives up with exit code 5."""

    def __post_init__(self) -> None:
        if not self.stall_timeout_s > 0:
            raise ValueError(f"--stall-timeout-s is {self.stall_timeout_s}; it must be above 0")
        if self.progress_file is not None:
            _check_local(self.progress_file)


@dataclass(frozen=True, kw_only=True)
class MachineOptions(ClusterOptions):
    """On which machines and devices a stage with a codec runs; nothing here changes a result."""

    device: Where[Device] = "auto"
    """Where the codec works; auto takes GPUs if the cluster has any when the command begins, cuda
    waits for them."""
    gpus: Annotated[str | None, Group.WHERE, Shown("0,2")] = None
    """GPUs of this machine to use, by nvidia-smi's numbers; default: those in CUDA_VISIBLE_DEVICES,
    else all. In a cluster, --codec-labels picks machines."""
    codec_labels: Labels = ()
    """Which machines of a cluster codecs go to, by Ray's labels, such as
    ray.io/accelerator-type=H100; !H100 and in(H100,A100) are values as well."""
    codec_resources: Amounts = ()
    """What a machine has to have free for each codec, by Ray's names: a resource of your own, such
    as accelerator_type:H100=0.001, or GPU, CPU, memory. With GPU=0.5, two share a GPU."""
    worker_labels: Labels = ()
    """The same for what reads, opens images and commits."""
    worker_resources: Amounts = ()
    """The same for what reads, opens images and commits: resources of your own alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_labels("--codec-labels", self.codec_labels)
        asked = parse_resources("--codec-resources", self.codec_resources, OF_A_CODEC)
        parse_labels("--worker-labels", self.worker_labels)
        parse_resources("--worker-resources", self.worker_resources, ())
        if self.gpus is not None:
            parse_gpus(self.gpus)
            self._check_here()
        if self.device == "cpu" and ("GPU" in asked or self.gpus is not None):
            named = "--codec-resources GPU" if self.gpus is None else "--gpus"
            raise ValueError(f"{named} asks for GPUs, and --device cpu for none")

    def _check_here(self) -> None:
        if self.address:
            raise ValueError(f"--address joins a cluster, and {PICKS_HERE}")


@dataclass(frozen=True, kw_only=True)
class RunOptions(MachineOptions):
    """How a stage with a codec runs; nothing here changes a result."""

    batch_size: Speed[int | None] = None
    """Images in one forward of a GPU, by default 64; a CPU takes one at a time."""
    actors: Speed[int | None] = None
    """Most codecs at work; default one for every GPU that is there or comes while the command runs,
    or one on a CPU."""
    max_rejected: When[float] = 0.1
    """Most rejected images before the run ends with exit code 2: a fraction below 1, a
    count from 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, "batch_size", "actors")
        if not self.max_rejected >= 0:
            raise ValueError(f"--max-rejected is {self.max_rejected}; it must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class PartOptions:
    """Which of a run's shards a command does; nothing here changes a result."""

    part: Annotated[str | None, Group.WHERE, Shown("I/N")] = None
    """Do one of N parts of the run's shards, 0/N to N-1/N, dealt out by a hash of their names: for
    job arrays, a part a job, on a machine without a Ray cluster. Any part can be run again, and any
    number at once; the run is planned by the first of them, and marked complete by the one that
    finds nothing left. With it, exit code 0 says that the part is through."""


@dataclass(frozen=True, kw_only=True)
class DryRunOptions:
    """Of a stage that can say what it would do."""

    dry_run: Where[bool] = False
    """Show what would be done, from which model, for how many shards, and stop: nothing is written
    into the sink and Ray is not started. What a run would be refused for is refused here, too."""


@dataclass(frozen=True, kw_only=True)
class GrowthOptions:
    """What a stage takes in of a source that is not what it was, or not whole."""

    extend: When[bool] = False
    """Take in shards that the source has gained since the run began."""
    replace_changed: When[bool] = False
    """Do shards again whose files have changed since they were planned; their objects in the sink
    are replaced one by one."""
    allow_damaged_shards: When[bool] = False
    """End with exit code 0 though shards could not be read to their end. What they hold
    beyond is lost, and the images in it are known by a Parquet footer, judged by a tar's bytes, or
    not known; without this option the run ends with exit code 2 and says so."""


def _check_local(progress_file: str) -> None:
    """Refuses what nothing can be appended to.

    Raises:
        ConfigError: If it is no path.
    """
    if progress_file in {"", "-"}:
        raise ConfigError(
            f"--progress-file is {progress_file!r}: give a file; /dev/stderr is one, and "
            "/dev/stdout, where the summary goes as well"
        )
    if "://" in progress_file:
        raise ConfigError(
            "--progress-file is no path: give a file of this machine, since nothing can be "
            "appended to an object in a store"
        )


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


def check_files(job: object, *names: str) -> None:
    """Refuses what can be no file with weights, or no folder with some, passwords included.

    Raises:
        ConfigError: If one is empty, of another scheme, or has credentials in it.
    """
    for name in names:
        where = getattr(job, name)
        if where is None or not where.startswith("hf://"):
            check_uris(job, name)
        elif parse_hub_file(where) is None:
            raise ConfigError(
                f"--{name.replace('_', '-')} names no file on the Hugging Face hub: give "
                "hf://org/name/file or hf://org/name@revision/file; credentials belong in "
                "HF_TOKEN, not in a URL"
            )
