"""What benchmarks measure, as lines of JSON beside what they print.

A line is written when its figure is there, and is on the disk before the next is measured: what is
killed in the middle has lost nothing. Where they go is in the environment, so that a benchmark that
is run by hand writes none.
"""

import json
import os
from pathlib import Path

FILE, STEP = "VQPIPE_FIGURES", "VQPIPE_FIGURES_STEP"
"""Names in the environment: the file of lines, and what each line says that it belongs to."""


def note(name, value, unit, **more):
    """Writes a figure: what it is of, how much, and of what; more is what else there is to say."""
    if path := os.environ.get(FILE):
        step = os.environ.get(STEP)
        write(
            path,
            {"kind": "figure", "step": step, "name": name, "value": value, "unit": unit} | more,
        )


def write(path, line):
    """Adds a line and waits until it is on the disk."""
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read(path):
    """Returns the lines of a file, none if it is not there; one that was cut off is left out."""
    found = []
    for text in Path(path).read_text().splitlines() if Path(path).exists() else ():
        try:
            found.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return found
