"""What RESULTS.md says was expected, so that a run sets its figures beside it."""

from pathlib import Path

RESULTS = Path(__file__).parents[1] / "RESULTS.md"
_HEADINGS = ("| images/s |", "| figure |")
"""How the tables of predictions begin: rates of models, and single figures."""
_NOT_OURS = "+ timed kernels"
"""A change that no run makes."""
_GPUS = ("H200", "H100")


def predict(gpu):
    """Returns what is expected of a GPU by the name of a figure, in words.

    Args:
        gpu: As torch calls it; of another than was predicted for, nothing is expected.
    """
    known = next((name for name in _GPUS if name in gpu), None)
    if known is None:
        return {}
    found = {}
    for heading in _HEADINGS:
        for row in read_table(heading):
            found |= _expect(row, known)
    return found


def read_table(heading):
    """Returns the rows of the table whose first line begins like this, as dictionaries."""
    lines = iter(RESULTS.read_text(encoding="utf-8").splitlines())
    titles = next((_cells(line) for line in lines if line.startswith(heading)), None)
    next(lines, None)  # the rule below
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append(dict(zip(titles, _cells(line), strict=True)))
    return rows


def _cells(line):
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _expect(row, gpu):
    if "figure" in row:
        return {row["figure"]: row[gpu]}
    if row["GPU"] != gpu:
        return {}
    changes = [name for name in row if name.startswith("+") and row[name] and name != _NOT_OURS]
    best = row[changes[-1]]
    return {
        f"{row['images/s']} eager": row["eager"],
        f"{row['images/s']} compiled": f"{row['compiled']}, then {best}",
    }
