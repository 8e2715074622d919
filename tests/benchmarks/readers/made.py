"""The sinks that are read."""

from tests.dataset.sinks import grids, make
from vqpipe.code_layout import CodeLayout

_GRID = CodeLayout.grid(16, 16, 16_384)
SINKS = {
    "plain": ([10_000] * 100, {"layout": _GRID}),
    "views": ([2_500] * 20, {"layout": _GRID, "views": 20}),
    "grids": (
        [10_000] * 20,
        {"layout": grids((16, 16), (12, 20), (20, 12), codebook_size=16_384)},
    ),
    "many": ([10] * 10_000, {"layout": _GRID}),
    "stored": ([5_000] * 20, {"layout": _GRID}),
}
"""Samples of each shard, and what they are, by name."""


def make_sink(folder, name):
    """Returns a sink's folder; it is made unless it is there."""
    sink = folder / name
    if not (sink / "_SUCCESS").exists():
        rows, how = SINKS[name]
        make(sink, rows, **how)
    return sink
