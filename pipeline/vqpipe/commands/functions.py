"""The stages as functions: `vqpipe.encode(source=..., sink=..., model=...)` and its siblings.

A function takes the options of its command by name, refuses what the command refuses, and returns
how it has ended. It ends no process, and prints nothing unless it is told to.
"""

import contextlib
import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import Signature, signature
from typing import Any, ParamSpec, cast, get_type_hints

from vqpipe.commands import command
from vqpipe.commands.all_jobs import JOBS, Job
from vqpipe.commands.audience import Hook
from vqpipe.commands.catalogue import options_of, paragraphs_of
from vqpipe.commands.console import silence
from vqpipe.commands.definition import convert
from vqpipe.commands.plan_job import Plan
from vqpipe.commands.result import Result
from vqpipe.commands.stage_jobs import Compact, Decode, Encode, Evaluate
from vqpipe.errors import ConfigError

P = ParamSpec("P")


@dataclass(frozen=True, kw_only=True)
class _Call:
    """What a function takes beside the options of its command."""

    verbose: bool = False
    """Print what the command prints."""
    on_progress: Callable[[dict[str, Any]], object] | None = None
    """Called every few seconds, when a shard is committed and at the end, with how far it is: a
    record as `--progress-file` has it. What it raises is logged once, and does not stop the run."""


@dataclass(frozen=True, kw_only=True)
class _Encode(_Call, Encode):
    """What `encode` takes."""


@dataclass(frozen=True, kw_only=True)
class _Decode(_Call, Decode):
    """What `decode` takes."""


@dataclass(frozen=True, kw_only=True)
class _Evaluate(_Call, Evaluate):
    """What `evaluate` takes."""


@dataclass(frozen=True, kw_only=True)
class _Compact(_Call, Compact):
    """What `compact` takes."""


@dataclass(frozen=True, kw_only=True)
class _Plan(Plan):
    """What `plan` takes."""


def _as_function(name: str, taken: Callable[P, _Call]) -> Callable[P, Result]:
    """Returns a command as a function that takes, and says that it takes, what a class does."""

    def function(*places: P.args, **options: P.kwargs) -> Result:
        if places:
            raise TypeError(f"{name}() takes its options by name")
        given = dict(options)
        is_shown, hook = given.pop("verbose", False), given.pop("on_progress", None)
        if not (hook is None or callable(hook)):
            raise TypeError(f"on_progress of {name}() is no function")
        job = _make_job(JOBS[name], given)
        with contextlib.nullcontext() if is_shown else silence():
            result = command.do(job, cast(Hook | None, hook))
        assert isinstance(result, Result)
        return result

    function.__name__ = function.__qualname__ = name
    function.__doc__ = _DOC.format(*paragraphs_of(JOBS[name]), command=name)
    setattr(function, "__signature__", _declare(taken))  # noqa: B010 (mypy knows no such attribute)
    return function


def _as_forecast(taken: Callable[P, _Plan]) -> Callable[P, dict[str, Any]]:
    """Returns `vqpipe plan` as a function that takes, and says that it takes, what a class does."""

    def plan(*places: P.args, **options: P.kwargs) -> dict[str, Any]:
        if places:
            raise TypeError("plan() takes its options by name")
        job = _make_job(JOBS["plan"], options)
        assert isinstance(job, Plan)
        from vqpipe.commands import forecast_said, plan  # noqa: PLC0415 (they take torch and Ray)

        with silence():
            return forecast_said.document(plan.find(job))

    plan.__qualname__ = "plan"
    plan.__doc__ = _PLAN_DOC.format(*paragraphs_of(JOBS["plan"]))
    setattr(plan, "__signature__", _declare(taken, dict[str, Any]))  # noqa: B010 (as above)
    return plan


_PLAN_DOC = """{0}

    Options are those of `vqpipe plan`, whose --help says what they are.

    Returns:
        What `vqpipe plan --json` prints.

    Raises:
        VqpipeError: If the run would be refused; see `vqpipe.errors`.
    """


def _declare(taken: Callable[..., Any], returned: Any = Result) -> Signature:  # noqa: ANN401 (a type)
    """Returns what a function takes, in plain types: what help makes of them is left out."""
    declared, plain = signature(taken), get_type_hints(taken)
    options = [each.replace(annotation=plain[name]) for name, each in declared.parameters.items()]
    return declared.replace(parameters=options, return_annotation=returned)


_DOC = """{0}

    Options are those of `vqpipe {command}`, whose --help says what they are; `verbose=True` prints
    what the command prints. `on_progress=function` is called every few seconds, when a shard is
    committed and at the end, with a dict that says how far it is, as `--progress-file` has it.

    Returns:
        How it has ended: `exit_code` is 0 if the sink is complete, else `error` says why not.

    Raises:
        VqpipeError: If it is refused before it begins, or cannot go on; see `vqpipe.errors`.
    """


def _make_job(kind: type[Job], given: Mapping[str, Any]) -> Job:
    """Returns the job that options ask for.

    Raises:
        TypeError: If there is no such option, or one is missing.
        ConfigError: If one is of another type, or out of bounds.
    """
    known = {option.name: option for option in options_of(kind)}
    for name in given.keys() - known.keys():
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        meant = f"; did you mean {close[0]}?" if close else ""
        raise TypeError(f"{name} is no option of vqpipe.{kind.__name__.lower()}{meant}")
    missing = [name for name, each in known.items() if each.is_required and name not in given]
    if missing:
        raise TypeError(f"vqpipe.{kind.__name__.lower()} needs {', '.join(missing)} as well")
    values = {name: convert(known[name], _plain(value)) for name, value in given.items()}
    try:
        return kind(**values)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _plain(value: object) -> object:
    """Returns a path as text, and all else as it is."""
    return os.fspath(value) if isinstance(value, os.PathLike) else value


encode = _as_function("encode", _Encode)
decode = _as_function("decode", _Decode)
evaluate = _as_function("evaluate", _Evaluate)
compact = _as_function("compact", _Compact)
plan = _as_forecast(_Plan)
