"""Hugging Face `datasets`, not streaming: its own Arrow table on the disk, rows in any order."""

import os

import datasets
import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from tests.benchmarks.readers import BATCH
from tests.benchmarks.readers.codes import files_of


def prepare(sink, place):
    rows = datasets.Dataset.from_parquet(
        files_of(sink), columns=["codes"], cache_dir=f"{place}.cache"
    )
    rows.save_to_disk(place)


def open_epochs(place, cache, workers):
    del cache
    rows = datasets.load_from_disk(os.fspath(place)).with_format("numpy")

    def epoch(number):
        order = torch.Generator().manual_seed(number)
        sampler = BatchSampler(RandomSampler(rows, generator=order), BATCH, drop_last=False)
        return DataLoader(
            rows, batch_size=None, sampler=sampler, num_workers=workers, collate_fn=_tensor
        )

    return epoch


def _tensor(batch):
    return torch.from_numpy(batch["codes"].astype(np.int64))
