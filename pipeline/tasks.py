"""What Ray's workers run: the stages, with what they share fetched from the object store.

Kept apart from the engine so that a worker that only reads, opens or commits does not import torch,
which takes about two seconds of a core in every process.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import ray
from ray.actor import ActorHandle

from pipeline.commit import Writer, commit_rows
from pipeline.images import Opened, Pixels, Preprocess
from pipeline.plan import Plan, Run, Staged
from pipeline.sandbox import Sandbox
from pipeline.schema import Selection
from pipeline.stages import read_rows

TODO = pa.schema(
    [
        pa.field("shard", pa.int32()),  # place in the plan
        pa.field("ranges", pa.list_(pa.list_(pa.int32(), 2))),  # rows that are staged already
        pa.field("total", pa.int32()),  # rows of the shard, if staging knows
    ]
)
"""Schema of what is left to do, one row a shard."""


def todo_rows(todo: dict[int, Staged], blocks: int) -> list[pa.Table]:
    """Returns the shards left, in at most so many tables (`TODO`)."""
    rows = [
        {"shard": index, "ranges": staged.ranges, "total": staged.total}
        for index, staged in todo.items()
    ]
    size = -(-len(rows) // blocks)
    parts = (rows[first : first + size] for first in range(0, len(rows), size))
    return [pa.Table.from_pylist(part, schema=TODO) for part in parts]


def read(
    todo: pa.Table,
    plan: ray.ObjectRef[Any],
    selection: Selection,
    kept: pa.Schema,
    block_rows: int,
    counter: ActorHandle[Any],
) -> Iterator[pa.Table]:
    """Yields the compressed samples of some shards."""
    shards = Plan(ray.get(plan))
    for row in todo.to_pylist():
        ranges = tuple((first, last) for first, last in row["ranges"] or ())
        staged = Staged(ranges, row["total"])
        shard, seen = shards.shard(row["shard"]), 0
        for table in read_rows(shard, row["shard"], staged, selection, kept, block_rows):
            seen += table["image"].nbytes
            counter.saw.remote(len(table), table["image"].nbytes)
            yield table
        counter.saw.remote(0, shard.size - seen)  # headers, metadata and rows already staged


def open_sandboxed(
    images: Sequence[memoryview | None], target: Pixels, how: Preprocess
) -> list[Opened]:
    """Opens images as `pipeline.images.open_images` does, in a child of this worker."""
    return _sandbox(how).open(images, target)


@functools.cache
def _sandbox(how: Preprocess) -> Sandbox:
    return Sandbox(how)


def commit(
    table: pa.Table, plan: ray.ObjectRef[Any], sink: str, run: Run, kept: pa.Schema, codes: pa.Field
) -> pa.Table:
    """Returns a receipt for each shard that the table has rows of."""
    return commit_rows(table, Writer(sink, run, Plan(ray.get(plan)), kept, codes))


class Counts(NamedTuple):
    """What the workers of one command have done so far."""

    encoded: int = 0
    """Images through the codecs."""
    read: int = 0
    """Samples read."""
    read_bytes: int = 0
    """Bytes of the source that they took, of finished shards all."""
    devices: tuple[str, ...] = ()
    """Names of the devices that codecs run on."""
    warm_up_s: float = 0.0
    """Seconds that the slowest of them took to compile and choose its kernels."""


class Counter:
    """An actor that counts what workers do, for display and watchdog; nothing depends on it."""

    def __init__(self) -> None:
        self._counts = Counts()

    def join(self, device: str, warm_up_s: float) -> None:
        """Notes the device of one codec that is ready now."""
        counts = self._counts
        devices = tuple(sorted({*counts.devices, device}))
        slowest = max(counts.warm_up_s, warm_up_s)
        self._counts = counts._replace(devices=devices, warm_up_s=slowest)

    def add(self, images: int) -> None:
        """Counts images that a codec has encoded."""
        self._counts = self._counts._replace(encoded=self._counts.encoded + images)

    def saw(self, samples: int, size: int) -> None:
        """Counts samples that were read, and the bytes of the source that they took."""
        counts = self._counts
        self._counts = counts._replace(
            read=counts.read + samples, read_bytes=counts.read_bytes + size
        )

    def read(self) -> Counts:
        """Returns the counts so far."""
        return self._counts
