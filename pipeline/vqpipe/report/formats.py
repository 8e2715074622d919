"""Numbers and names as a person reads them. What is not a number is a dash, never "nan"."""

import math
import re

from markupsafe import Markup, escape

MISSING = "–"  # noqa: RUF001 (a dash on purpose)
LONGEST = 500
"""Letters that any text on the page may have, such as a key; of more, the middle is left away."""
_OPTION = re.compile(r"--[a-z][a-z-]*")
_SUFFIXES = ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "k"))
_WORDS = ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"))


def count(value: int) -> str:
    """Returns a whole number with separators: 1,234,567."""
    return f"{value:,}"


def counted(number: int, noun: str) -> str:
    """Returns a number of things: 1 image, 2,048 images."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def fixed(value: float | None, digits: int) -> str:
    """Returns a number with that many decimals, a proper minus sign and ∞."""
    if value is None or math.isnan(value):
        return MISSING
    text = "∞" if math.isinf(value) else f"{abs(value):,.{digits}f}"
    return f"−{text}" if value < 0 and text.strip("0.,") else text  # noqa: RUF001


def share(value: float | None) -> str:
    """Returns a share of 1 in percent; 0% and 100% mean exactly that."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value in (0, 1):
        return f"{value:.0%}"
    if not 0.0001 <= value <= 0.9999:
        return "<0.01%" if value < 0.5 else ">99.99%"
    return f"{value:.1%}" if 0.01 <= value <= 0.99 else f"{value:.2%}"


def short(value: float) -> str:
    """Returns a number for the end of an axis' tick: 250, 1k, 2.5M."""
    for size, suffix in _SUFFIXES:
        if value >= size:
            return f"{value / size:g}{suffix}"
    return f"{value:g}"


def rough(value: int) -> str:
    """Returns a whole number in words from a million on: 308.1 million."""
    for size, word in _WORDS:
        if value >= size:
            return f"{value / size:,.1f} {word}"
    return f"{value:,}"


def elide(text: str, letters: int) -> str:
    """Returns the text, or its two ends where it is longer than that: of a path, both tell."""
    if len(text) <= letters:
        return text
    tail = (letters - 1) // 2
    return f"{text[: letters - 1 - tail]}…{text[-tail:]}"


def printable(text: str) -> str:
    """Returns the text with � for what has no place on a page: controls, lone surrogates, NUL.

    Marks that turn the direction of writing are among them: they would rearrange what follows.
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else _replaced(letter) for letter in text)


def mark_options(text: str) -> Markup:
    """Returns the text with a command's options, such as --lpips, as code, which is not broken."""
    escaped = str(escape(printable(text)))
    return Markup(_OPTION.sub(r"<code>\g<0></code>", escaped))  # noqa: S704 (escaped above)


def _replaced(letter: str) -> str:
    if letter == "\xa0":  # ours
        return letter
    return " " if letter.isspace() else "\ufffd"
