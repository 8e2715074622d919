"""Speed of reading a Parquet shard with kept columns, against Arrow's own reader in the same run.

    python -m tests.benchmarks.reading [--rows 20000] [--rounds 5]

    floor   the same columns by `pyarrow.parquet`, a row at a time, nothing done with them
    ours    the samples of the shard, put together to tables of rows

Both use one thread. Figures are rows per second of CPU, and their ratio is taken within a round.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vqpipe.schema import Selection
from vqpipe.sink.ranges import Staged
from vqpipe.sources import kept_schema, list_shards, read_shard
from vqpipe.stages.read import read_rows

KEEP = ("caption", "score", "when", "tags")
BLOCK_ROWS, IMAGE_BYTES = 128, 4_000
PNG = b"\x89PNG\r\n\x1a\n"


def write_source(folder, rows):
    rng = np.random.default_rng(0)
    images = [PNG + rng.bytes(IMAGE_BYTES) for _ in range(100)]
    table = pa.table(
        {
            "image": [images[i % 100] for i in range(rows)],
            "caption": [f"a photo of number {i}" for i in range(rows)],
            "score": pa.array(np.arange(rows, dtype=np.float64)),
            "when": pa.array(np.arange(rows), pa.timestamp("us", "UTC")),
            "tags": pa.array([["a", "b", str(i)] for i in range(rows)]),
        }
    )
    pq.write_table(table, folder / "a.parquet", row_group_size=1_000)


def measure_floor(path, names):
    started = time.process_time()
    with pq.ParquetFile(path, buffer_size=2**20, pre_buffer=False) as file:
        rows = sum(len(b) for b in file.iter_batches(1, columns=names, use_threads=False))
    return rows / (time.process_time() - started)


def measure_ours(folder, keep):
    listing, selection = list_shards(str(folder)), Selection("image", keep=keep)
    kept = kept_schema(listing, selection)
    started = time.process_time()
    samples = read_shard(listing.shards[0], selection, kept)
    rows = sum(len(table) for table in read_rows(samples, 0, Staged(), kept, BLOCK_ROWS))
    return rows / (time.process_time() - started)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vqbench") as folder:
        write_source(Path(folder), options.rows)
        for keep in ((), KEEP):
            ratios = []
            for _ in range(options.rounds):
                floor = measure_floor(f"{folder}/a.parquet", ["image", *keep])
                ours = measure_ours(folder, keep)
                ratios.append(ours / floor)
                print(f"{len(keep)} kept  floor {floor:,.0f}  ours {ours:,.0f}", flush=True)
            listed = ", ".join(f"{ratio:.2f}" for ratio in ratios)
            print(f"ours / floor median {statistics.median(ratios):.3f}  of {listed}")


if __name__ == "__main__":
    main()
