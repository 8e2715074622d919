"""Folders of images: a shard is a run of consecutive files, a sample is one of them.

What is kept of an image stands in files around it (`about_images`), or is the folder that it is in
(`classes`).
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import pyarrow as pa

from vqpipe import storage
from vqpipe.errors import ConfigError
from vqpipe.rejections import Reason, Rejection
from vqpipe.schema import LABEL, File, Sample, Selection, Shard
from vqpipe.sources import about_images
from vqpipe.sources.about_images import Said
from vqpipe.sources.agreement import Begun
from vqpipe.sources.classes import class_names, class_of, describe_classes, find_classes
from vqpipe.sources.damage import brief
from vqpipe.sources.features import FEATURES, describe, features_of
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
    taken = {file.uri for shard in old for file in shard.images}
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
    """Returns the shard with the images that are still there, as they are now."""
    paths = (relative_path(shard.root, file.uri) for file in shard.images)
    return replace(shard, files=tuple(found[path] for path in paths if path in found), root=root)


def _number(shard: Shard) -> int:
    return int(shard.name.removeprefix(_STEM))


def kept_schema(
    shards: Sequence[Shard], selection: Selection, begun: Begun | None = None
) -> pa.Schema:
    """Returns the kept columns: the class of each image, then what files say of it.

    Raises:
        ConfigError: If what is asked for is not there, or cannot be of a folder.
        MismatchError: If a new file does not go with a run that has begun.
    """
    if selection.images or selection.key is not None:
        raise ConfigError("a folder has no columns or members to select: drop image and key")
    none = pa.schema([])
    kept = about_images.kept_schema(shards, selection.keep, begun) if selection.keep else none
    if selection.label is None:
        return kept
    names = find_classes(shards, begun and begun.kept)
    features = {**describe_classes(names), **features_of((kept.metadata or {}).get(FEATURES, b""))}
    return pa.schema([pa.field(LABEL, pa.int64()), *kept], metadata=describe(features))


def read_shard(shard: Shard, selection: Selection, kept: pa.Schema) -> Iterator[Sample]:
    """Yields one sample a file; its key is the path below the root, extension included."""
    columns = pa.schema([each for each in kept if each.name in selection.keep])
    said = Said.of(shard, columns)
    classes = {name: number for number, name in enumerate(class_names(kept))}
    for row, file in enumerate(shard.images):
        sample = _read(row, relative_path(shard.root, file.uri), file, said.about(file))
        if selection.label is not None and LABEL in kept.names:
            number = classes.get(class_of(shard.root, file.uri) or "")
            label = {LABEL: pa.array([number], pa.int64())}
            sample = replace(sample, kept={**label, **sample.kept})
        yield sample


def _read(row: int, key: str, file: File, kept: dict[str, pa.Array] | Rejection) -> Sample:
    """Returns an image, or its rejection."""
    if file.obstacle:
        message = brief(f"this is {file.obstacle}; bring it back, and --replace-changed reads it")
        return Sample(row, key, rejection=Rejection(Reason.NO_IMAGE, message))
    if file.size > MAX_IMAGE_BYTES:
        message = f"{file.size} bytes are more than the {MAX_IMAGE_BYTES} that are read"
        return Sample(row, key, rejection=Rejection(Reason.CORRUPT, message))
    if isinstance(kept, Rejection):
        return Sample(row, key, rejection=kept)
    with storage.open_file(file) as image:
        return Sample(row, key, image.read(), kept=kept)
