"""The `vqpipe` command: parses, runs one job, and turns its outcome into an exit code."""

import os
import sys
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import tyro
from rich.console import Console
from rich.text import Text

from jobs import convert, decode, diff, doctor, encode, evaluate, inspect, submit, verify
from jobs.convert import Convert
from jobs.decode import Decode
from jobs.diff import Diff
from jobs.doctor import Doctor
from jobs.encode import Encode
from jobs.evaluate import Evaluate
from jobs.inspect import Inspect
from jobs.submit import Submit
from jobs.verify import Verify
from pipeline import storage
from pipeline.errors import ConfigError, VqpipeError

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

    A command that stops early leaves a thread that waits inside Ray (`pipeline.engine`); when the
    interpreter takes itself apart under it, the process at times dies of SIGSEGV after the last
    word, and its exit code with it.
    """
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:  # whoever read the output has gone
        pass
    os._exit(code)


def main(argv: list[str] | None = None) -> int:
    """Runs one command line and returns its exit code (`pipeline.errors`)."""
    arguments = sys.argv[1:] if argv is None else argv
    storage.hurry()  # a person waits; the workers of a run do not hurry
    try:
        job = parse(arguments)
        _RUN[type(job)](job)
    except VqpipeError as error:
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        console.print(Text(f"error: {error.message}", style="red"))
        return error.exit_code
    return 0


def parse(arguments: list[str]) -> Job:
    """Returns the job that a command line asks for; help and no arguments print help and exit.

    Raises:
        SystemExit: After help, with 0; after an option unknown, missing or malformed, with 4.
        ConfigError: If an option is out of bounds.
    """
    own, _, passed_on = _split(arguments)
    if len(own) < 2:
        own = [*own, "--help"]
    try:
        job = tyro.cli(Job, args=own, prog="vqpipe", description=_DESCRIPTION, config=_STYLE)
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


_STYLE = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitSubcommandPrefixes)


def _split(arguments: list[str]) -> tuple[list[str], str, list[str]]:
    """Returns what stands before and after `--`."""
    if "--" not in arguments:
        return arguments, "", []
    at = arguments.index("--")
    return arguments[:at], "--", arguments[at + 1 :]


def run_to_end() -> NoReturn:
    """Is the `vqpipe` command."""
    end_with(main())


if __name__ == "__main__":
    run_to_end()
