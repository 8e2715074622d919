"""Measures one reader: `python -m tests.benchmarks.readers.run '{"side": "ours", ...}'`.

Prints a line of JSON: what opening took, and of each epoch its rows, seconds, seconds of core time
(of this process, with its threads), seconds to the first batch, and bytes of private memory after a
tenth, a half and all of it.
"""

import importlib
import itertools
import json
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import torch

from tests.benchmarks.readers import BATCH, CODES
from tests.benchmarks.readers.codes import hashes_of

_MOMENTS = (0.1, 0.5, 1.0)


def main():
    asked = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    side = importlib.import_module(f"tests.benchmarks.readers.{asked['side']}")
    place, cache = asked["place"], Path(asked["cache"])
    place = place if "://" in place else Path(place)
    started = time.perf_counter()
    if asked["does"] == "prepare":
        side.prepare(Path(asked["sink"]), place)
        found = {"seconds": time.perf_counter() - started}
    else:
        epochs = side.open_epochs(place, cache, asked["workers"], **asked.get("options", {}))
        opened = time.perf_counter() - started
        found = {"opened": opened, **_DOES[asked["does"]](epochs, asked)}
    print(json.dumps(found))


def measure(epochs, asked):
    """Returns the figures of each epoch."""
    most_s, rows = asked["most_s"], asked["rows"]
    return {"epochs": [_pass(epochs(each), most_s, rows) for each in range(asked["epochs"])]}


def _pass(batches, most_s, rows):
    """Returns the figures of a pass, up to its last batch, or the first one behind its time."""
    marks = [int(rows * moment) for moment in _MOMENTS]
    memory, taken, first = [], 0, None
    began, core = time.perf_counter(), time.process_time()
    for batch in batches:
        taken += len(batch)
        seconds = time.perf_counter() - began
        cores = time.process_time() - core
        first = seconds if first is None else first
        if len(memory) < len(marks) - 1 and taken >= marks[len(memory)]:
            memory.append(_memory())
        if seconds > most_s:
            break
    memory.append(_memory())
    return {
        "first": first,
        "rate": taken / seconds,
        "core_rate": taken / cores,
        "rows": taken,
        "seconds": seconds,
        "memory": memory,
    }


def _memory():
    """Returns bytes: USS, and what of it is not pages of files, which the kernel may drop."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    own = next(line for line in lines if line.startswith("Anonymous:"))
    return [psutil.Process().memory_full_info().uss, int(own.split()[1]) * 1024]


def check(epochs, asked):
    """Checks that batches are what they should be: rows of the sink, shuffled, none twice."""
    known = np.load(asked["hashes"])
    batches = list(itertools.islice(epochs(0), 40))
    for batch in batches:
        assert batch.shape == (BATCH, CODES), batch.shape
        assert batch.dtype == torch.int64, batch.dtype
    found = hashes_of(torch.cat(batches).numpy())
    places = np.searchsorted(known, found)
    assert np.array_equal(known[places % len(known)], found), "rows that the sink has not"
    assert len(np.unique(found)) == len(found), "rows twice"
    return {"checked": len(found)}


_DOES = {"measure": measure, "check": check}

if __name__ == "__main__":
    main()
