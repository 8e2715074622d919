"""What a script of a few lines would do: an array on the disk, mapped, its rows in any order."""

import numpy as np
import torch

from tests.benchmarks.readers import BATCH, CODES
from tests.benchmarks.readers.codes import codes_of, files_of


def prepare(sink, place):
    place.mkdir()
    with (place / "codes.raw").open("wb") as file:
        for path in files_of(sink):
            file.write(codes_of(path).tobytes())


def open_epochs(place, cache, workers):
    del cache
    if workers:
        raise ValueError("a plain loop has no workers")
    codes = np.memmap(place / "codes.raw", np.uint16, "r").reshape(-1, CODES)

    def epoch(number):
        order = np.random.default_rng(number).permutation(len(codes))
        for start in range(0, len(order), BATCH):
            rows = codes.take(order[start : start + BATCH], axis=0)
            yield torch.from_numpy(rows.astype(np.int64))

    return epoch
