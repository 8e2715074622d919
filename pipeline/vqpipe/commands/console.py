"""What the commands print: a title, then one line a field."""

import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rich.console import Console
from rich.text import Text

Fields = list[tuple[str, object]]
"""Names and values, in order."""

_NAME_WIDTH, _MOST_NAME_WIDTH = 16, 20
"""Letters of the column of names; the longest name of a table, such as a reason, widens it."""


_is_silent: ContextVar[bool] = ContextVar("is_silent", default=False)


@contextmanager
def silence() -> Iterator[None]:
    """Has nothing said by what the `with` block runs."""
    token = _is_silent.set(True)
    try:
        yield
    finally:
        _is_silent.reset(token)


def stdout() -> Console:
    """Returns where results are said."""
    return Console(highlight=False, quiet=_is_silent.get())


def stderr() -> Console:
    """Returns where it is said what goes on."""
    return Console(stderr=True, highlight=False, quiet=_is_silent.get())


class Prose(str):
    """A value that a terminal may break between words; all others can be copied as they are."""

    __slots__ = ()


def print_fields(console: Console, title: str, fields: Iterable[tuple[str, object]]) -> None:
    """Prints a title and one line a field; values are plain text, never markup, never cut."""
    console.print(Text(harmless(title), style="bold"), soft_wrap=True)
    lines = list(fields)
    names = (len(name) for name, _ in lines if len(name) <= _MOST_NAME_WIDTH)
    width = max(_NAME_WIDTH, *names, 0)
    for name, value in lines:
        text = harmless(str(value))
        shown = _wrap(console, text, width + 4) if isinstance(value, Prose) else text
        line = Text.assemble((f"  {name:<{width}}  ", "dim"), shown)
        console.print(line, soft_wrap=True)


def print_warning(console: Console, text: str) -> None:
    """Prints what a person should look at, while a command goes on."""
    console.print(f"  {harmless(text)}", style="yellow", markup=False, soft_wrap=True)


def _wrap(console: Console, text: str, indent: int) -> str:
    """Returns text in lines that fit a terminal, below each other; elsewhere as it is."""
    if not console.is_terminal:
        return text
    width = max(console.width - indent, indent)
    lines = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
    return ("\n" + " " * indent).join(lines)


def harmless(text: str) -> str:
    """Returns text that does nothing to a terminal but break lines.

    Names of files, members, keys and columns come from whoever made the data; one may hold an
    escape sequence that sets a window's title, hides a line or turns it around.
    """
    return "".join(each if each.isprintable() or each == "\n" else _escape(each) for each in text)


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape").decode()


def printable(text: str, limit: int = 160) -> str:
    """Returns text from the data as one harmless line of a bounded length."""
    safe = harmless(text).replace("\n", "\\n")
    return safe if len(safe) <= limit else safe[: limit - 3] + "..."


def describe_bytes(count: int) -> str:
    """Returns bytes in units of a thousand: `12.4 kB`, `45.1 GB`."""
    size, unit = float(count), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:,.1f} {unit}"
