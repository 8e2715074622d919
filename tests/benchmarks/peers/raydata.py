"""Ray Data as its documentation shows it: read_webdataset, map, map_batches, write_parquet."""

import sys

import numpy as np
import ray
from PIL import Image

from tests.benchmarks import curve


def open_row(row):
    image = Image.fromarray(row["jpg"])  # read_webdataset has opened it
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    square = image.resize((256, 256), Image.Resampling.BICUBIC, box=box)
    return {"key": row["__key__"], "pixels": np.asarray(square)}


class Network:
    def __call__(self, batch):
        curve.note(len(batch["key"]))
        return {"key": batch["key"], "codes": np.zeros((len(batch["key"]), 256), np.uint16)}


def main(source, sink):
    ray.init(log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    images = ray.data.read_webdataset(source).map(open_row)
    images.map_batches(Network, batch_size=64, concurrency=1).write_parquet(sink)


if __name__ == "__main__":
    main(*sys.argv[1:])
