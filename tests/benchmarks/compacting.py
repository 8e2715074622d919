"""What putting a sink into other files takes: images/s, core time, memory, bytes spilled.

    python -m tests.benchmarks.compacting [--shards 40] [--rows 25000] [--per-file 100000]
    python -m tests.benchmarks.compacting --shards 1000 --rows 3 --per-file 500

In order, shuffled, and shuffled on a cluster whose object store has 300 MB, so that Ray spills.
Beside them is what one process of pyarrow takes that reads all rows, puts them into an order drawn
by lot and writes them, all of them in memory. It is checked that the files of the last two runs are
the same, byte by byte. `fsync` does nothing while the source is made.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa

from tests.cluster.ray_cluster import LOOPBACK, RayCluster
from tests.sink import sinks
from vqpipe.sink.commit import commit_rows

CODES, CODEBOOK = 256, 16384
_LOOK_S = 0.5

PLAIN = """
import sys, numpy as np, pyarrow.dataset as d, pyarrow.parquet as p
source, sink, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
rows = d.dataset(source + "/data").to_table()
rows = rows.take(np.random.default_rng(0).permutation(len(rows)))
for first in range(0, len(rows), size):
    p.write_table(rows.slice(first, size), f"{sink}/{first}.parquet", compression="zstd")
"""


def build(sink, shards, rows):
    """Makes a sink of codes."""
    os.fsync = lambda _: None
    writer = sinks.begin(
        sink, [f"s{i:06d}" for i in range(shards)], codebook_size=CODEBOOK, grid=(16, 16)
    )
    for index in range(shards):
        commit_rows(_rows(writer, index, rows), writer)
    sinks.end(writer)


def _rows(writer, index, rows):
    rng, kind = np.random.default_rng(index), writer.product.rows
    crop = np.tile(np.array([62, 0, 437, 375], np.int32), rows)
    codes = (rng.random(rows * CODES) ** 2 * CODEBOOK).astype(np.uint16)
    known = {
        "shard": np.full(rows, index),
        "row": np.arange(rows),
        "total": pa.array([None] * (rows - 1) + [rows], pa.int32()),
        "key": [f"{index:06d}{i:07d}" for i in range(rows)],
        "view": np.zeros(rows, np.uint8),
        "width": np.full(rows, 500),
        "height": np.full(rows, 375),
        "crop": pa.FixedSizeListArray.from_arrays(pa.array(crop), 4),
        "flip": np.zeros(rows, bool),
        "kept.caption": [f"a photo of thing {i}, and some words behind it" for i in range(rows)],
        "kept.score": np.arange(rows, dtype=np.float32),
        "codes": pa.FixedSizeListArray.from_arrays(pa.array(codes), CODES),
    }
    columns = {each.name: known.get(each.name, pa.nulls(rows, each.type)) for each in kind}
    return pa.table(columns).cast(kind)


class Watch:
    """Looks at a process, all below it and at others; and at what is spilled below a folder."""

    def __init__(self, process, others=(), folder=None):
        self._process, self._others, self._folder = process, others, folder
        self._seconds, self._done = {}, threading.Event()
        self.peak = self.driver = self.spilled = 0
        self._thread = threading.Thread(target=self._look)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        self._thread.join()

    @property
    def core_s(self):
        """Seconds of a core, as far as they were seen."""
        return sum(self._seconds.values())

    def _look(self):
        while not self._done.wait(_LOOK_S):
            held = 0
            for each in self._tree():
                try:
                    times = each.cpu_times()
                    self._seconds[each.pid] = times.user + times.system
                    held += each.memory_full_info().pss
                except psutil.Error:  # it has ended
                    continue
            self.peak = max(self.peak, held)
            self._look_at_disk()

    def _tree(self):
        try:
            driver = psutil.Process(self._process.pid)
            self.driver = max(self.driver, driver.memory_info().rss)
            found = [driver, *driver.children(recursive=True)]
        except psutil.Error:
            found = []
        return [*found, *(each for node in self._others for each in node.processes())]

    def _look_at_disk(self):
        if self._folder:
            files = Path(self._folder).glob("**/ray_spilled*/*")
            sizes = (file.stat().st_size for file in files if file.exists())
            self.spilled = max(self.spilled, sum(sizes))


def measure(name, images, command, environment=(), **watched):
    """Runs a command to its end and prints what it took."""
    begun = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *map(str, command)],
        env={**os.environ, "RAY_ADDRESS": "", **dict(environment)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    with Watch(process, **watched) as seen:
        _, said = process.communicate()
    seconds = time.monotonic() - begun
    if process.returncode:
        raise RuntimeError(f"{name} ended with {process.returncode}: {said.decode()[-2000:]}")
    print(
        f"{name}: {seconds:.1f} s, {images / seconds:,.0f} images/s, {seen.core_s:.1f} s of a "
        f"core, {seen.peak / 1e6:,.0f} MB of all processes, {seen.driver / 1e6:,.0f} of the driver,"
        f" {seen.spilled / 1e6:,.0f} MB spilled",
        flush=True,
    )


def digests(sink):
    """Returns what the files of a sink hold, by name."""
    files = sorted(Path(sink, "data").glob("*.parquet"))
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, default=40)
    parser.add_argument("--rows", type=int, default=25_000)
    parser.add_argument("--per-file", type=int, default=100_000)
    options = parser.parse_args()
    root, images = Path(tempfile.mkdtemp(prefix="vqcompact")), options.shards * options.rows
    try:
        build(root / "codes", options.shards, options.rows)
        (root / "plain").mkdir()
        places = (root / "codes", root / "plain", options.per_file)
        measure("pyarrow, in memory", images, ["-c", PLAIN, *places])
        ours = ["-m", "vqpipe", "compact", root / "codes"]
        size = ["--rows-per-file", options.per_file]
        mixed = [*size, "--shuffle", 0]
        measure("in order", images, [*ours, root / "flat", *size])
        measure("shuffled", images, [*ours, root / "mixed", *mixed])
        with RayCluster() as cluster:
            cluster.add(num_cpus=5)
            where = {"others": cluster.nodes, "folder": cluster._temp_dir}
            joined = [*ours, root / "spilled", *mixed, "--address", cluster.address]
            measure("shuffled, 300 MB for objects", images, joined, LOOPBACK, **where)
        assert digests(root / "mixed") == digests(root / "spilled")
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
