"""Readers of codes side by side: `tests.benchmarks.dataset`.

Each file is one: `prepare(sink, place)` writes what it reads, where that is not the sink itself,
and `open_epochs(place, cache, workers)` returns a function of the number of an epoch, which returns
an iterable of shuffled batches, (256, 256) int64 tensors. `run` measures one in a process.
"""

BATCH = 256
"""Rows of a batch."""
CODES = 256
"""Of a row."""
