"""Hugging Face `datasets`, streaming: the sink's own files, a buffer of 10,000 rows.

Of the forms tried on one machine, rows/s of core time: batches in Arrow's form, made a tensor as a
whole, 272,000; in numpy's form 157,000; in torch's 28,000; torch's through a DataLoader 6,300.
"""

import datasets
import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from tests.benchmarks.readers import BATCH, CODES
from tests.benchmarks.readers.codes import files_of

_BUFFER = 10_000


def prepare(sink, place):
    place.symlink_to(sink)


def open_epochs(place, cache, workers):
    rows = datasets.load_dataset(
        "parquet",
        data_files=files_of(place),
        split="train",
        streaming=True,
        columns=["codes"],
        cache_dir=str(cache),
    )
    batches = _Batches(rows)

    def epoch(number):
        batches.epoch = number
        return DataLoader(batches, batch_size=None, num_workers=workers) if workers else batches

    return epoch


class _Batches(IterableDataset):
    def __init__(self, rows):
        self._rows, self.epoch = rows, 0

    def __iter__(self):
        rows, worker = self._rows, get_worker_info()
        if worker:
            rows = rows.shard(num_shards=worker.num_workers, index=worker.id)
        rows = rows.shuffle(seed=self.epoch, buffer_size=_BUFFER).with_format("arrow")
        for table in rows.iter(batch_size=BATCH):
            codes = table["codes"].combine_chunks().flatten().to_numpy()
            yield torch.from_numpy(codes.reshape(-1, CODES).astype(np.int64))
