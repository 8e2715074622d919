"""MosaicML streaming over its own shards, which it copies from a remote place to a local one.

Its package is imported without its face, which wants torchvision for data sets that are not ours.
"""

import importlib.util
import sys

import numpy as np
import torch

from tests.benchmarks.readers import BATCH
from tests.benchmarks.readers.codes import codes_of, files_of

_FOUND = importlib.util.find_spec("streaming")
if _FOUND is None:
    raise ModuleNotFoundError("mosaicml-streaming is not there")
sys.modules["streaming"] = importlib.util.module_from_spec(_FOUND)

from streaming.base import MDSWriter, StreamingDataLoader, StreamingDataset  # noqa: E402
from streaming.base.util import clean_stale_shared_memory  # noqa: E402


def prepare(sink, place):
    with MDSWriter(out=str(place), columns={"codes": "ndarray:uint16:256"}) as writer:
        for path in files_of(sink):
            for row in codes_of(path):
                writer.write({"codes": row})


def open_epochs(place, cache, workers):
    clean_stale_shared_memory()
    rows = StreamingDataset(remote=str(place), local=f"{cache}/mds", batch_size=BATCH, shuffle=True)
    loader = StreamingDataLoader(rows, batch_size=BATCH, num_workers=workers, collate_fn=_tensor)
    return lambda _number: loader


def _tensor(rows):
    return torch.from_numpy(np.stack([row["codes"] for row in rows]).astype(np.int64))
