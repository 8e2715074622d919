"""What Ray's workers run: the stages, with what they share fetched from the object store.

Kept apart from the engine so that a worker that only reads, opens or commits does not import torch,
which takes about two seconds of a core in every process.
"""

import contextlib
import functools
import itertools
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

import pyarrow as pa
import ray
from ray.actor import ActorHandle

from vqpipe import storage
from vqpipe.engine.abandon import until_done
from vqpipe.engine.ledger import RemoteLedger
from vqpipe.engine.report import Ended, Report, here, teller
from vqpipe.engine.stopwatch import Stopwatch
from vqpipe.engine.timesheet import stamp
from vqpipe.images import Preprocess
from vqpipe.images.sandbox import Prepared, Sandbox
from vqpipe.occupancy import Spent
from vqpipe.sink.commit import commit_rows
from vqpipe.sink.plan import Plan
from vqpipe.sink.ranges import Staged
from vqpipe.sink.writer import Writer
from vqpipe.stages.open import images_of, put_views
from vqpipe.stages.read import Reader, gather_tables

Item = TypeVar("Item")

TODO = pa.schema(
    [
        pa.field("shard", pa.int32()),  # place in the plan
        pa.field("ranges", pa.list_(pa.list_(pa.int32(), 2))),  # rows that are staged already
        pa.field("total", pa.int32()),  # rows of the shard, if staging knows
    ]
)
"""Schema of what is left to do, one row a shard."""
SPARE = -1
"""In the place of a shard: whichever another task takes too long for (`engine.laggards`)."""
_AGAIN_S, _ASK_S = 1.0, 30.0
"""Between two questions for one, and how long an answer may take."""


def todo_rows(todo: dict[int, Staged], counts: Iterable[int]) -> list[pa.Table]:
    """Returns the shards left, in tables of so many each (`TODO`)."""
    left = iter(todo.items())
    parts = (list(itertools.islice(left, count)) for count in counts)
    return [_todo_table(part) for part in parts]


def _todo_table(part: list[tuple[int, Staged]]) -> pa.Table:
    columns = {
        "shard": [index for index, _ in part],
        "ranges": [staged.ranges for _, staged in part],
        "total": [staged.total for _, staged in part],
    }
    return pa.table(columns, schema=TODO)


def spare_rows(count: int) -> list[pa.Table]:
    """Returns tables for so many tasks that do what others take too long for (`TODO`)."""
    return [_todo_table([(SPARE, Staged((), None))])] * count


def read(
    todo: pa.Table,
    writer: ray.ObjectRef[Any],
    reader: Reader,
    block_rows: int,
    counter: ActorHandle[Any],
) -> Iterator[pa.Table]:
    """Yields the rows of some shards; those of small shards together."""
    watch = Stopwatch()
    plan = cast(Writer, ray.get(writer)).sink.plan
    with contextlib.closing(_Told(counter, watch)) as told:
        for rows in _rows_of(todo.to_pylist(), plan, told):
            shards = (_read_shard(row, plan, reader, block_rows, told) for row in rows)
            for table in gather_tables(itertools.chain.from_iterable(shards), block_rows):
                watch.turn_to("held_s")
                yield table
                watch.turn_to("read_s")


def _rows_of(
    todo: list[dict[str, Any]], plan: Plan, told: "_Told"
) -> Iterator[list[dict[str, Any]]]:
    """Yields the shards to read, those together that may be gathered.

    A spare task takes one at a time: the rows of one must not wait for another to be late.
    """
    if todo[0]["shard"] != SPARE:
        told.hand_out([row["shard"] for row in todo], plan)
        yield todo
        return
    while (shard := told.again()) is not None:
        if shard >= 0:
            yield [{"shard": shard, "ranges": [], "total": None, "is_again": True}]
        else:
            told.watch.turn_to("asked_s")
            time.sleep(_AGAIN_S)


class _Told:
    """Who is told of what is read."""

    def __init__(self, counter: ActorHandle[Any], watch: Stopwatch) -> None:
        self.watch = watch
        self._counter = counter
        self._ledger = RemoteLedger(counter)
        self._teller = teller(counter)
        self._ended: tuple[int, str, bool] | None = None

    def hand_out(self, shards: list[int], plan: Plan) -> None:
        """Tells the counter which shards this task has."""
        sizes = [plan.size(index) for index in shards]
        self._counter.hand_out.remote(shards, sizes, here())

    @contextlib.contextmanager
    def shard(self, shard: int, *, is_again: bool) -> Iterator[int]:
        """Tells the counter that a shard is read in a block, and whether to its end.

        The end is told along with the beginning of the next one, or else by `close`.

        Yields:
            How often a process has died at it.
        """
        what, is_read = f"read {shard}{' again' if is_again else ''}", False
        deaths = self._ledger.begin_shard(shard, what, self._take_ended())
        try:
            yield deaths
            is_read = True
        finally:
            self._ended = shard, what, is_read

    def close(self) -> None:
        """Tells the counter what it has not been told yet."""
        if ended := self._take_ended():
            self._ledger.end_shard(ended)

    def _take_ended(self) -> Ended | None:
        ended, self._ended = self._ended, None
        return Ended(*ended, self._teller.take(), here()) if ended else None

    def is_read(self, shard: int) -> bool:
        """Tells whether another task has read one to its end meanwhile."""
        try:
            return cast(bool, ray.get(self._counter.is_read.remote(shard), timeout=_ASK_S))
        except ray.exceptions.RayError:  # its node is gone, or nothing moves there
            return False

    def again(self) -> int | None:
        """Returns a shard to do a second time; -1 for none so far, None for none ever."""
        self.close()  # the answer depends on it
        try:
            return cast("int | None", ray.get(self._counter.again.remote(here()), timeout=_ASK_S))
        except ray.exceptions.RayError:  # its node is gone, or nothing moves there
            return None

    def saw(self, samples: int, size: int) -> None:
        """Tells the counter of samples, of the bytes that they took, and of the time."""
        self._teller.note(Report(samples, size, spent=self.watch.take()))


def _read_shard(
    row: dict[str, Any], plan: Plan, reader: Reader, block_rows: int, told: _Told
) -> Iterator[pa.Table]:
    """Yields what is left of a shard."""
    index, size, seen = row["shard"], plan.size(row["shard"]), 0
    ranges = tuple((first, last) for first, last in row["ranges"] or ())
    staged = Staged(ranges, row["total"])
    told.watch.turn_to("asked_s")
    with told.shard(index, is_again=bool(row.get("is_again"))) as deaths:
        told.watch.turn_to("read_s")
        rows = None if deaths else reader.rows(plan, index)
        holds = plan.shard(index).holds
        tables = reader.read(plan, index, staged, block_rows, deaths)
        for table in until_done(tables, lambda: told.is_read(index)):
            taken = bytes_taken(table[holds], size, rows)
            seen += taken
            told.saw(len(table), taken)
            yield table
        told.saw(0, size - seen)  # headers, metadata and rows already staged


def bytes_taken(data: pa.ChunkedArray, size: int, rows: int | None) -> int:
    """Returns about how many bytes of the source some rows took.

    Args:
        data: What was read of them (`Shard.holds`).
        size: Bytes of their shard.
        rows: How many it will have, if that is known; else their images are measured, which take
            nearly all of a tar.
    """
    return round(size * len(data) / rows) if rows else int(data.nbytes)


def read_views(
    todo: pa.Table,
    writer: ray.ObjectRef[Any],
    reader: Reader,
    block_rows: int,
    counter: ActorHandle[Any],
    how: Preprocess,
) -> Iterator[pa.Table]:
    """Yields the rows of some shards with their images opened, in one process."""
    yield from open_ahead(read(todo, writer, reader, block_rows, counter), how, counter)


def open_ahead(
    tables: Iterator[pa.Table], how: Preprocess, counter: ActorHandle[Any]
) -> Iterator[pa.Table]:
    """Yields tables with their images opened (`open_views`).

    While one is handed on, images of the next are opened, those of another lie ready for it, and
    the one behind it is read: nothing waits but for what takes longest.
    """
    prepared = ahead((table, _prepare(table, how)) for table in ahead(tables))
    yield from ahead(_open(*each, how, counter) for each in prepared)
    teller(counter).flush()


def ahead(items: Iterator[Item]) -> Iterator[Item]:
    """Yields items as they come, each while a thread makes the next."""
    with ThreadPoolExecutor(1) as thread:
        following = thread.submit(next, items, None)
        while (item := following.result()) is not None:
            following = thread.submit(next, items, None)
            yield item
            del item  # the pixels of a table go as soon as it is handed on


def open_views(table: pa.Table, how: Preprocess, counter: ActorHandle[Any]) -> pa.Table:
    """Returns rows with their images opened.

    Args:
        table: Rows as they were read.
        how: How images become views.
        counter: Told of images that are through, every few seconds and at the end: that images are
            slow is no standstill.
    """
    return _open(table, _prepare(table, how), how, counter)


def _prepare(table: pa.Table, how: Preprocess) -> Prepared:
    """Puts the images of a table where the child of this worker finds them."""
    return _sandbox(how).prepare(images_of(table, how))


def _open(
    table: pa.Table, prepared: Prepared, how: Preprocess, counter: ActorHandle[Any]
) -> pa.Table:
    told, since = 0, time.monotonic()

    def tell(through: int) -> None:
        nonlocal told, since
        if through > told:
            now = time.monotonic()
            spent = Spent(open_s=now - since)
            teller(counter).note(Report(opened=through - told, spent=spent))
            told, since = through, now

    done = put_views(table, _sandbox(how).open_prepared(prepared, tell))
    tell(len(table))
    return done


@functools.cache
def _sandbox(how: Preprocess) -> Sandbox:
    return Sandbox(how)


def commit(writer: Writer, *blocks: pa.Table) -> pa.Table:
    """Returns a receipt for each shard that blocks of finished rows have rows of, stamped."""
    began, before = time.monotonic(), storage.used()
    receipts = commit_rows(pa.concat_tables(blocks), writer)
    used, seconds = storage.used().since(before), time.monotonic() - began
    spent = Spent(commit_s=seconds, commit_wait_s=used.wait_s, written_bytes=used.written_bytes)
    return stamp(receipts, spent)
