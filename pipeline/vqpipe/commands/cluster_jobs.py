"""Commands that have to do with the jobs of a Ray cluster, as plain data."""

from dataclasses import dataclass
from typing import Literal

import tyro

from vqpipe.commands.options import DefinitionFile


@dataclass(frozen=True, kw_only=True)
class _OnCluster:
    """Which cluster."""

    address: str | None = None
    """Address of the cluster's dashboard, such as http://head:8265; default:
    RAY_API_SERVER_ADDRESS, RAY_ADDRESS, or a cluster of this machine, as Ray's own commands."""


@dataclass(frozen=True, kw_only=True)
class _Patient:
    """How long to wait for a dashboard that does not answer."""

    reconnect_s: float = 300.0
    """Seconds to go on trying when the connection is lost while a job is followed; the job does not
    depend on it."""

    def __post_init__(self) -> None:
        if not self.reconnect_s >= 0:
            raise ValueError(f"--reconnect-s is {self.reconnect_s}; it must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class Submit(_Patient, _OnCluster):
    """Run a command as a job of a Ray cluster, follow its log, and end with its exit code.

    The cluster needs vqpipe installed (infra/Dockerfile) and its own access to source, sink and
    model: paths are the cluster's, and no credentials are sent. The same command again, while its
    job is at work, follows that job and starts no other. The job goes on when this command is left.

    Example: vqpipe submit encode --address http://head:8265 -- --source s3://bucket/photos
    --sink s3://bucket/codes --model s3://bucket/vqgan
    """

    command: tyro.conf.Positional[Literal["encode", "decode", "evaluate", "compact", "plan"]]
    """What to run there."""
    job: DefinitionFile = None
    """A job definition on this machine, a YAML file: its settings travel as options of the command.
    One on the cluster is an argument: -- --job FILE."""
    new: bool = False
    """Start another job, though one of the same command is at work."""
    arguments: tyro.conf.Suppress[tuple[str, ...]] = ()
    """The command's own arguments: what follows -- on the command line."""
    sink: tyro.conf.Suppress[str] = ""
    """Where these have its results go; empty if only a definition on the cluster says so."""
    same: tyro.conf.Suppress[str] = ""
    """A digest of what these ask for."""


@dataclass(frozen=True, kw_only=True)
class Jobs(_OnCluster):
    """List the jobs of vqpipe that a Ray cluster has had, with what became of them.

    Example: vqpipe jobs --address http://head:8265
    """

    json: bool = False
    """Print one JSON object with more about each job instead of a table."""


@dataclass(frozen=True, kw_only=True)
class Logs(_Patient, _OnCluster):
    """Show the log of a job on a Ray cluster, follow it to its end, and end with its exit code.

    Example: vqpipe logs --address http://head:8265
    """

    job: tyro.conf.Positional[str | None] = None
    """Which one, as vqpipe submit and vqpipe jobs say it; may be left out if one is at work."""
    no_follow: bool = False
    """Show what there is by now, and end with 0."""


@dataclass(frozen=True, kw_only=True)
class Stop(_Patient, _OnCluster):
    """Stop a job on a Ray cluster, and wait until it is over; what it has committed stays.

    The same command, submitted again, goes on with what is left.

    Example: vqpipe stop --address http://head:8265
    """

    job: tyro.conf.Positional[str | None] = None
    """Which one, as vqpipe submit and vqpipe jobs say it; may be left out if one is at work."""
