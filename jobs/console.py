"""What the commands print: a title, then one line a field."""

import textwrap
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.text import Text

_NAME_WIDTH = 16
_INDENT = " " * (_NAME_WIDTH + 4)


class Prose(str):
    """A value that a terminal may break between words; all others can be copied as they are."""

    __slots__ = ()


def print_fields(console: Console, title: str, fields: Iterable[tuple[str, object]]) -> None:
    """Prints a title and one line a field; values are plain text, never markup, never cut."""
    console.print(Text(title, style="bold"), soft_wrap=True)
    for name, value in fields:
        shown = _wrap(console, value) if isinstance(value, Prose) else str(value)
        line = Text.assemble((f"  {name:<{_NAME_WIDTH}}  ", "dim"), shown)
        console.print(line, soft_wrap=True)


def _wrap(console: Console, text: str) -> str:
    """Returns text in lines that fit a terminal, below each other; elsewhere as it is."""
    if not console.is_terminal:
        return text
    width = max(console.width - len(_INDENT), len(_INDENT))
    lines = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
    return f"\n{_INDENT}".join(lines)


def printable(text: str, limit: int = 160) -> str:
    """Returns text from the data as one line that does nothing to a terminal."""
    safe = "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)
    return safe if len(safe) <= limit else safe[: limit - 3] + "..."


def describe_totals(totals: dict[str, Any], grid: Iterable[int]) -> list[tuple[str, object]]:
    """Returns the lines that say what a sink holds."""
    height, width = grid
    usage, perplexity = totals["codebook_usage"], totals["codebook_perplexity"]
    reasons = totals["rejected_by_reason"].items()
    return [
        ("samples", f"{totals['samples']:,}"),
        ("encoded", f"{totals['encoded']:,}"),
        ("rejected", f"{totals['rejected']:,}"),
        *((f"  {reason}", f"{count:,}") for reason, count in reasons),
        ("codes per image", f"{height * width:,} ({height} x {width})"),
        ("codebook usage", f"{usage:.1%} of the entries, perplexity {perplexity:,.1f}"),
        *_describe_audit(totals),
        ("bytes per image", f"{totals['bytes_per_image']:,.1f}"),
    ]


def _describe_audit(totals: dict[str, Any]) -> list[tuple[str, object]]:
    if not totals["audited"]:
        return []
    share, images = totals["flip_rate"], totals["audited"]
    return [("unlike float32", f"{share:.2%} of the codes, measured on {images:,} image(s)")]
