"""Commands that have to do with the jobs of a Ray cluster, as plain data."""

from dataclasses import dataclass
from typing import Literal

import tyro

from vqpipe.commands.options import DefinitionFile
from vqpipe.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Submit:
    """Run a command as a job of a Ray cluster, follow its log, and end with its exit code.

    The cluster needs vqpipe installed (infra/Dockerfile) and its own access to source, sink and
    model: paths are the cluster's, and no credentials are sent.

    Example: vqpipe submit encode --address http://head:8265 -- --source s3://bucket/photos
    --sink s3://bucket/codes --model s3://bucket/vqgan
    """

    command: tyro.conf.Positional[Literal["encode", "decode", "evaluate", "compact"]]
    """What to run there."""
    address: str
    """Address of the cluster's dashboard, such as http://head:8265."""
    job: DefinitionFile = None
    """A job definition on this machine, a YAML file: its settings travel as options of the command.
    One on the cluster is an argument: -- --job FILE."""
    arguments: tyro.conf.Suppress[tuple[str, ...]] = ()
    """The command's own arguments: what follows -- on the command line."""

    def __post_init__(self) -> None:
        if "@" in self.address:
            raise ConfigError(
                "--address holds credentials; take them out: RAY_AUTH_TOKEN_PATH names a file with "
                "the cluster's token"
            )
