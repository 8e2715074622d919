"""What Ray's workers run: the stages, with what they share fetched from the object store.

Kept apart from the engine so that a worker that only reads, opens or commits does not import torch,
which takes about two seconds of a core in every process.
"""

import contextlib
import functools
import itertools
import time
from collections import Counter as Multiset
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import pyarrow as pa
import ray
from ray.actor import ActorHandle

from vqpipe.images import Opened, Pixels, Preprocess
from vqpipe.images.sandbox import Sandbox
from vqpipe.sink.commit import commit_rows
from vqpipe.sink.layout import Staged
from vqpipe.sink.writer import Writer
from vqpipe.stages.attempts import Notes, noted
from vqpipe.stages.read import gather_tables, open_rows
from vqpipe.stages.readers import Reader

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
    writer: ray.ObjectRef[Any],
    reader: Reader,
    block_rows: int,
    counter: ActorHandle[Any],
) -> Iterator[pa.Table]:
    """Yields the rows of some shards; those of small shards together."""
    run, ledger = cast(Writer, ray.get(writer)), RemoteLedger(counter)
    shards = (
        _read_shard(row, run, reader, block_rows, counter, ledger) for row in todo.to_pylist()
    )
    yield from gather_tables(itertools.chain.from_iterable(shards), block_rows)


def _read_shard(
    row: dict[str, Any],
    run: Writer,
    reader: Reader,
    block_rows: int,
    counter: ActorHandle[Any],
    ledger: "RemoteLedger",
) -> Iterator[pa.Table]:
    """Yields what is left of a shard."""
    index, size, seen = row["shard"], run.plan.size(row["shard"]), 0
    ranges = tuple((first, last) for first, last in row["ranges"] or ())
    staged = Staged(ranges, row["total"])
    with noted(ledger, f"read {index}") as deaths:
        rows = None if deaths else reader.rows(run.plan, index)
        for table in reader.read(run.plan, index, staged, block_rows, deaths):
            taken = bytes_taken(table, size, rows)
            seen += taken
            counter.saw.remote(len(table), taken)
            yield table
    counter.saw.remote(0, size - seen)  # headers, metadata and rows already staged


def bytes_taken(table: pa.Table, size: int, rows: int | None) -> int:
    """Returns about how many bytes of the source some rows took.

    Args:
        table: The rows.
        size: Bytes of their shard.
        rows: How many it will have, if that is known; else their images are measured, which take
            nearly all of a tar.
    """
    return round(size * len(table) / rows) if rows else int(table["image"].nbytes)


def open_views(table: pa.Table, how: Preprocess, counter: ActorHandle[Any]) -> pa.Table:
    """Returns rows with their images opened; that images are slow is no standstill.

    Args:
        table: Rows as they were read.
        how: How images become views.
        counter: Told of images that are through, every few seconds and at the end.
    """
    said, count = time.monotonic(), 0

    def open_some(
        images: Sequence[memoryview | None], target: Pixels, how: Preprocess
    ) -> list[Opened]:
        nonlocal said, count
        opened: list[Opened] = []
        for start in range(0, len(images), _AT_A_TIME):
            piece = slice(start, start + _AT_A_TIME)
            opened += open_sandboxed(images[piece], target[piece], how)
            if time.monotonic() - said > _SAY_EVERY_S:
                counter.opened.remote(len(opened) - count)
                said, count = time.monotonic(), len(opened)
        return opened

    views = open_rows(table, how, open_some)
    counter.opened.remote(len(table) - count)
    return views


_AT_A_TIME = 8
"""Images in a child's hands: eight that hang take it eight minutes, and large ones much memory."""
_SAY_EVERY_S = 5.0


def open_sandboxed(
    images: Sequence[memoryview | None], target: Pixels, how: Preprocess
) -> list[Opened]:
    """Opens images as `vqpipe.images.views.open_images` does, in a child of this worker."""
    return _sandbox(how).open(images, target)


@functools.cache
def _sandbox(how: Preprocess) -> Sandbox:
    return Sandbox(how)


def commit(writer: Writer, *blocks: pa.Table) -> pa.Table:
    """Returns a receipt for each shard that blocks of finished rows have rows of."""
    return commit_rows(pa.concat_tables(blocks), writer)


class Counts(NamedTuple):
    """What the workers of one command have done so far."""

    encoded: int = 0
    """Images through the codecs."""
    opened: int = 0
    """Images opened; those of a task that is tried again count again."""
    read: int = 0
    """Samples read."""
    read_bytes: int = 0
    """Bytes of the source that they took, of finished shards all."""
    devices: tuple[str, ...] = ()
    """Names of the devices that codecs run on."""
    codecs: int = 0
    """Codecs that have been at work."""
    busy_s: float = 0.0
    """Seconds that they worked, all together."""
    warm_up_s: float = 0.0
    """Seconds that the slowest of them took to compile and choose its kernels."""
    failures: int = 0
    """Most processes of one codec in a row that a device failed, no image encoded meanwhile."""
    failure: str = ""
    """What was the matter, the last time."""


class Counter(Notes):
    """An actor that counts what workers do, for display and watchdog, and keeps their ledger.

    No result depends on it: it may be lost.
    """

    def __init__(self) -> None:
        super().__init__()
        self._counts = Counts()
        self._failures: Multiset[str] = Multiset()
        self._part_rows: int | None = None
        self._codecs: set[str] = set()

    def join(self, codec: str, device: str, warm_up_s: float) -> None:
        """Notes the device of one codec that is ready now; one that starts anew keeps its name."""
        self._codecs.add(codec)
        counts = self._counts._replace(codecs=len(self._codecs))
        devices = tuple(sorted({*counts.devices, device}))
        slowest = max(counts.warm_up_s, warm_up_s)
        self._counts = counts._replace(devices=devices, warm_up_s=slowest)

    def add(self, images: int) -> None:
        """Counts images that a codec has encoded."""
        self._counts = self._counts._replace(encoded=self._counts.encoded + images, failures=0)
        self._failures.clear()

    def opened(self, images: int) -> None:
        """Counts images that are opened."""
        self._counts = self._counts._replace(opened=self._counts.opened + images)

    def agree(self, rows: int) -> int:
        """Returns how many rows a codec hands on together: what the first that asked would have."""
        self._part_rows = self._part_rows or rows
        return self._part_rows

    def worked(self, seconds: float) -> None:
        """Counts the seconds that a codec took for some rows."""
        self._counts = self._counts._replace(busy_s=self._counts.busy_s + seconds)

    def fail(self, codec: str, error: str) -> None:
        """Notes that a codec's process ends because its device fails."""
        self._failures[codec] += 1
        worst = max(self._failures.values())
        self._counts = self._counts._replace(failures=worst, failure=error)

    def saw(self, samples: int, size: int) -> None:
        """Counts samples that were read, and the bytes of the source that they took."""
        counts = self._counts
        self._counts = counts._replace(
            read=counts.read + samples, read_bytes=counts.read_bytes + size
        )

    def read(self) -> Counts:
        """Returns the counts so far."""
        return self._counts


class RemoteLedger:
    """The counter's ledger as a worker sees it; work goes on without one that does not answer."""

    def __init__(self, counter: ActorHandle[Any]) -> None:
        self._counter = counter
        self._answers = True

    def begin(self, what: str) -> int:
        """Notes a beginning, for sure; returns how many earlier ones have no end."""
        if self._answers:
            try:
                return cast(int, ray.get(self._counter.begin.remote(what), timeout=_ANSWER_S))
            except ray.exceptions.RayError:  # its node is gone, or nothing moves there
                self._answers = False
        return 0

    def agree(self, rows: int) -> int:
        """Returns how many rows a codec of this run hands on together, given what it would."""
        with contextlib.suppress(ray.exceptions.RayError):
            return cast(int, ray.get(self._counter.agree.remote(rows), timeout=_ANSWER_S))
        return rows

    def end(self, what: str) -> None:
        """Notes an end, some time."""
        if self._answers:
            self._counter.end.remote(what)


_ANSWER_S = 30.0
