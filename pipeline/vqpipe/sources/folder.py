"""Folders of images: a shard is a run of consecutive files, a sample is one of them."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from vqpipe import storage
from vqpipe.rejections import Reason, Rejection
from vqpipe.schema import File, Sample, Shard
from vqpipe.sources.damage import brief
from vqpipe.sources.names import relative_path

IMAGES_PER_SHARD = 1_000
"""A shard is one object in the sink; fewer images would make too many, more lose too much work."""

_STEM = "images-"

MAX_IMAGE_BYTES = 2**30
"""Larger files are rejected unread (1 GiB)."""


def list_shards(root: str, files: list[File], planned: Sequence[Shard] = ()) -> list[Shard]:
    """Returns shards of `IMAGES_PER_SHARD` files, in the order of their relative paths.

    Args:
        root: The folder.
        files: All images in it.
        planned: Shards that a run has of it, or of the folder that it was moved from. They stay,
            with the files that are still there as they are now; only others make up new ones.
    """
    found = {relative_path(root, file.uri): file for file in files}
    old = [_refresh(shard, found, root) for shard in planned]
    taken = {file.uri for shard in old for file in shard.files}
    rest = [file for file in files if file.uri not in taken]
    first = max((_number(shard) for shard in old), default=-1) + 1
    starts = range(0, len(rest), IMAGES_PER_SHARD)
    chunks = (tuple(rest[start : start + IMAGES_PER_SHARD]) for start in starts)
    new = [
        Shard(f"{_STEM}{number:06d}", "folder", chunk, root=root)
        for number, chunk in zip(itertools.count(first), chunks, strict=False)
    ]
    return [*(shard for shard in old if shard.files), *new]


def _refresh(shard: Shard, found: Mapping[str, File], root: str) -> Shard:
    """Returns the shard with the files that are still there, as they are now."""
    paths = (relative_path(shard.root, file.uri) for file in shard.files)
    return replace(shard, files=tuple(found[path] for path in paths if path in found), root=root)


def _number(shard: Shard) -> int:
    return int(shard.name.removeprefix(_STEM))


def read_shard(shard: Shard) -> Iterator[Sample]:
    """Yields one sample a file; its key is the path below the root, extension included."""
    for row, file in enumerate(shard.files):
        key = relative_path(shard.root, file.uri)
        if file.obstacle:
            message = brief(
                f"this is {file.obstacle}; bring it back, and --replace-changed reads it"
            )
            yield Sample(row, key, rejection=Rejection(Reason.NO_IMAGE, brief(message)))
        elif file.size > MAX_IMAGE_BYTES:
            message = f"{file.size} bytes are more than the {MAX_IMAGE_BYTES} that are read"
            yield Sample(row, key, rejection=Rejection(Reason.CORRUPT, message))
        else:
            with storage.open_file(file) as image:
                yield Sample(row, key, image.read())
