"""A picture of throughput: one bar a side, its share of the floor."""

import statistics

import matplotlib as mpl
from matplotlib import pyplot

_NAMES = {
    "ours": "vqpipe, tars of 1,000 images",
    "ours, one tar": "vqpipe, one large tar",
    "ours, from S3": "vqpipe, tars on S3 (local server)",
    "loader": "torch DataLoader script",
    "raydata": "Ray Data, as documented",
    "daft": "Daft, as documented (resizes in its own way)",
}
_OURS, _OTHERS, _INK = "#2f6f73", "#b9b4a7", "#222222"


def draw(path, shares, machine):
    """Draws the medians of shares (by side, one a round), with their range, as a PNG."""
    sides = [side for side in _NAMES if side in shares]
    mpl.use("Agg")
    figure, axes = pyplot.subplots(figsize=(9, 0.62 * len(sides) + 1.5), layout="constrained")
    for place, side in enumerate(reversed(sides)):
        _bar(axes, place, side, shares[side])
    axes.axvline(1, color=_INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.text(1.005, len(sides) - 0.42, "only opening\nand resizing", fontsize=8, va="top")
    axes.set_yticks(range(len(sides)), [_NAMES[side] for side in reversed(sides)], fontsize=10)
    axes.set_xlim(0, 1.16)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"], fontsize=9)
    axes.set_title(
        "Images per second, as a share of what the cores could open at most",
        loc="left",
        fontsize=11,
    )
    rounds = len(next(iter(shares.values())))
    note = f"500x375 JPEGs to 256 px, a stub for the network; median and range of {rounds} rounds"
    axes.set_xlabel(f"{note}\n{machine}", fontsize=8, loc="left", color="#666666")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _bar(axes, place, side, shares):
    middle = statistics.median(shares)
    axes.barh(place, middle, height=0.62, color=_OURS if side.startswith("ours") else _OTHERS)
    axes.plot([min(shares), max(shares)], [place, place], color=_INK, linewidth=1.2)
    axes.text(0.012, place, f"{middle * 100:.0f} %", va="center", color="white", weight="bold")
