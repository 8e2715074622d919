"""Whether the rows of a compacted sink's files are those that belong there, by the snapshot in it.

Which shard each row comes from is arithmetic (`sink.arrangement`). Which of its rows it is shows by
their numbers: those of a shard's samples rise, whatever was rejected between them.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vqpipe.sink.arrangement import Arrangement
from vqpipe.sink.frozen import frozen_table
from vqpipe.sink.run import CompactRun


@dataclass(frozen=True)
class Provenance:
    """Which rows the files of a compacted sink are to have."""

    source: pa.Table
    """What was put into files (`snapshot.SNAPSHOT`)."""
    arrangement: Arrangement
    has_shards: bool
    """Whether the shards of the source are those that rows name, it being none of `compact`."""

    @classmethod
    def load(cls, sink: str, run: CompactRun) -> "Provenance":
        """Returns what a sink says that its files have.

        Raises:
            MismatchError: If its snapshot is another one than its `run.json` names.
            FileNotFoundError: If it is gone.
        """
        source, identity = frozen_table(sink, run), run.identity
        samples = int(source["samples"].to_numpy().sum())
        order = Arrangement(samples, run.facts.views, identity.rows_per_file, identity.shuffle)
        return cls(source, order, run.facts.source_run.get("stage") != "compact")

    @cached_property
    def _ends(self) -> npt.NDArray[np.int64]:
        """(shards,): samples up to each, its own included."""
        return np.cumsum(self.source["samples"].to_numpy())

    def find_fault(self, file: int, table: pa.Table, column: str) -> str | None:
        """Returns what is wrong with the rows of a file, if anything.

        Args:
            file: Which one.
            table: Its rows.
            column: That of the shards.
        """
        views, wanted = self.arrangement.views, self.arrangement.rows(file)
        if len(table) != wanted:
            return f"it has {len(table):,} rows, and should have {wanted:,}"
        if not np.array_equal(table["view"].to_numpy(), np.arange(wanted) % views):
            return "the views of a sample do not follow one another"
        rows = table["row"].to_numpy()
        if not np.array_equal(rows, np.repeat(rows[::views], views)):
            return "the views of a sample are not of one row"
        return self._find_stranger(file, table, column) if self.has_shards else None

    def _find_stranger(self, file: int, table: pa.Table, column: str) -> str | None:
        views, numbers = self.arrangement.views, self.arrangement.numbers_in(file)
        shards = np.searchsorted(self._ends, numbers, side="right")
        names = self.source["name"].take(pa.array(np.repeat(shards, views)))
        is_right = pc.equal(table[column], names)
        if not pc.all(is_right, min_count=0).as_py() or table[column].null_count:
            return f"{pc.sum(pc.invert(is_right)).as_py():,} rows are of other shards than they say"
        rows = table["row"].to_numpy()[::views]
        order = np.argsort(numbers)
        is_next = shards[order][1:] == shards[order][:-1]
        rises = np.diff(rows[order]) >= np.diff(numbers[order])
        ordinals = numbers - np.append(0, self._ends)[shards]
        if (rises | ~is_next).all() and (rows >= ordinals).all():
            return None
        return "rows of a shard are there twice, or others than belong there"
