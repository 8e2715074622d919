"""LitData over the sink's own Parquet files, linked, because it writes an index beside them."""

import os
from pathlib import Path

import litdata
import numpy as np
import torch
from litdata.streaming.item_loader import ParquetLoader

from tests.benchmarks.readers import BATCH
from tests.benchmarks.readers.codes import files_of


def prepare(sink, place):
    place.mkdir()
    for path in files_of(sink):
        os.symlink(path, place / Path(path).name)
    litdata.index_parquet_dataset(str(place))


def open_epochs(place, cache, workers):
    rows = litdata.StreamingDataset(
        str(place),
        cache_dir=str(cache),
        shuffle=True,
        item_loader=ParquetLoader(columns=["codes"], low_memory=False),
    )
    how = {"multiprocessing_context": "spawn"} if workers else {}
    loader = litdata.StreamingDataLoader(
        rows, batch_size=BATCH, num_workers=workers, collate_fn=_tensor, **how
    )
    return lambda _number: loader


def _tensor(rows):
    return torch.from_numpy(np.array([row["codes"] for row in rows], np.int64))
