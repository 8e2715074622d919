"""From a job to an exit code: the only way in which a command is run, whoever asks for it."""

import importlib
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn, cast

from rich.console import Console
from rich.text import Text

from vqpipe.commands.all_jobs import Doctor, Job, command_of
from vqpipe.commands.audience import Hook, told
from vqpipe.commands.cluster_jobs import Jobs
from vqpipe.commands.console import harmless
from vqpipe.commands.options import ClusterOptions, DryRunOptions
from vqpipe.commands.pipes import find_failure, outlive_readers
from vqpipe.commands.plan_job import Plan
from vqpipe.commands.result import Result
from vqpipe.commands.sink_jobs import Diff, Inspect, Verify
from vqpipe.errors import MachineError, VqpipeError, stopped_by


def do(job: Job, on_progress: Hook | None = None) -> Result | None:
    """Does a job, by the module that is called as its command is; returns how a stage has ended.

    That is imported now and not before: it takes torch, Ray and seconds.

    Args:
        job: What is to be done.
        on_progress: Of a stage, who is told how far it is, beside its `--progress-file`.

    Raises:
        VqpipeError: If it could not be done; the exit code is the error's.
    """
    name = command_of(type(job))
    with told(name, _progress_file_of(job), on_progress) as audience:
        module = importlib.import_module(f"vqpipe.commands.{name}")
        result = cast(Result | None, module.run(job))
        audience.end(result)
    return result


def _progress_file_of(job: Job) -> str | None:
    """Returns the file that is told how far a job is, if it does any work."""
    is_shown = isinstance(job, Plan) or (isinstance(job, DryRunOptions) and job.dry_run)
    return job.progress_file if isinstance(job, ClusterOptions) and not is_shown else None


def run(job: Job) -> None:
    """Does a job for a person who waits.

    Raises:
        VqpipeError: If it could not be done, or not to its end; the exit code is the error's.
    """
    from vqpipe import storage  # noqa: PLC0415 (it takes pyarrow)

    storage.hurry()  # the workers of a run, and programs, do not
    result = do(job)
    if result:
        result.check()
    _check_said(job)


def _check_said(job: Job) -> None:
    """Checks that what a command prints was printed, if it does nothing else.

    Raises:
        MachineError: If not.
    """
    failure = find_failure()
    is_report = isinstance(job, _REPORTS) or (isinstance(job, DryRunOptions) and job.dry_run)
    if failure and is_report:
        raise MachineError(f"what was found could not be written to standard output: {failure}")


_REPORTS = (Diff, Doctor, Inspect, Jobs, Plan, Verify)


def exit_code_of(act: Callable[[], None]) -> int:
    """Acts, says what went wrong if anything did, and returns the exit code (`vqpipe.errors`)."""
    try:
        act()
    except VqpipeError as error:
        return _fail(error.message, error.exit_code)
    except Exception as error:  # noqa: BLE001 (no person shall be left with a traceback alone)
        print(harmless(traceback.format_exc()), file=sys.stderr)  # noqa: T201
        said = f"{type(error).__name__} in vqpipe itself, which is a bug"
        return _fail(f"{said}: please report it with the lines above", VqpipeError.exit_code)
    return 0


def _fail(message: str, code: int) -> int:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(Text(f"error: {harmless(message)}", style="red"))
    return code


def run_to_end(main: Callable[[], int]) -> NoReturn:
    """Runs what returns an exit code, and ends the process with it."""
    outlive_readers()
    try:
        code = main()
    except SystemExit as end:  # of the parser, after help
        code = end.code if isinstance(end.code, int) else 0
    except KeyboardInterrupt:  # while it is still importing, and handles no signal
        stopped = stopped_by(signal.SIGINT)
        code = _fail(stopped.message, stopped.exit_code)
    end_with(code)


def end_with(code: int) -> NoReturn:
    """Ends the process at once, everything printed.

    A command that stops early leaves a thread that waits inside Ray (`engine.graph`); when the
    interpreter takes itself apart under it, the process at times dies of SIGSEGV after the last
    word, and its exit code with it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
