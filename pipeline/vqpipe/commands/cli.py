"""The `vqpipe` command: parses, runs one job, and turns its outcome into an exit code."""

import difflib
import os
import sys
import traceback
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated, Any, NoReturn

import tyro
from rich.console import Console
from rich.text import Text

from vqpipe import storage
from vqpipe.commands import convert, decode, diff, doctor, encode, evaluate, inspect, submit, verify
from vqpipe.commands.console import harmless
from vqpipe.commands.convert import Convert
from vqpipe.commands.decode import Decode
from vqpipe.commands.diff import Diff
from vqpipe.commands.doctor import Doctor
from vqpipe.commands.encode import Encode
from vqpipe.commands.evaluate import Evaluate
from vqpipe.commands.inspect import Inspect
from vqpipe.commands.pipes import find_failure, outlive_readers
from vqpipe.commands.submit import Submit
from vqpipe.commands.verify import Verify
from vqpipe.errors import ConfigError, MachineError, VqpipeError

_DESCRIPTION = """Turn image datasets into discrete VQ codes and back, on one machine or a Ray
cluster, with nothing lost and nothing twice.

Exit codes: 0 complete (_SUCCESS is written); 2 incomplete or too many rejections, run it again;
3 the sink belongs to another run; 4 a bad option, credentials or checkpoint; 5 no progress."""

Job = (
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

_RUN: dict[type, Callable[[Any], None]] = {
    Convert: convert.run,
    Decode: decode.run,
    Diff: diff.run,
    Encode: encode.run,
    Evaluate: evaluate.run,
    Doctor: doctor.run,
    Inspect: inspect.run,
    Submit: submit.run,
    Verify: verify.run,
}


def end_with(code: int) -> NoReturn:
    """Ends the process at once, everything printed.

    A command that stops early leaves a thread that waits inside Ray (`engine.graph`); when the
    interpreter takes itself apart under it, the process at times dies of SIGSEGV after the last
    word, and its exit code with it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main(argv: list[str] | None = None) -> int:
    """Runs one command line and returns its exit code (`vqpipe.errors`)."""
    arguments = sys.argv[1:] if argv is None else argv
    storage.hurry()  # a person waits; the workers of a run do not hurry
    try:
        job = parse(arguments)
        _RUN[type(job)](job)
        _check_said(job)
    except VqpipeError as error:
        return _fail(error.message, error.exit_code)
    except Exception as error:  # noqa: BLE001 (no person shall be left with a traceback alone)
        print(harmless(traceback.format_exc()), file=sys.stderr)  # noqa: T201
        said = f"{type(error).__name__} in vqpipe itself, which is a bug"
        return _fail(f"{said}: please report it with the lines above", VqpipeError.exit_code)
    return 0


def _check_said(job: Job) -> None:
    """Checks that what a command prints was printed, if it does nothing else.

    Raises:
        MachineError: If not.
    """
    failure = find_failure()
    if failure and isinstance(job, _REPORTS):
        raise MachineError(f"what was found could not be written to standard output: {failure}")


_REPORTS = (Diff, Doctor, Inspect, Verify)


def _fail(message: str, code: int) -> int:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(Text(f"error: {harmless(message)}", style="red"))
    return code


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
        job = tyro.cli(
            Job, args=own or ["--help"], prog="vqpipe", description=_DESCRIPTION, config=_STYLE
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
    commands = [name.__name__.lower() for name in _RUN]
    if own[0] not in commands:
        close = difflib.get_close_matches(own[0], commands, n=1, cutoff=0.5)
        meant = f"; did you mean vqpipe {close[0]}?" if close else ";"
        known = ", ".join(sorted(commands))
        raise ConfigError(f"there is no command {own[0]!r}{meant} The commands are {known}")


_STYLE = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitSubcommandPrefixes)


def _split(arguments: list[str]) -> tuple[list[str], str, list[str]]:
    """Returns what stands before and after `--`."""
    if "--" not in arguments:
        return arguments, "", []
    at = arguments.index("--")
    return arguments[:at], "--", arguments[at + 1 :]


def run_to_end(argv: list[str] | None = None) -> NoReturn:
    """Is the `vqpipe` command: runs a command line and ends the process."""
    outlive_readers()
    try:
        code = main(argv)
    except SystemExit as end:  # of the parser, after help
        code = end.code if isinstance(end.code, int) else 0
    end_with(code)


if __name__ == "__main__":
    run_to_end()
