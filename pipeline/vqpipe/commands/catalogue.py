"""The options of a job as a list: what help, shell completion and job definitions are made of."""

import functools
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

import docstring_parser
import tyro

from vqpipe.commands.all_jobs import Job
from vqpipe.commands.options import Group, OneOrMore, Shown


@dataclass(frozen=True)
class Option:
    """One thing that a command can be told."""

    name: str
    """As Python and job definitions have it: `batch_size`."""
    annotation: Any
    """Its type, with what is noted of it: `Annotated[int | None, Group.SPEED]`."""
    default: Any
    """`MISSING` if it has to be given."""
    help: str
    """What it is, in one line of any length."""

    @property
    def flag(self) -> str:
        """As a command line has it: `--batch-size`."""
        return "--" + self.name.replace("_", "-")

    @property
    def is_required(self) -> bool:
        """Whether it has to be given."""
        return self.default is MISSING

    @property
    def is_positional(self) -> bool:
        """Whether a command line has its value without its name."""
        return tyro.conf.Positional in self._notes

    @property
    def is_said(self) -> bool:
        """Whether it can be said in a form at all, and is not the program's own."""
        return tyro.conf.Suppress not in self._notes

    @property
    def group(self) -> Group | None:
        """What it is about; None if that is plain."""
        return next((note for note in self._notes if isinstance(note, Group)), None)

    @property
    def kind(self) -> Any:  # noqa: ANN401 (a type of any kind)
        """Its type without None: `int`."""
        return next(each for each in self._kinds if each is not types.NoneType)

    @property
    def may_be_none(self) -> bool:
        """Whether it may be None, too."""
        return types.NoneType in self._kinds

    @property
    def takes_one(self) -> bool:
        """Whether it is a list, and a single value says the same as a list of one."""
        return any(isinstance(note, OneOrMore) for note in self._notes)

    @property
    def is_switch(self) -> bool:
        """Whether a command line has its name without a value."""
        return self.kind is bool

    @property
    def placeholder(self) -> str | None:
        """What stands for its value in help: `INT`, `{jpeg,png}`, `STR ...`; None for a switch."""
        if self.is_switch:
            return None
        if shown := [note.text for note in self._notes if isinstance(note, Shown)]:
            return shown[0]
        is_named = self.is_positional and get_origin(self.kind) is not Literal
        return self.name.upper() if is_named else _describe(self.kind)

    @property
    def default_said(self) -> str:
        """What help says of the default; nothing where it is to leave something out."""
        if self.is_required:
            return "(required)"
        values = self.default if isinstance(self.default, tuple) else (self.default,)
        said = " ".join(map(str, values))
        return f"(default: {said})" if said not in {"None", "False", ""} else ""

    @property
    def _notes(self) -> tuple[Any, ...]:
        return getattr(self.annotation, "__metadata__", ())

    @property
    def _kinds(self) -> tuple[Any, ...]:
        is_noted = get_origin(self.annotation) is Annotated
        plain = get_args(self.annotation)[0] if is_noted else self.annotation
        return get_args(plain) if get_origin(plain) in (Union, types.UnionType) else (plain,)


def _describe(kind: Any) -> str:  # noqa: ANN401 (a type of any kind)
    if get_origin(kind) is Literal:
        return "{" + ",".join(get_args(kind)) + "}"
    if get_origin(kind) is tuple:
        *words, last = get_args(kind)
        return " ".join([*map(_describe, words), "..." if last is ... else _describe(last)])
    return str(kind.__name__).upper()


def options_of(kind: type[Job], settings: Mapping[str, Any] | None = None) -> list[Option]:
    """Returns the options of a command as help has them: by group, what has no name first.

    Args:
        kind: The command.
        settings: Values that take the place of its defaults, by option.
    """
    hints, known = get_type_hints(kind, include_extras=True), settings or {}
    helps = _helps(cast(Any, kind))  # mypy takes dataclasses for not hashable
    found = [
        Option(each.name, hints[each.name], each.default, helps[each.name]) for each in fields(kind)
    ]
    order = [None, *Group]
    found.sort(key=lambda option: (order.index(option.group), not option.is_positional))
    return [replace(each, default=known.get(each.name, each.default)) for each in found]


@functools.cache
def _helps(kind: type) -> dict[str, str]:
    """Returns the text below each field of a dataclass and of its bases."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        parsed = docstring_parser.parse_from_object(base)
        found |= {each.arg_name: _in_one_line(each.description or "") for each in parsed.params}
    return found


def paragraphs_of(kind: type[Job]) -> list[str]:
    """Returns what a command does, a line a paragraph; the first is a sentence."""
    return [_in_one_line(part) for part in (kind.__doc__ or "").split("\n\n")]


def _in_one_line(text: str) -> str:
    return " ".join(text.split())
