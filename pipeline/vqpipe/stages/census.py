"""How many images a command has before it: known where the source says so, else judged by some.

Parquet files say it in their footers, folders by being listed. Tars say it nowhere: of some, picked
by a hash of their names, the headers are read, and their images for each byte are those of all.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vqpipe.picks import pick_names
from vqpipe.sources.webdataset import scan_samples
from vqpipe.stages.measured import Reading
from vqpipe.stages.read import SampleReader
from vqpipe.stages.work import Work
from vqpipe.storage.ahead import map_ahead

TARS = 32
"""Tars whose headers are read; of each no more than `TAR_BYTES`, unless it has few images in it."""
TAR_BYTES = 16 * 2**20
_READERS = 32


@dataclass(frozen=True)
class Census:
    """How many images are left to do."""

    images: int
    """Samples: what is rejected or left out of them nobody knows yet."""
    spread: float | None
    """Two standard errors, in images; 0 where the number is known, None where too few shards were
    looked at to tell."""
    shards: int
    """Left to do."""
    looked_at: int
    """Of these, how many were asked."""
    size: int
    """Compressed bytes of all that are left."""

    @property
    def is_exact(self) -> bool:
        """Whether the number is known."""
        return self.spread == 0


def count_claimed(work: Work) -> int | None:
    """Returns how many images are left to do, if every shard says how many it has.

    Tars do not, nor do Parquet files with lists of images.
    """
    plan = work.writer.sink.plan
    total = 0
    counts = map_ahead(lambda index: work.reader.rows(plan, index), work.todo, _READERS)
    for rows, staged in zip(counts, work.todo.values(), strict=False):
        if rows is None:
            return None
        total += max(0, rows - staged.count)
    return total


def count_images(work: Work, limit: int | None = None) -> Census | None:
    """Returns how many images are left to do; None where only reading all of them tells.

    Args:
        work: What is left to do.
        limit: How many samples the run takes at most.
    """
    plan = work.writer.sink.plan
    sizes = [plan.size(index) for index in work.todo]
    known = count_claimed(work)
    if known is not None:
        return Census(known, 0.0, len(sizes), len(sizes), sum(sizes))
    return _judge(work, sizes, limit)


def judge_by_bytes(work: Work, reading: Reading) -> Census:
    """Returns how many images are left to do, judged by the bytes of some alone.

    Args:
        work: What is left to do.
        reading: Of some images.
    """
    sizes = [work.writer.sink.plan.size(index) for index in work.todo]
    images = round(sum(sizes) * reading.images / max(1, reading.size))
    return Census(images, None, len(sizes), reading.shards, sum(sizes))


def _judge(work: Work, sizes: list[int], limit: int | None) -> Census | None:
    """Returns how many images some tars have before them, judged by some of them."""
    plan, reader = work.writer.sink.plan, work.reader
    assert isinstance(reader, SampleReader), "images are counted, and nothing else"
    names = {plan.names[index]: index for index in work.todo}
    shards = [plan.shard(names[name]) for name in pick_names(names, TARS)]
    if any(shard.format != "webdataset" for shard in shards):
        return None
    selection = reader.selection
    each = len(selection.images) if isinstance(selection.image, tuple) else 1
    scans = list(
        map_ahead(lambda shard: scan_samples(shard, selection, TAR_BYTES), iter(shards), _READERS)
    )
    looks = [
        Look(shard.size, each * count / max(1, seen) * shard.size, is_whole=seen >= shard.size)
        for shard, (count, seen) in zip(shards, scans, strict=True)
    ]
    images, spread = scale_up(looks, sum(sizes), len(sizes))
    staged = sum(each.count for each in work.todo.values())
    if limit is not None and limit < images:
        images, spread = limit, 0.0
    return Census(max(0, round(images) - staged), spread, len(sizes), len(looks), sum(sizes))


@dataclass(frozen=True)
class Look:
    """What was seen of a shard."""

    size: int
    images: float
    """That it has, by what was seen of it."""
    is_whole: bool
    """Whether that was all of it."""


def scale_up(looks: Sequence[Look], size: int, shards: int) -> tuple[float, float | None]:
    """Returns the images in all shards, and two standard errors of that.

    The ratio estimator of a sample without replacement (Cochran, "Sampling Techniques", 6.3): the
    images of a shard go with its bytes.

    Args:
        looks: At the shards that were picked.
        size: Bytes of all.
        shards: How many these are.
    """
    seen = np.array([each.size for each in looks], float)
    found = np.array([each.images for each in looks], float)
    if not seen.sum():
        return 0.0, 0.0
    ratio = float(found.sum() / seen.sum())
    whole = sum(each.is_whole for each in looks)
    if whole == shards:
        return ratio * size, 0.0
    if len(looks) < 2:
        return ratio * size, None
    variance = ((found - ratio * seen) ** 2).sum() / (len(looks) - 1)
    error = math.sqrt((1 - whole / shards) * variance / len(looks)) / float(seen.mean())
    return ratio * size, 2 * error * size
