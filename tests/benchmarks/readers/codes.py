"""The codes of a sink, as its Parquet files have them."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from tests.benchmarks.readers import CODES


def files_of(sink):
    """Returns the objects of a sink on a disk, in order."""
    return sorted(str(path) for path in Path(sink, "data").glob("**/*.parquet"))


def codes_of(path):
    """Returns the codes of a file: (rows, 256) uint16."""
    column = pq.read_table(path, columns=["codes"])["codes"].combine_chunks()
    return column.flatten().to_numpy().reshape(-1, CODES)


def hashes_of(codes):
    """Returns a hash of each row: (rows,) uint64."""
    weights = np.random.default_rng(0).integers(0, 2**64, CODES, np.uint64, endpoint=False)
    return (codes.astype(np.uint64) * weights).sum(axis=1)
