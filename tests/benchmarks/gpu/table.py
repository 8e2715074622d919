"""The table at the end: every figure beside what was expected of it, and what became of steps."""

from tests.benchmarks.gpu.predictions import predict

_SHOWN_LINES = 12
_SHOWN_LETTERS = 90
"""Of what else a figure says; the names of some kernels are long."""


def render(lines):
    """Returns all that is in the lines of a file of figures, as text; the last of each counts."""
    figures = {(line["step"], line["name"]): line for line in lines if line["kind"] == "figure"}
    steps = {line["step"]: line for line in lines if line["kind"] == "step"}
    gpu = next((line["value"] for (_, name), line in figures.items() if name == "GPU"), "")
    expected = predict(str(gpu))
    rows = [_row(line, expected) for line in figures.values()]
    said = [f"{name}: {line['status']}, {line['seconds']:.0f} s" for name, line in steps.items()]
    if any(line["is_tiny"] for line in steps.values()):
        said.append("sizes were tiny, whatever names of figures say: nothing of it is a speed")
    return "\n".join(["", *_align([_TITLES, *rows]), "", *said, *_explain(steps.values())])


_TITLES = ("figure", "measured", "", "predicted", "")


def _row(line, expected):
    beside = {key: line[key] for key in line if key not in _OWN}
    said = ", ".join(f"{key} {value}" for key, value in beside.items())
    predicted = expected.get(line["name"], "-")
    return (line["name"], _show(line["value"]), line["unit"], predicted, said[:_SHOWN_LETTERS])


_OWN = {"kind", "step", "name", "value", "unit"}


def _show(value):
    if isinstance(value, str):
        return value
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def _align(rows):
    widths = [max(len(row[column]) for row in rows) for column in range(len(_TITLES) - 1)]
    return [
        "  ".join(
            [*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]
        ).rstrip()
        for row in rows
    ]


def _explain(steps):
    """Yields the last lines of what is not in order."""
    for step in steps:
        if step["status"] != "ok" and step["last"]:
            yield f"\n{step['step']}: {step['status']}"
            yield from (f"    {line}" for line in step["last"][-_SHOWN_LINES:])
