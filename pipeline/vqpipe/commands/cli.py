"""The `vqpipe` command: what a person types, and the job that it asks for."""

import difflib
import hashlib
import shutil
import sys
from collections.abc import Mapping
from dataclasses import MISSING, replace
from importlib.metadata import version
from typing import Annotated, Any, NoReturn, Union

import tyro

from vqpipe.commands import command
from vqpipe.commands.all_jobs import DEFINED, JOBS, STAGES, Job
from vqpipe.commands.catalogue import Option, options_of, paragraphs_of
from vqpipe.commands.cluster_jobs import Submit
from vqpipe.commands.definition import read_definition, to_arguments, write_definition
from vqpipe.commands.form import STYLE, make_form
from vqpipe.commands.help import write_help, write_list
from vqpipe.commands.options import DefinitionFile
from vqpipe.commands.plan_job import Plan
from vqpipe.commands.stage_jobs import Evaluate
from vqpipe.errors import ConfigError

_ABOUT = [
    "Turn image datasets into discrete VQ codes and back, on one machine or a Ray cluster, with "
    "nothing lost and nothing twice.",
    "Exit codes: 0 complete (_SUCCESS is written; with --part, the part is through); 2 incomplete "
    "or too many rejections, run it again; 3 the sink belongs to another run; 4 a bad option, "
    "credentials or checkpoint; 5 no progress.",
]
_BESIDES = {
    "COMMAND --help": "The options of a command.",
    "--version": "The version.",
    "--completion SHELL": "What completes commands and options in bash, zsh or fish.",
}
_SHELLS = ("bash", "zsh", "fish")


def main(argv: list[str] | None = None) -> int:
    """Runs one command line and returns its exit code (`vqpipe.errors`)."""
    arguments = sys.argv[1:] if argv is None else argv
    return command.exit_code_of(lambda: command.run(parse(arguments)))


def run_to_end(argv: list[str] | None = None) -> NoReturn:
    """Is the `vqpipe` command: runs a command line and ends the process."""
    command.run_to_end(lambda: main(argv))


def parse(arguments: list[str]) -> Job:
    """Returns the job that a command line asks for.

    Help, the version, a job definition and what completes commands are printed, and end it.

    Raises:
        SystemExit: After these, with 0; after an option unknown, missing or malformed, with 4.
        ConfigError: If there is no such command, or an option is out of bounds.
    """
    own, passed_on = _split(arguments)
    if not own or own[0].startswith("-"):
        return _answer_without_command(own)
    name, words = own[0], own[1:]
    _check_command(name)
    if name in STAGES and _asks_for_definition(words) and not _asks_for_help(words):
        _print_and_end(_define(name, words))
    job = _fill(name, words, _find_settings(name, words))
    return _pass_on(job, passed_on) if isinstance(job, Submit) else job


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Returns what stands before and after `--`."""
    if "--" not in arguments:
        return arguments, []
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


def _asks_for_help(words: list[str]) -> bool:
    return "-h" in words or "--help" in words


def _asks_for_definition(words: list[str]) -> bool:
    """Tells whether a job is to be printed, not done; the parser takes `_` for `-`, too."""
    return any(word.replace("_", "-") == "--print-job" for word in words)


def _print_and_end(text: str) -> NoReturn:
    print(text)  # noqa: T201
    raise SystemExit(0)


def _width() -> int:
    """Returns the letters in a line of the terminal."""
    return shutil.get_terminal_size().columns


def _answer_without_command(words: list[str]) -> NoReturn:
    """Prints the list of commands, the version, or what completes them in a shell."""
    if words == ["--version"]:
        _print_and_end(f"vqpipe {version('vqpipe')}")
    if not words or _asks_for_help(words):
        commands = {name: paragraphs_of(kind)[0] for name, kind in JOBS.items()}
        _print_and_end(write_list("vqpipe", _ABOUT, commands, _BESIDES, _width()))
    if words[0] == "--completion":
        shell = words[1] if len(words) == 2 else None
        if shell not in _SHELLS:
            raise ConfigError(f"--completion takes the name of a shell: {', '.join(_SHELLS)}")
        words = ["--tyro-write-completion", shell, "-"]
    forms = (
        Annotated[_make_form(name, options_of(kind)), tyro.conf.subcommand(name)]
        for name, kind in JOBS.items()
    )
    _parse(Union[tuple(forms)], words, "vqpipe")  # noqa: UP007 (of many)
    raise AssertionError(words)  # it has ended: there is no command in it


def _check_command(name: str) -> None:
    """Raises a ConfigError for a first word that is no command."""
    if name not in JOBS:
        close = difflib.get_close_matches(name, JOBS, n=1, cutoff=0.5)
        meant = f"; did you mean vqpipe {close[0]}?" if close else ";"
        known = ", ".join(sorted(JOBS))
        raise ConfigError(f"there is no command {name!r}{meant} The commands are {known}")


def _parse(form: Any, words: list[str], called: str) -> Any:  # noqa: ANN401 (a type, and one of it)
    """Returns a form filled in.

    Raises:
        SystemExit: After words that do not fit, with 4; after what completes them, with 0.
    """
    try:
        return tyro.cli(form, args=words, prog=called, config=STYLE)
    except SystemExit as end:
        code = ConfigError.exit_code if end.code else 0  # the parser has said what is wrong
        raise SystemExit(code) from None


def _make_form(name: str, options: list[Option], *, has_pairs: bool = False) -> type:
    beside = [*options, *_beside(name)]
    return make_form(name, paragraphs_of(JOBS[name])[0], beside, has_pairs=has_pairs)


def _beside(name: str) -> list[Option]:
    """Returns what else can be asked of a command, and is no part of its job."""
    if name not in DEFINED:
        return []
    file = f"jobs/{name if name in STAGES else 'encode'}.yaml"
    read = f"A job definition, a YAML file such as {file}: it says what the command line "
    read += "does not; with it, --no-... takes a switch back."
    write = "Print this command as a job definition, and do nothing else."
    asked = Option("print_job", bool, False, write)  # noqa: FBT003 (its default)
    return [Option("job", DefinitionFile, None, read), *([asked] if name in STAGES else [])]


def _fill(name: str, words: list[str], settings: Mapping[str, Any] | None) -> Job:
    """Returns the job that words after a command ask for.

    Args:
        name: The command.
        words: What follows it.
        settings: What a job definition says, which takes the place of defaults; None without one.

    Raises:
        SystemExit: After help, with 0; after an option unknown, missing or malformed, with 4.
        ConfigError: If an option is out of bounds.
    """
    kind, options = JOBS[name], options_of(JOBS[name], settings)
    if _asks_for_help(words):
        shown = [each for each in (*options, *_beside(name)) if each.is_said]
        _print_and_end(write_help(f"vqpipe {name}", paragraphs_of(kind), shown, _width()))
    form = _make_form(name, options, has_pairs=settings is not None)
    filled = _parse(form, words, f"vqpipe {name}")
    try:
        return kind(**{each.name: getattr(filled, each.name) for each in options if each.is_said})
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _find_settings(name: str, words: list[str]) -> dict[str, Any] | None:
    """Returns what the job definition says that a stage's command names; None if it names none."""
    path = _find_definition(words) if name in DEFINED else None
    return None if path is None else read_definition(path, JOBS[name])


def _find_definition(words: list[str]) -> str | None:
    """Returns what follows `--job`: the defaults depend on it, so that no parser can tell."""
    path = None
    for word, following in zip(words, [*words[1:], None], strict=False):
        if word == "--job":
            path = following
        elif word.startswith("--job="):
            path = word.partition("=")[2]
    return path


def _define(name: str, words: list[str]) -> str:
    """Returns the definition of the job that a command line asks for, which may lack its places."""
    kind = JOBS[name]
    unnamed = _unnamed(kind)
    job = _fill(name, words, unnamed | (_find_settings(name, words) or {}))
    values = {option.name: getattr(job, option.name) for option in options_of(kind)}
    named = {name: value for name, value in values.items() if value != unnamed.get(name, MISSING)}
    return write_definition(kind, named).rstrip("\n")


_UNNAMED: dict[Any, Any] = {str: "<to be named>", int: 2**62 + 1}
"""What stands for a required option where it may be missing, by its type."""


def _unnamed(kind: type[Job]) -> dict[str, Any]:
    required = (option for option in options_of(kind) if option.is_required)
    return {option.name: _UNNAMED[option.kind] for option in required}


def _pass_on(job: Submit, words: list[str]) -> Submit:
    """Returns a job to submit, with the arguments of its command.

    They are read here, since a bad option is better found here than on the cluster.

    Raises:
        SystemExit: After an option unknown, missing or malformed, with 4.
        ConfigError: If one is out of bounds.
    """
    if _asks_for_definition(words):
        raise ConfigError(f"--print-job is for vqpipe {job.command}: nothing would be submitted")
    kind, remote = JOBS[job.command], _find_definition(words)
    if job.job is not None and remote is not None:
        raise ConfigError(
            "--job is there twice: before -- for this machine, after it for the cluster"
        )
    if job.job is not None:
        asked = _fill(job.command, words, read_definition(job.job, kind))
        words = to_arguments(asked)
    else:  # a definition on the cluster may say what is required; nobody here can read it
        asked = _fill(job.command, words, None if remote is None else _unnamed(kind))
    same = hashlib.sha256(repr((version("vqpipe"), asked, remote)).encode()).hexdigest()
    return replace(job, arguments=tuple(words), sink=_sink_of(asked), same=same)


def _sink_of(job: Job) -> str:
    """Returns where a stage's results go; nothing if only a definition on the cluster says so.

    A plan has none.
    """
    if isinstance(job, Plan):
        return ""
    sink = job.source if isinstance(job, Evaluate) else getattr(job, "sink", "")
    return "" if sink == _UNNAMED[str] else str(sink)
