"""What the commands print: a title, then one line a field."""

import shlex
import textwrap
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.text import Text

from pipeline.run import Run
from pipeline.totals import MADE

Fields = list[tuple[str, object]]
"""Names and values, in order."""

_NAME_WIDTH, _MOST_NAME_WIDTH = 16, 20
"""Letters of the column of names; the longest name of a table, such as a reason, widens it."""


class Prose(str):
    """A value that a terminal may break between words; all others can be copied as they are."""

    __slots__ = ()


def print_fields(console: Console, title: str, fields: Iterable[tuple[str, object]]) -> None:
    """Prints a title and one line a field; values are plain text, never markup, never cut."""
    console.print(Text(title, style="bold"), soft_wrap=True)
    lines = list(fields)
    names = (len(name) for name, _ in lines if len(name) <= _MOST_NAME_WIDTH)
    width = max(_NAME_WIDTH, *names, 0)
    for name, value in lines:
        shown = _wrap(console, value, width + 4) if isinstance(value, Prose) else str(value)
        line = Text.assemble((f"  {name:<{width}}  ", "dim"), shown)
        console.print(line, soft_wrap=True)


def _wrap(console: Console, text: str, indent: int) -> str:
    """Returns text in lines that fit a terminal, below each other; elsewhere as it is."""
    if not console.is_terminal:
        return text
    width = max(console.width - indent, indent)
    lines = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
    return ("\n" + " " * indent).join(lines)


def printable(text: str, limit: int = 160) -> str:
    """Returns text from the data as one line that does nothing to a terminal."""
    safe = "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)
    return safe if len(safe) <= limit else safe[: limit - 3] + "..."


def describe_output(sink: str, run: Run) -> Fields:
    """Returns the lines that say where a run's output is and how to read it."""
    images: Fields = []
    if run.identity.get("layout") in {"webdataset", "folder"}:
        images = [("images", f"{sink}/images/")]
    return [*images, ("output", f"{sink}/data/"), ("read it", read_command(sink))]


def read_command(sink: str) -> str:
    """Returns a command that shows some rows of a sink."""
    place = sink.replace("'", "''")  # as SQL has it
    query = f"FROM '{place}/data/**/*.parquet' LIMIT 5"
    is_plain = not any(letter in sink for letter in '"$`\\!')
    return f'duckdb -c "{query}"' if is_plain else f"duckdb -c {shlex.quote(query)}"


def describe_totals(totals: dict[str, Any], facts: dict[str, Any]) -> Fields:
    """Returns the lines that say what a sink holds.

    Args:
        totals: As they stand in `summary.json`.
        facts: What `run.json` says beside the identity.
    """
    made = next(made for made in MADE.values() if made in totals)
    reasons = totals["rejected_by_reason"].items()
    return [
        ("samples", f"{totals['samples']:,}"),
        (made, f"{totals[made]:,}"),
        ("rejected", f"{totals['rejected']:,}"),
        *((f"  {reason}", f"{count:,}") for reason, count in reasons),
        *(_describe_codes(totals, facts["grid"]) if "codebook_usage" in totals else ()),
        ("bytes per image", f"{totals['bytes_per_image']:,.1f}"),
    ]


def _describe_codes(totals: dict[str, Any], grid: Iterable[int]) -> Fields:
    height, width = grid
    usage, perplexity = totals["codebook_usage"], totals["codebook_perplexity"]
    return [
        ("codes per image", f"{height * width:,} ({height} x {width})"),
        ("codebook usage", f"{usage:.1%} of the entries, perplexity {perplexity:,.1f}"),
        *_describe_audit(totals),
    ]


def _describe_audit(totals: dict[str, Any]) -> Fields:
    return [*_describe_flips(totals), *describe_psnr(totals)]


def describe_psnr(totals: dict[str, Any]) -> Fields:
    """Returns the lines about the images that were decoded again on the way."""
    if not totals.get("psnr_images"):
        return []
    said = f"{totals['psnr_db']:.2f} dB PSNR, measured on {totals['psnr_images']:,} image(s)"
    low = totals["low_psnr_shards"]
    look = f"{', '.join(map(printable, low))}: images there come back far worse than elsewhere"
    return [("decoded again", said), *([("look at", Prose(look))] if low else [])]


def _describe_flips(totals: dict[str, Any]) -> Fields:
    if not totals["audited"]:
        return []
    share, images = totals["flip_rate"], totals["audited"]
    return [("unlike float32", f"{share:.2%} of the codes, measured on {images:,} image(s)")]
