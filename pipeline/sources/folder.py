"""Folders of images: a shard is a run of consecutive files, a sample is one of them."""

import itertools
from collections.abc import Iterator

from pipeline import storage
from pipeline.schema import File, Reason, Rejection, Sample, Shard
from pipeline.sources.names import relative_path

IMAGES_PER_SHARD = 1_000
"""A shard is one object in the sink; fewer images would make too many, more lose too much work."""

MAX_IMAGE_BYTES = 2**30
"""Larger files are rejected unread (1 GiB)."""


def list_shards(root: str, files: list[File]) -> list[Shard]:
    """Returns shards of `IMAGES_PER_SHARD` files, in the order of their relative paths."""
    starts = range(0, len(files), IMAGES_PER_SHARD)
    chunks = (tuple(files[start : start + IMAGES_PER_SHARD]) for start in starts)
    return [
        Shard(f"images-{number:06d}", "folder", chunk, root=root)
        for number, chunk in zip(itertools.count(), chunks, strict=False)
    ]


def read_shard(shard: Shard) -> Iterator[Sample]:
    """Yields one sample a file; its key is the path below the root, extension included."""
    for row, file in enumerate(shard.files):
        key = relative_path(shard.root, file.uri)
        if file.size > MAX_IMAGE_BYTES:
            message = f"{file.size} bytes are more than the {MAX_IMAGE_BYTES} that are read"
            yield Sample(row, key, rejection=Rejection(Reason.CORRUPT, message))
        else:
            with storage.open_file(file) as image:
                yield Sample(row, key, image.read())
