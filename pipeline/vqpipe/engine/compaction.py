"""Rows of a sink put into other files, on Ray Data.

    in the sink's order    runs of files -> read and write -> receipts
    shuffled               shards -> read and place -> repartition by key -> write -> receipts

A run of files is a task: it reads the few shards that they need once, and commits one file after
the other. For a shuffle every row is on its way from some shard to any file, which is Ray Data's
matter: it cuts blocks into partitions, keeps these in the object stores of all machines, spills
what does not fit to their disks, and brings the pieces of a partition together in one task. The
driver sees receipts alone.
"""

import contextlib
import warnings
from collections.abc import Generator, Iterator
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
import ray.data
from ray.actor import ActorHandle
from ray.data import DataContext, TaskPoolStrategy
from ray.data._internal.arrow_ops.transform_pyarrow import hash_partition
from ray.data.context import ShuffleStrategy
from ray.util.annotations import RayDeprecationWarning

from vqpipe.engine import capacity
from vqpipe.engine.adding import add_along
from vqpipe.engine.committer import Receipts
from vqpipe.engine.compact_tasks import KEY, place, write_partition, write_runs
from vqpipe.engine.counter import make_counter
from vqpipe.engine.graph import TASKS, set_up_data
from vqpipe.engine.portions import TASK_BYTES, portions
from vqpipe.engine.resources import Resources
from vqpipe.engine.watchdog import Tick, watch
from vqpipe.stages.compact import Compaction
from vqpipe.stages.neighbours import file_runs

_BLOCK_BYTES = 64 * 2**20
"""About the most of a block of rows on their way."""
_PARTITION_BYTES = 128 * 2**20
"""About what a partition of a shuffle has, unless one file has more; a task holds it thrice."""
_MOST_PARTITIONS = 4096
"""Each block of `_GATHER_BYTES` is cut into as many pieces, of which each is an object of Ray's."""
_GATHER_BYTES = 256 * 2**20
"""Blocks that are cut together. Ray's default, four times as much, takes 2 GiB in a task."""
_LEAST_A_CORE = 2
"""Partitions for each core, if there are as many files."""
_READ_CORES, _WRITE_CORES = 0.5, 1.0


def run(work: Compaction, resources: Resources) -> Generator[Tick, None, None]:
    """Does and commits all files that are left, yielding a tick at least every second or so.

    To be closed if it is not taken to its end: threads of Ray Data have to rest before Ray ends.

    Args:
        work: What to do.
        resources: Where to run.

    Raises:
        NoProgressError: If nothing moves for `resources.stall_timeout_s`, or workers fail again
            and again.
        MachineError: If a machine runs out of memory or disk.
        VqpipeError: Whatever a stage raised.
    """
    counter = make_counter()
    cores = capacity.cores_to_plan_for() if resources.address else capacity.count_cores()
    set_up_data(_BLOCK_BYTES)
    where = ray.put(work)
    graph = _in_order if work.arrangement.shuffle is None else _shuffled
    with _shuffle_set_up():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RayDeprecationWarning)  # as in `graph.run`
            dataset = graph(work, (where, counter), cores)
        ticks = watch(dataset, Receipts(), counter, resources.stall_timeout_s, None)
        writer = ray.put(work.writer)
        yield from add_along(ticks, writer, list(work.todo), len(work.writer.sink.plan))


@contextlib.contextmanager
def _shuffle_set_up() -> Iterator[None]:
    """Has Ray Data take one of its shuffles, whatever its default is on this machine.

    Pieces of this one are objects of the store, which are spilled; those of the one before it are
    in the memory of actors.
    """
    data = DataContext.get_current()
    before = data.shuffle_strategy, data.shuffle_input_batch_bytes
    data.shuffle_strategy = ShuffleStrategy.SHUFFLE_V2
    data.shuffle_input_batch_bytes = _GATHER_BYTES
    try:
        yield
    finally:
        data.shuffle_strategy, data.shuffle_input_batch_bytes = before


Shared = tuple["ray.ObjectRef[Any]", ActorHandle[Any]]
"""The work, and the counter."""


def _in_order(work: Compaction, shared: Shared, cores: float) -> ray.data.Dataset:
    runs = file_runs(work, cores, TASK_BYTES)
    todo = [pa.table({"first": [first], "last": [last]}) for first, last in runs]
    data = _map(ray.data.from_arrow(todo), write_runs, shared, _WRITE_CORES)
    return cast(ray.data.Dataset, data)


def _shuffled(work: Compaction, shared: Shared, cores: float) -> ray.data.Dataset:
    sizes = cast(list[int], work.snapshot.table["bytes"].to_pylist())
    todo, first = [], 0
    for count in portions(sizes, cores):
        todo.append(pa.table({"first": [first], "last": [first + count]}))
        first += count
    keys = partition_keys(count_partitions(work, cores))
    placed = _map(ray.data.from_arrow(todo), place, (*shared, keys), _READ_CORES)
    together = placed.repartition(len(keys), keys=[KEY])
    return cast(ray.data.Dataset, _map(together, write_partition, shared[:1], _WRITE_CORES))


def _map(data: Any, function: Any, arguments: tuple[Any, ...], cores: float) -> Any:  # noqa: ANN401 (Ray's types are too narrow)
    how = {"fn_args": arguments, "batch_size": None, "num_cpus": cores}
    return data.map_batches(function, compute=TaskPoolStrategy(), **how, **TASKS)


def count_partitions(work: Compaction, cores: float) -> int:
    """Returns in how many parts rows come together, each of them some files."""
    by_size = -(-work.bytes_left // _PARTITION_BYTES)
    wanted = max(by_size, int(_LEAST_A_CORE * max(1, cores)))
    return int(max(1, min(wanted, len(work.todo), _MOST_PARTITIONS)))


def partition_keys(count: int) -> npt.NDArray[np.int64]:
    """Returns (count,) values of the key, of which each goes to a partition of its own.

    Ray deals out keys by a hash: with as many partitions as keys, a third of them gets none and
    some get five. That these do not share one bounds memory; nothing else depends on it.
    """
    tried = 16 * count
    while True:
        numbers = pa.table({KEY: np.arange(tried, dtype=np.int64)})
        found = hash_partition(numbers, hash_cols=[KEY], num_partitions=count)
        if len(found) == count:
            return np.array([part[KEY][0].as_py() for _, part in sorted(found.items())], np.int64)
        tried *= 2
