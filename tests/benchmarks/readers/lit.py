"""LitData over its own chunks, as it has blocks of tokens, which was its fastest form.

`TokensLoader` with blocks of 256 has as many rows as the sink, the same ones. Rows are put together
by numpy: its own way of putting arrays together was five times slower.
"""

import litdata
import numpy as np
import torch

from tests.benchmarks.readers import BATCH, CODES
from tests.benchmarks.readers.codes import codes_of, files_of


def prepare(sink, place):
    litdata.optimize(
        fn=codes_of_rows,
        inputs=files_of(sink),
        output_dir=str(place),
        chunk_bytes="64MB",
        num_workers=2,
        item_loader=litdata.TokensLoader(),
    )


def codes_of_rows(path):
    yield from codes_of(path)


def open_epochs(place, cache, workers):
    rows = litdata.StreamingDataset(
        str(place),
        cache_dir=str(cache),
        shuffle=True,
        item_loader=litdata.TokensLoader(block_size=CODES),
    )
    loader = litdata.StreamingDataLoader(
        rows, batch_size=BATCH, num_workers=workers, collate_fn=_tensor
    )
    return lambda _number: loader  # which counts epochs by itself


def _tensor(rows):
    return torch.from_numpy(np.stack(rows).astype(np.int64))
