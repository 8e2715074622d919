"""Small images, archives and shards, the same for the same arguments."""

import io
import tarfile
from dataclasses import replace

import numpy as np
from PIL import Image

import vqpipe.images  # noqa: F401 (which has Pillow write what is installed beside it)
from vqpipe import storage
from vqpipe.schema import File, Shard

TAR = Shard("train/a", "webdataset", (File("s3://b/train/a.tar", 2**33, "etag-1"),))
GROUPS = Shard("b-00001", "parquet", (File("/d/b.parquet", 7, "1.5"),), row_groups=(0, 3))
FOLDER = Shard(
    "images-000000",
    "folder",
    (File("/d/x/ä.jpg", 3, "1"), File("/d/x/y/b.jpg", 4, "2"), File("/d/x/a.jpg", 5, "3")),
    root="/d/x",
)
SHARDS = (TAR, GROUPS, FOLDER)
"""One shard of each format, as they are listed."""


def picture(width, height, seed=0):
    """Returns (height, width, 3) uint8 RGB: a smooth gradient with a little noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    ramps = np.stack([x * 255 / width, y * 255 / height, (x + y) * 255 / (width + height)], -1)
    shift = rng.uniform(0, 128, 3)
    noise = rng.normal(0, 4, ramps.shape)
    return ((ramps + shift) % 256 * 0.9 + noise).clip(0, 255).astype(np.uint8)


def encoded(image, kind, **options):
    """Returns an image or an array as a file of a Pillow format."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(width=40, height=30, seed=0, **options):
    return encoded(picture(width, height, seed), "JPEG", **options)


def tar_of(members, kind=tarfile.PAX_FORMAT):
    """Returns a tar of `{name: bytes}` or of pairs, which may repeat a name, or of `TarInfo`s."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as tar:
        for name, data in members.items() if isinstance(members, dict) else members:
            header = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            if header.isreg():
                header.size = len(data)
            tar.addfile(header, io.BytesIO(data) if header.isreg() else None)
    return buffer.getvalue()


def changed(shard, which=0, **fields):
    """Returns the shard with one file that is not what it was."""
    files = list(shard.files)
    files[which] = replace(files[which], **fields)
    return replace(shard, files=tuple(files))


def fill(base, *names):
    """Puts objects into a place, in a folder or a bucket, of which nothing but the names counts."""
    for name in names:
        storage.publish(f"{base}/{name}", b"x")
