"""Some images of what is left to do, picked by hashes, as rows of one table.

Of shards that are picked by a hash of their names, the first images are read, some times as many
as are wanted, and those are taken whose keys have the smallest hashes. Never is all of it read.
"""

import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa

from vqpipe.picks import hash_of, pick_names
from vqpipe.sink.plan import Plan
from vqpipe.sink.ranges import Staged
from vqpipe.stages.measured import Reading
from vqpipe.stages.read import NO_ROW, Reader, SampleReader
from vqpipe.stages.work import Work

SHARDS = 16
_SPREAD = 4
"""Images that are read for one that is taken, at most."""
_MOST_BYTES = 2**28
"""Of images that are read for the sake of spread."""


def pick_shards(work: Work, most: int) -> list[int]:
    """Returns places in the plan of at most so many shards that are left, picked by a hash."""
    plan = work.writer.sink.plan
    names = {plan.names[index]: index for index in work.todo}
    return [names[name] for name in pick_names(names, most)]


def take_sample(work: Work, most: int) -> tuple[pa.Table, Reading]:
    """Returns about so many rows as they were read, numbered anew, and what reading them took.

    Args:
        work: What is left to do.
        most: Images.
    """
    places = pick_shards(work, min(SHARDS, most))
    share = -(-most // max(1, len(places)))
    parts, images, size, seconds, core_s = [], 0, 0, 0.0, 0.0
    for index in places:
        started, worked = time.perf_counter(), time.process_time()
        read = _read(work, index, share, _MOST_BYTES // len(places))
        seconds, core_s = (
            seconds + time.perf_counter() - started,
            core_s + time.process_time() - worked,
        )
        images, size = images + len(read), size + read["image"].nbytes
        parts.append(_pick(read, share))
    rows = pa.concat_tables(parts).slice(0, most)
    return _as_one_shard(rows), Reading(images, size, len(places), seconds, core_s)


def _read(work: Work, index: int, share: int, most_bytes: int) -> pa.Table:
    """Returns the first rows of a shard that are left to do."""
    plan, staged = work.writer.sink.plan, work.todo[index]
    tables, rows, size = [], 0, 0
    reading = work.reader.read(plan, index, Staged(staged.ranges, staged.total), share, 0)
    for table in reading:
        tables.append(table.filter(pa.array(table["row"].to_numpy() != NO_ROW)))
        rows, size = rows + len(tables[-1]), size + tables[-1]["image"].nbytes
        if rows >= _SPREAD * share or (rows >= share and size >= most_bytes):
            break
    return pa.concat_tables(tables)


def _pick(rows: pa.Table, most: int) -> pa.Table:
    """Returns the rows whose keys have the smallest hashes, in their order."""
    hashes = [hash_of(key or "") for key in rows["key"].to_pylist()]
    picked = sorted(sorted(range(len(hashes)), key=hashes.__getitem__)[:most])
    return rows.take(pa.array(picked, pa.int64()))


def _as_one_shard(rows: pa.Table) -> pa.Table:
    """Returns rows as if they were all those of the first shard of a plan."""
    count = len(rows)
    columns = {
        "shard": pa.array(np.zeros(count, np.int32)),
        "total": pa.array([None] * (count - 1) + [count] * (count > 0), pa.int32()),
        "row": pa.array(np.arange(count, dtype=np.int32)),
    }
    for name, values in columns.items():
        rows = rows.set_column(rows.column_names.index(name), rows.schema.field(name), values)
    return rows.combine_chunks()


class FirstRows(Reader):
    """Reads the first samples of every shard, for a rehearsal."""

    def __init__(self, reader: SampleReader, most: int) -> None:
        self._reader, self._most = reader, most

    def rows(self, plan: Plan, index: int) -> int | None:
        """Returns how many samples of a shard are read, if that is known."""
        known = self._reader.rows(plan, index)
        return None if known is None else min(known, self._most)

    def read(
        self, plan: Plan, index: int, staged: Staged, block_rows: int, deaths: int
    ) -> Iterator[pa.Table]:
        """Yields the first samples of a shard, the last of them marked as its last."""
        name, cut = plan.name(index), self._reader.cut
        most = min(self._most, cut[1]) if cut and cut[0] == name else self._most
        short = replace(self._reader, cut=(name, most))
        return short.read(plan, index, staged, block_rows, deaths)
