"""What Ray's workers run of a compaction: kept apart from the engine, which imports torch."""

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
from ray.actor import ActorHandle

from vqpipe.engine.report import Report, teller
from vqpipe.stages.compact import Compaction
from vqpipe.stages.neighbours import write_files
from vqpipe.stages.shuffled import FILE, place_rows, write_placed

KEY = "partition"
"""Column by which rows come together."""


def write_runs(
    todo: pa.Table, work: ray.ObjectRef[Any], counter: ActorHandle[Any]
) -> Iterator[pa.Table]:
    """Commits runs of files; yields a receipt for each file."""
    known = cast(Compaction, ray.get(work))

    def tell(rows: int) -> None:
        _tell(rows // known.arrangement.views, counter)

    for row in todo.to_pylist():
        yield from write_files(known, row["first"], row["last"], tell)


def place(
    todo: pa.Table,
    work: ray.ObjectRef[Any],
    counter: ActorHandle[Any],
    keys: npt.NDArray[np.int64],
) -> Iterator[pa.Table]:
    """Yields the rows of some shards with where they go.

    Args:
        todo: Ranges of objects in the snapshot, `first` to below `last`.
        work: What is done.
        counter: Told of rows that were read.
        keys: (partitions,): what stands for each; neighbouring files share one.
    """
    known = cast(Compaction, ray.get(work))
    partition = (np.cumsum(known.is_left) - 1) * len(keys) // len(known.todo)
    for row in todo.to_pylist():
        for table in place_rows(known, range(row["first"], row["last"])):
            _tell(len(table) // known.arrangement.views, counter)
            found = keys[partition[table[FILE].to_numpy()]]
            yield table.append_column(KEY, pa.array(found))


def _tell(samples: int, counter: ActorHandle[Any]) -> None:
    """Tells of samples that were read, where that alone shows that work goes on."""
    teller(counter, is_named=False).note(Report(read=samples, opened=samples))


def write_partition(table: pa.Table, work: ray.ObjectRef[Any]) -> Iterator[pa.Table]:
    """Commits the files of a partition; yields a receipt for each."""
    yield from write_placed(cast(Compaction, ray.get(work)), table)
