"""The `vqpipe` command: what a person types, and the job that it asks for."""

import difflib
import sys
from importlib.metadata import version
from typing import Annotated, NoReturn

import tyro

from vqpipe.commands import command
from vqpipe.commands.jobs import (
    JOBS,
    Convert,
    Decode,
    Diff,
    Doctor,
    Encode,
    Evaluate,
    Inspect,
    Job,
    Submit,
    Verify,
)
from vqpipe.errors import ConfigError

_DESCRIPTION = """Turn image datasets into discrete VQ codes and back, on one machine or a Ray
cluster, with nothing lost and nothing twice.

Exit codes: 0 complete (_SUCCESS is written); 2 incomplete or too many rejections, run it again;
3 the sink belongs to another run; 4 a bad option, credentials or checkpoint; 5 no progress."""

_Command = (
    Annotated[Encode, tyro.conf.subcommand("encode")]
    | Annotated[Decode, tyro.conf.subcommand("decode")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Doctor, tyro.conf.subcommand("doctor")]
    | Annotated[Convert, tyro.conf.subcommand("convert")]
    | Annotated[Inspect, tyro.conf.subcommand("inspect")]
    | Annotated[Diff, tyro.conf.subcommand("diff")]
    | Annotated[Submit, tyro.conf.subcommand("submit")]
    | Annotated[Verify, tyro.conf.subcommand("verify")]
)


def main(argv: list[str] | None = None) -> int:
    """Runs one command line and returns its exit code (`vqpipe.errors`)."""
    arguments = sys.argv[1:] if argv is None else argv
    return command.exit_code_of(lambda: command.run(parse(arguments)))


def run_to_end(argv: list[str] | None = None) -> NoReturn:
    """Is the `vqpipe` command: runs a command line and ends the process."""
    command.run_to_end(lambda: main(argv))


def parse(arguments: list[str]) -> Job:
    """Returns the job that a command line asks for; help, version and no arguments print and exit.

    Raises:
        SystemExit: After help, with 0; after an option unknown, missing or malformed, with 4.
        ConfigError: If there is no such command, or an option is out of bounds.
    """
    own, _, passed_on = _split(arguments)
    if own == ["--version"]:
        print(f"vqpipe {version('vqpipe')}")  # noqa: T201
        raise SystemExit(0)
    _check_command(own)
    try:
        job: Job = tyro.cli(
            _Command, args=own or ["--help"], prog="vqpipe", description=_DESCRIPTION, config=_STYLE
        )
    except SystemExit as end:
        if end.code in (0, None):
            raise
        raise SystemExit(ConfigError.exit_code) from None  # the parser has said what is wrong
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if isinstance(job, Submit):
        parse([job.command, *passed_on])  # a bad option is better found here than on the cluster
        return Submit(command=job.command, address=job.address, arguments=tuple(passed_on))
    return job


def _check_command(own: list[str]) -> None:
    """Raises a ConfigError for a first word that is no command; the parser shows help for it."""
    if not own or own[0].startswith("-"):
        return
    if own[0] not in JOBS:
        close = difflib.get_close_matches(own[0], JOBS, n=1, cutoff=0.5)
        meant = f"; did you mean vqpipe {close[0]}?" if close else ";"
        known = ", ".join(sorted(JOBS))
        raise ConfigError(f"there is no command {own[0]!r}{meant} The commands are {known}")


_STYLE = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitSubcommandPrefixes)


def _split(arguments: list[str]) -> tuple[list[str], str, list[str]]:
    """Returns what stands before and after `--`."""
    if "--" not in arguments:
        return arguments, "", []
    at = arguments.index("--")
    return arguments[:at], "--", arguments[at + 1 :]
