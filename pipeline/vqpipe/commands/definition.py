"""Job definitions: the options of a command in a YAML file, each with its help.

`jobs/` has one of every stage with the defaults; `--print-job` writes one of a command as it
stands, `--job` reads it again. A required option that is empty there is for the command line.
"""

import difflib
import re
import reprlib
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml

from vqpipe.commands.all_jobs import Job, command_of
from vqpipe.commands.catalogue import Option, options_of, paragraphs_of
from vqpipe.errors import ConfigError

_WIDTH = 100
"""Letters of a line of comment."""


def write_definition(kind: type[Job], values: Mapping[str, Any]) -> str:
    """Returns the definition of a job.

    Args:
        kind: The command.
        values: Its options. One that is not there has its default, or is left empty.
    """
    lines, group = _head(kind), None
    for option in options_of(kind):
        if option.group and option.group is not group:
            group = option.group
            lines += ["", "", *_comment(f"{group.name.lower()}: {group.value}", "## ")]
        lines += ["", *_comment(_explain(option)), _entry(option, values)]
    return "\n".join(lines) + "\n"


def _head(kind: type[Job]) -> list[str]:
    about = paragraphs_of(kind)[0]
    use = f"vqpipe {command_of(kind)} --job FILE: what the command line says wins over the file."
    return [*_comment(about), *_comment(use)]


def _explain(option: Option) -> str:
    """Returns the help of an option, with its choices, or that it is required."""
    said = [option.help]
    if get_origin(option.kind) is Literal:
        choices = ", ".join(get_args(option.kind)) + (", or null" if option.may_be_none else "")
        said.append(f"One of {choices}.")
    if option.is_required:
        said.append("(required, here or on the command line)")
    return " ".join(said)


def _comment(text: str, mark: str = "# ") -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=mark,
        subsequent_indent=mark,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _entry(option: Option, values: Mapping[str, Any]) -> str:
    """Returns the line of an option and its value."""
    value = values.get(option.name, option.default)
    if option.is_required and option.name not in values:
        return f"{option.name}:"
    if isinstance(value, tuple):
        return f"{option.name}: {_dump(list(value), has_brackets=True)}"
    return _dump({option.name: value}, has_brackets=False)


def _dump(value: object, *, has_brackets: bool) -> str:
    """Returns a value as YAML, in one line unless it has some."""
    return yaml.safe_dump(
        value,
        default_flow_style=has_brackets,
        width=float("inf"),
        allow_unicode="\\" not in repr(value),  # else escaped: some breaks of lines would be lost
    ).rstrip("\n")


def read_definition(path: str, kind: type[Job]) -> dict[str, Any]:
    """Returns what a definition says, by option, as the job takes it.

    Raises:
        ConfigError: If it cannot be read, is none, or says something of another type or of no
            option of the command.
    """
    if not path:
        raise ConfigError("--job is empty: give a YAML file, such as jobs/encode.yaml")
    options = {option.name: option for option in options_of(kind)}
    found = {}
    for name, value in _load(path).items():
        if name not in options:
            raise ConfigError(f"--job {path}: {_say_unknown(name, options, kind)}")
        if value is None and options[name].is_required:
            continue
        try:
            found[name] = convert(options[name], value)
        except ConfigError as error:
            raise ConfigError(
                f"--job {path}: {error.message}{_say_quotes(options[name])}"
            ) from None
    return found


def _say_quotes(option: Option) -> str:
    is_text = str in (option.kind, *get_args(option.kind))
    return " (put it in quotes if YAML takes it for something else)" if is_text else ""


def _load(path: str) -> dict[Any, Any]:
    try:
        said = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)  # noqa: S506 (a safe one)
    except OSError as error:
        raise ConfigError(f"--job {path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--job {path} cannot be read: it is not UTF-8") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        why = getattr(error, "problem", None) or "it cannot be parsed"
        raise ConfigError(f"--job {path} is no YAML{where}: {why}") from None
    except ValueError as error:  # no such day, or a number of thousands of digits
        raise ConfigError(f"--job {path} cannot be read: {error}") from None
    except RecursionError:
        raise ConfigError(f"--job {path} cannot be read: lists in lists, too many") from None
    if said is None:  # nothing but comments
        return {}
    if not isinstance(said, dict):
        raise ConfigError(f"--job {path} is no job definition: give lines such as resolution: 256")
    return said


class _Loader(yaml.SafeLoader):
    """Plain values only, and no option twice: which of the two is meant nobody can tell."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 (PyYAML's own)
        """Returns what a mapping says.

        Raises:
            ConstructorError: If it says something twice.
        """
        names = [name for name, _ in node.value if isinstance(name, yaml.ScalarNode)]
        seen: set[str] = set()
        for name in names:
            if name.value in seen:
                why = f"{name.value} is there twice"
                raise yaml.constructor.ConstructorError(None, None, why, name.start_mark)
            seen.add(name.value)
        return super().construct_mapping(node, deep)


def _say_unknown(name: object, known: Iterable[str], kind: type[Job]) -> str:
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    meant = f"; did you mean {close[0]}?" if close else ""
    return f"{name} is no option of vqpipe {command_of(kind)}{meant}"


class _OtherTypeError(Exception):
    """A value is of another type than its option; says which one that is."""


def convert(option: Option, value: Any) -> Any:  # noqa: ANN401 (whatever was given)
    """Returns the value of an option as its job takes it: lists are tuples there.

    Raises:
        ConfigError: If it is of another type.
    """
    if value is None and option.may_be_none:
        return None
    if option.takes_one and isinstance(value, str):
        value = (value,)
    try:
        return _convert(value, option.kind)
    except _OtherTypeError as error:
        said = "empty" if value is None else _URL.sub("://...", _SHOWN.repr(value))
        one = "text, or " if option.takes_one else ""
        raise ConfigError(f"{option.name} is {said}; it must be {one}{error}") from None


_SHOWN = reprlib.Repr()
"""How a value is said that may be of any size: a few aliases make a list of gigabytes."""
_SHOWN.maxlevel, _SHOWN.maxstring, _SHOWN.maxother, _SHOWN.maxlong = 3, 160, 160, 160
_URL = re.compile(r"://[^\s'\"]*")
"""What of a URL may hold a password; nobody has looked for one in a value of another type."""


def _convert(value: Any, kind: Any) -> Any:  # noqa: ANN401 (whatever YAML holds, and any type)
    if get_origin(kind) is tuple:
        return _convert_list(value, kind)
    if get_origin(kind) is Literal:
        if value in get_args(kind):
            return value
        raise _OtherTypeError(f"one of {', '.join(get_args(kind))}")
    if kind is float:
        return _convert_number(value)
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise _OtherTypeError(_NAMES[kind])


_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
}


def _convert_number(value: object) -> float:
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)  # of text too: what YAML 1.2 reads as one, 1e-3, is none in 1.1
        except (ValueError, OverflowError):
            pass
    raise _OtherTypeError(_NAMES[float])


def _convert_list(value: object, wanted: Any) -> tuple[Any, ...]:  # noqa: ANN401 (a type)
    kinds = get_args(wanted)
    if kinds[-1] is ...:
        size, said = None, "a list, such as [caption, label]"
    else:
        size, said = len(kinds), f"a list of {len(kinds)} values"
    if not isinstance(value, list | tuple) or size not in (None, len(value)):
        raise _OtherTypeError(said)
    try:
        return tuple(_convert(each, kinds[0]) for each in value)
    except _OtherTypeError as error:
        raise _OtherTypeError(f"{said}, each {error}") from None


def to_arguments(job: Job) -> list[str]:
    """Returns the command line that asks for a job, without what has its default.

    Raises:
        ConfigError: If a value cannot stand on one.
    """
    words: list[str] = []
    for option in options_of(type(job)):
        value = getattr(job, option.name)
        if value != option.default:
            words += _words(option, value)
    return words


def _words(option: Option, value: Any) -> list[str]:  # noqa: ANN401 (of whatever type)
    if value is True:
        return [option.flag]
    if option.is_positional:
        _check_word(option, str(value), str(value).startswith("-"))
        return [str(value)]
    if not isinstance(value, tuple):
        _check_word(option, str(value), value == "None")
        return [f"{option.flag}={value}"]
    for each in value:
        _check_word(option, str(each), str(each).startswith("-"))
    return [option.flag, *map(str, value)]


def _check_word(option: Option, said: str, is_lost: bool) -> None:  # noqa: FBT001
    """Refuses a value that a command line would take for something else."""
    if is_lost:
        raise ConfigError(f"{option.name} is {said!r}, which no command line can say")
