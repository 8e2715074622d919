"""The script that people write: a torch DataLoader over tars, a network, Parquet at the end."""

import io
import os
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from tests.benchmarks import curve


class Tars(IterableDataset):
    def __init__(self, folder):
        self.paths = sorted(Path(folder).glob("*.tar"))

    def __iter__(self):
        worker = get_worker_info()
        for path in self.paths[worker.id :: worker.num_workers]:
            with tarfile.open(path, "r|") as tar:
                for member in tar:
                    image = Image.open(io.BytesIO(tar.extractfile(member).read())).convert("RGB")
                    side = min(image.size)
                    left, top = (image.width - side) // 2, (image.height - side) // 2
                    box = (left, top, left + side, top + side)
                    square = image.resize((256, 256), Image.Resampling.BICUBIC, box=box)
                    yield member.name, torch.from_numpy(np.array(square))


def main(source, sink):
    keys, codes = [], []
    loader = DataLoader(Tars(source), batch_size=64, num_workers=os.cpu_count(), prefetch_factor=4)
    for names, images in loader:
        keys += names
        codes += list(np.zeros((len(images), 256), np.uint16))  # model.encode(images.cuda())
        curve.note(len(images))
    Path(sink).mkdir(parents=True)
    pq.write_table(pa.table({"key": keys, "codes": codes}), Path(sink, "codes.parquet"))


if __name__ == "__main__":
    main(*sys.argv[1:])
