"""What a worker reads of a shard, as tables of rows; the first operator of every stage's graph."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from pipeline.attempts import ATTEMPTS, keep_reading
from pipeline.layout import Staged
from pipeline.plan import Plan
from pipeline.quarantine import read_quarantined
from pipeline.schema import Sample, Selection, Shard
from pipeline.sources import read_shard
from pipeline.stages import read_rows


class Reader(Protocol):
    """Reads one shard; plain data, sent to every worker."""

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
    """Reads all samples of a shard."""

    selection: Selection
    kept: pa.Schema

    def read(
        self, plan: Plan, index: int, staged: Staged, block_rows: int, deaths: int
    ) -> Iterator[pa.Table]:
        """Yields the shard's samples as they are stored (`schema.read_schema`)."""
        samples = self.samples(plan.shard(index), deaths)
        return read_rows(samples, index, staged, self.kept, block_rows)

    def samples(self, shard: Shard, deaths: int) -> Iterator[Sample]:
        """Returns a shard's samples; over one where processes keep dying none of ours shall."""
        if deaths >= ATTEMPTS:
            return read_quarantined(shard, self.selection, self.kept)
        return keep_reading(lambda: read_shard(shard, self.selection, self.kept), shard.name)
