"""What a worker reads of a shard, as tables of rows; the first operator of every stage's graph.

No row is dropped on the way: a sample that fails becomes a row with a reason.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import pyarrow as pa

from vqpipe import schema
from vqpipe.rejections import UNKNOWN, Loss, Reason
from vqpipe.schema import Sample, Selection, Shard
from vqpipe.sink.plan import Plan
from vqpipe.sink.ranges import Staged
from vqpipe.sources import read_shard
from vqpipe.sources.limits import Cut
from vqpipe.stages.attempts import ATTEMPTS, keep_reading
from vqpipe.stages.conditions import ALL, Conditions
from vqpipe.stages.quarantine import claimed_rows, read_quarantined
from vqpipe.stages.samples import columns_of, kept_bytes

BLOCK_BYTES = 32 * 2**20
"""Most bytes of images and text in a table that is read, unless one sample has more."""

NO_ROW = -1
"""Row number of a row that is no sample: it has the shard's staging looked at."""


def read_rows(
    samples: Iterable[Sample],
    index: int,
    staged: Staged,
    kept: pa.Schema,
    block_rows: int,
    holds: str = "image",
) -> Iterator[pa.Table]:
    """Yields the rows of a shard that are not staged yet, in order.

    Args:
        samples: All of the shard, in order; not even begun if all of it is staged.
        index: Its place in the plan.
        staged: Rows to leave out: they are safe already.
        kept: Schema of the kept metadata.
        block_rows: Most rows of one table.
        holds: Column of what was read (`Shard.holds`).
    """
    block: list[Sample] = []
    size, total, seen = 0, None, 0
    all_samples = _fill_up(() if staged.complete else samples, staged)
    for sample, is_last in _mark_last(all_samples):
        seen = sample.row + 1
        if staged.holds(sample.row):
            continue
        taken = len(sample.data or b"") + kept_bytes(sample)
        if len(block) == block_rows or (block and size + taken > BLOCK_BYTES):
            yield _table(index, block, None, kept, holds)
            block, size = [], 0
        block.append(sample)
        total = seen if is_last else None
        size += taken
    if not block:
        block, total = [Sample(NO_ROW, None)], staged.total if staged.complete else seen
    yield _table(index, block, total, kept, holds)


def gather_tables(tables: Iterable[pa.Table], most_rows: int) -> Iterator[pa.Table]:
    """Yields tables as they come, small ones together.

    Args:
        tables: Rows of any shards.
        most_rows: Most rows of what is put together.
    """
    held: list[pa.Table] = []
    for table in tables:
        if held and sum(map(len, held)) + len(table) > most_rows:
            yield pa.concat_tables(held)
            held = []
        held.append(table)
        rows, size = sum(map(len, held)), sum(each.nbytes for each in held)
        if 2 * rows >= most_rows or 2 * size >= BLOCK_BYTES:
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)


def _fill_up(samples: Iterable[Sample], staged: Staged) -> Iterator[Sample]:
    """Yields samples; what stands for an unreadable rest does so for all of it that was once read.

    Rows behind it may be staged, by a command that could read on. Those that are missing among them
    are lost now, one by one; and behind them nobody knows, if no one came to the end of the shard.
    """
    for sample in samples:
        if sample.rejection is None or sample.rejection.reason != Reason.SHARD_DAMAGED:
            yield sample
            continue
        end = max(sample.row, staged.end) + 1 if staged.total is None else staged.total
        for row in range(sample.row, max(end, sample.row + 1)):
            is_one = row + 1 < end or staged.total is not None
            loss = Loss(1, "known") if is_one else _lost_from(row, sample)
            yield replace(sample, row=row, rejection=replace(sample.rejection, loss=loss))


def _lost_from(row: int, sample: Sample) -> Loss:
    """Returns what is lost from a row on, given what stands for all that is from its own on."""
    loss = (sample.rejection and sample.rejection.loss) or UNKNOWN
    return Loss(loss.images and max(1, loss.images - (row - sample.row)), loss.by)


def _mark_last(samples: Iterator[Sample]) -> Iterator[tuple[Sample, bool]]:
    previous = next(samples, None)
    for sample in samples:
        assert previous is not None
        yield previous, False
        previous = sample
    if previous is not None:
        yield previous, True


def _table(
    index: int, samples: list[Sample], total: int | None, kept: pa.Schema, holds: str
) -> pa.Table:
    """Returns samples as rows; `total` stands on the last one."""
    columns = {
        "shard": pa.array([index] * len(samples), pa.int32()),
        "total": pa.array([None] * (len(samples) - 1) + [total], pa.int32()),
        **columns_of(samples, kept, holds),
    }
    target = schema.read_schema(kept, holds)
    return pa.table([columns[name] for name in target.names], schema=target)


class Reader(Protocol):
    """Reads one shard; plain data, sent to every worker."""

    def rows(self, plan: Plan, index: int) -> int | None:
        """Returns how many rows a shard will have, all staged ones among them, if that is known."""

    def read(
        self, plan: Plan, index: int, staged: Staged, block_rows: int, deaths: int
    ) -> Iterator[pa.Table]:
        """Yields the rows of a shard that are not staged yet.

        Args:
            plan: The run's.
            index: The shard's place in it.
            staged: Rows to leave out.
            block_rows: Most rows of one table.
            deaths: How many processes have begun it and not come to its end.
        """


@dataclass(frozen=True)
class SampleReader:
    """Reads all samples of a shard, or those at its beginning."""

    selection: Selection
    kept: pa.Schema
    conditions: Conditions = ALL
    """Without which a sample is left out."""
    cut: Cut | None = None
    """Which shard is not read to its end; None if all are."""

    def rows(self, plan: Plan, index: int) -> int | None:
        """Returns how many samples of the shard will be read, if it says how many it has."""
        shard = plan.shard(index)
        claimed, most = claimed_rows(shard, self.selection), self._most(shard)
        return claimed if claimed is None or most is None else min(claimed, most)

    def read(
        self, plan: Plan, index: int, staged: Staged, block_rows: int, deaths: int
    ) -> Iterator[pa.Table]:
        """Yields the shard's samples as they are stored (`schema.read_schema`)."""
        shard = plan.shard(index)
        samples = self.samples(shard, deaths)
        _, kept = self._reads()
        for rows in read_rows(samples, index, staged, kept, block_rows, shard.holds):
            yield self.conditions.leave_out(rows) if self.conditions.texts else rows

    def samples(self, shard: Shard, deaths: int) -> Iterator[Sample]:
        """Returns a shard's samples; over one where processes keep dying none of ours shall."""
        selection, kept = self._reads()
        if deaths >= ATTEMPTS:
            samples = read_quarantined(shard, selection, kept)
        else:
            samples = keep_reading(
                lambda: read_shard(shard, selection, kept),
                shard.name,
                lambda: claimed_rows(shard, selection),
            )
        most = self._most(shard)
        return samples if most is None else cut_short(samples, most)

    def _most(self, shard: Shard) -> int | None:
        """Returns how many samples of a shard are read; None is all."""
        return self.cut[1] if self.cut and self.cut[0] == shard.name else None

    def _reads(self) -> tuple[Selection, pa.Schema]:
        """Returns what is read of each sample: what is kept, and what conditions ask for."""
        asked = self.conditions.asked
        if not asked.names:
            return self.selection, self.kept
        keep = (*self.selection.keep, *asked.names)
        return replace(self.selection, keep=keep), pa.schema([*self.kept, *asked])


def cut_short(samples: Iterator[Sample], most: int) -> Iterator[Sample]:
    """Yields the first samples of a shard; what one stands for ends with the last of them, too."""
    for sample in itertools.islice(samples, most):
        loss = sample.rejection and sample.rejection.loss
        room = most - sample.row
        if loss and loss.images and loss.images > room:
            assert sample.rejection is not None
            short = replace(sample.rejection, loss=Loss(room, loss.by))
            yield replace(sample, rejection=short)
        else:
            yield sample
