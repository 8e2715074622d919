"""The smallest Ray Data program with the operators of `vqpipe encode`, for a few images.

No plan, no sandbox, no accounts, no retries: read, open, encode by diffusers' model, write Parquet.
"""

import io
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import ray
from PIL import Image

CHECKPOINT = Path(__file__).parents[3] / "infra" / "demo" / "checkpoint"


def read(batch):
    keys, images = [], []
    for path in batch["item"]:
        with tarfile.open(path) as tar:
            for member in tar:
                keys.append(member.name)
                images.append(tar.extractfile(member).read())
    return {"key": keys, "image": images}


def open_images(batch):
    pixels = []
    for data in batch["image"]:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        box = (left, top, left + side, top + side)
        pixels.append(np.asarray(image.resize((64, 64), Image.Resampling.BICUBIC, box=box)))
    return {"key": batch["key"], "pixels": np.stack(pixels)}


class Encode:
    def __init__(self):
        import torch
        from diffusers import VQModel

        self.torch, self.model = torch, VQModel.from_pretrained(CHECKPOINT)

    def __call__(self, batch):
        torch = self.torch
        with torch.inference_mode():
            pixels = torch.from_numpy(batch["pixels"]).permute(0, 3, 1, 2) / 127.5 - 1.0
            latents = self.model.encode(pixels).latents
            codes = self.model.quantize(latents)[2][2].reshape(len(pixels), -1)
        return {"key": batch["key"], "codes": codes.numpy().astype(np.uint16)}


def main(source, sink):
    ray.init(log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    shards = [str(path) for path in sorted(Path(source).glob("*.tar"))]
    data = ray.data.from_arrow(pa.table({"item": shards})).map_batches(read, batch_size=1)
    data = data.map_batches(open_images, batch_size=None)
    data.map_batches(Encode, batch_size=64, concurrency=1).write_parquet(sink)


if __name__ == "__main__":
    main(*sys.argv[1:])
