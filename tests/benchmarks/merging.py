"""What the merge of one large shard takes: memory, seconds, storage calls.

    python -m tests.benchmarks.merging [--rows 1000000] [--grid 64] [--ranges 500]
    python -m tests.benchmarks.merging --rows 4096 --grid 2 --ranges 2048

Rows come to the commit in blocks, as the codec's would; codes are random, so that nothing about
them compresses. `fsync` does nothing here: the disk is not the question. The merge runs in a
process of its own, which has staged nothing, and of which the peak is taken; before it, one that
has nothing to merge tells what imports alone take.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from tests.sink.runs import start
from tests.storage.intercept import Standing
from vqpipe.sink.commit import commit_rows

CODEBOOK = 16384


class Counted(Standing):
    """Counts the storage calls of a block."""

    def __init__(self):
        self.calls = 0

    def _call(self, real, *args, **options):
        self.calls += 1
        return real(*args, **options)


def block(writer, total, first, last):
    """Returns encoded rows `first` to `last`, random codes in them."""
    rows, kind = last - first, writer.product.codes.type
    codes = np.random.default_rng(first).integers(0, CODEBOOK, rows * kind.list_size, np.uint16)
    known = {
        "shard": pa.array(np.zeros(rows, np.int32)),
        "row": pa.array(np.arange(first, last, dtype=np.int32)),
        "key": pa.array([f"images/{row:09d}" for row in range(first, last)]),
        "view": pa.array(np.zeros(rows, np.uint8)),
        "codes": pa.FixedSizeListArray.from_arrays(codes, kind.list_size),
    }
    if last == total:
        known["total"] = pa.array([None] * (rows - 1) + [total], pa.int32())
    schema = writer.product.rows
    columns = {f.name: known.get(f.name, pa.nulls(rows, f.type)) for f in schema}
    return pa.table(columns).cast(schema)


def peak_mb():
    """Returns the most memory that this process has had."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def begin(folder, grid):
    os.fsync = lambda _: None
    return start(folder, codebook_size=CODEBOOK, grid=(grid, grid), kept=pa.schema([]))


def stage(folder, options):
    """Stages all blocks but the last."""
    writer, size = begin(folder, options.grid), options.rows // options.ranges
    with Counted() as counted:
        started = time.perf_counter()
        for number in range(options.ranges - 1):
            rows = block(writer, options.rows, number * size, (number + 1) * size)
            commit_rows(rows, writer)
        seconds = time.perf_counter() - started
    print(f"{options.ranges - 1:,} blocks staged: {seconds:.1f} s, {counted.calls:,} storage calls")


def merge(folder, options):
    """Brings the last block, if there is one, and says what that took."""
    writer = begin(folder, options.grid)
    if not options.merge:
        print(f"imports alone: peak {peak_mb():,.0f} MB")
        return
    size = options.rows // options.ranges
    rows = block(writer, options.rows, options.rows - size, options.rows)
    started = time.perf_counter()
    (receipt,) = commit_rows(rows, writer).to_pylist()
    assert receipt["committed"] == options.rows, receipt
    codes = options.rows * options.grid**2 * 2 / 1e6
    seconds = time.perf_counter() - started
    print(f"{codes:,.0f} MB of codes merged: {seconds:.1f} s, peak {peak_mb():,.0f} MB")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--grid", type=int, default=64)
    parser.add_argument("--ranges", type=int, default=500)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--merge", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder:
        merge(Path(options.folder), options)
        return
    with tempfile.TemporaryDirectory() as folder:
        again = [sys.executable, "-m", "tests.benchmarks.merging", *sys.argv[1:]]
        subprocess.run([*again, "--folder", f"{folder}/none"], check=True)
        sys.stdout.flush()
        stage(f"{folder}/sink", options)
        sys.stdout.flush()
        subprocess.run([*again, "--folder", f"{folder}/sink", "--merge"], check=True)


if __name__ == "__main__":
    main()
