"""What each command can be told: a job a command, with its options, their defaults and their help.

The module of a command's name (`commands.encode`) does it. Nothing here imports what is heavy, so
that help and mistakes are answered at once.
"""

from dataclasses import dataclass

import tyro

from vqpipe.codec.config import AskedRange, Device
from vqpipe.commands.cluster_jobs import Jobs, Logs, Stop, Submit
from vqpipe.commands.options import ModelOptions
from vqpipe.commands.plan_job import Plan
from vqpipe.commands.sink_jobs import Diff, Export, Inspect, Push, Verify
from vqpipe.commands.stage_jobs import Compact, Decode, Encode, Evaluate


@dataclass(frozen=True, kw_only=True)
class Doctor(ModelOptions):
    """Say what a checkpoint is and what it bears: pixel range, code grid, safe precisions.

    Encodes and decodes a few packaged photos on this machine, without Ray. Every vqpipe encode
    begins with a quick form of it. A precision is safe if vqpipe encode takes it on this device and
    the network's numbers stay finite in it; how many codes it changes is another matter, and shown.

    Example: vqpipe doctor vqgan/
    """

    model: tyro.conf.Positional[str]
    """What to examine: see --model of vqpipe encode."""
    resolution: int | None = None
    """Side of the photos, in pixels; what the model takes nearest to 256 unless given."""
    pixel_range: AskedRange = "auto"
    """What to take the model for: signed is [-1, 1], unit is [0, 1]; auto finds out."""
    device: Device = "auto"
    """Where to run; precisions are judged on this device."""
    json: bool = False
    """Print one JSON object instead of tables."""

    def __post_init__(self) -> None:
        if self.resolution is not None and self.resolution < 1:
            raise ValueError(f"--resolution is {self.resolution}; it must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Convert(ModelOptions):
    """Write any checkpoint that vqpipe reads in diffusers' layout.

    The result is config.json and diffusion_pytorch_model.safetensors; tensors keep their dtype.
    Every name, shape and value is checked first. Needs no Ray.

    Example: vqpipe convert logs/vqgan/checkpoints/last.ckpt vqgan/
    """

    model: tyro.conf.Positional[str]
    """A folder (local or s3://) of a diffusers VQModel, a Hugging Face repository (org/name), or
    one file with weights (.ckpt, .pth, .pt, .safetensors, .bin), such as a VQGAN of CompVis."""
    out: tyro.conf.Positional[str]
    """Folder or s3://bucket/prefix to write; another checkpoint there is never overwritten."""


Job = (
    Encode
    | Decode
    | Evaluate
    | Compact
    | Plan
    | Doctor
    | Convert
    | Inspect
    | Diff
    | Verify
    | Export
    | Push
    | Submit
    | Jobs
    | Logs
    | Stop
)


JOBS: dict[str, type[Job]] = {
    "encode": Encode,
    "decode": Decode,
    "evaluate": Evaluate,
    "compact": Compact,
    "plan": Plan,
    "doctor": Doctor,
    "convert": Convert,
    "inspect": Inspect,
    "diff": Diff,
    "export": Export,
    "push": Push,
    "submit": Submit,
    "jobs": Jobs,
    "logs": Logs,
    "stop": Stop,
    "verify": Verify,
}
"""The commands by name, as help lists them; each is also the name of the module that runs it."""


def command_of(kind: type[Job]) -> str:
    """Returns the command of a kind of job."""
    return next(name for name, each in JOBS.items() if each is kind)


STAGES = ("encode", "decode", "evaluate", "compact")
"""The commands that write a sink on Ray, and have job definitions."""

DEFINED = (*STAGES, "plan")
"""Those that `--job` and `submit` are for: `plan` takes a definition of `encode` as it is."""
