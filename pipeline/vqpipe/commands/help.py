"""What `--help` prints: the options of a command in groups, in lines that fit the terminal.

The parser's own help has neither groups in a flat job nor an order that outlives a wide terminal.
"""

import itertools
import textwrap
from collections.abc import Iterable, Iterator, Mapping

from vqpipe.commands.catalogue import Option

_MOST_WIDTH = 120
"""Longer lines are hard to read, however wide the terminal is."""
_INDENT = 24
"""Where what is said of an option begins."""


def write_help(usage: str, about: list[str], options: list[Option], width: int) -> str:
    """Returns the help of a command.

    Args:
        usage: How it is called, without options.
        about: What it does, by paragraphs.
        options: What it can be told, group by group.
        width: Letters in a line of the terminal.
    """
    width = min(width, _MOST_WIDTH)
    blocks = [_fill(f"usage: {usage}{_describe_use(options)}", width, 7)]
    blocks += [_fill(each, width) for each in about]
    for group, members in itertools.groupby(options, lambda option: option.group):
        title = _fill(f"{group.name.lower()}: {group.value}", width) if group else "options:"
        blocks.append("\n".join([title, *_write_options(members, width)]))
    return "\n\n".join(blocks)


def write_list(
    usage: str,
    about: list[str],
    commands: Mapping[str, str],
    besides: Mapping[str, str],
    width: int,
) -> str:
    """Returns the help of the program: its commands, and what it does besides, each in a line."""
    width = min(width, _MOST_WIDTH)
    blocks = [f"usage: {usage} COMMAND [OPTIONS]", *(_fill(each, width) for each in about)]
    for title, entries in (("commands:", commands), ("besides:", besides)):
        lines = (line for typed, said in entries.items() for line in _write(typed, said, width))
        blocks.append("\n".join([title, *lines]))
    return "\n\n".join(blocks)


def _describe_use(options: list[Option]) -> str:
    needed = [
        f" {each.placeholder}" if each.is_positional else f" {each.flag} {each.placeholder}"
        for each in options
        if each.is_required
    ]
    return "".join([*needed, " [OPTIONS]"])


def _write_options(options: Iterable[Option], width: int) -> Iterator[str]:
    for option in options:
        words = [*([] if option.is_positional else [option.flag]), option.placeholder or ""]
        said = f"{option.help} {option.default_said}"
        yield from _write(" ".join(words), said, width)


def _write(typed: str, said: str, width: int) -> Iterator[str]:
    """Yields lines: what to type, and beside it, or below if that is long, what it is."""
    lead = f"  {typed.strip()}".ljust(_INDENT)
    if len(lead) > _INDENT or lead[-1] != " ":
        yield lead.rstrip()
        lead = " " * _INDENT
    yield _fill(lead + said.rstrip(), width, _INDENT)


def _fill(text: str, width: int, indent: int = 0) -> str:
    """Returns text in lines; all but the first are indented."""
    lead = text[:indent]
    return textwrap.fill(
        text[indent:],
        width,
        initial_indent=lead,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
