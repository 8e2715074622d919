"""Where the work runs: the Ray Data graph and its resources.

    encode    shards left -> read -> open -> codec (actor pool)             -> commit -> receipts
    decode    shards left -> read         -> codec (actor pool) -> compress -> commit -> receipts
    evaluate  shards left -> read -> open -> codec (actor pool) -> picture  -> commit -> receipts

Where there are shards enough for all cores, whoever opens a shard's images reads them as well: one
process a core, that is never at a loss for work, and less for Ray to do.
One graph for every stage. Pixels travel as uint8 between processes. What takes a core and what
takes a device are separate operators, so that one huge shard uses every core and machines without
a GPU feed those that have one. A block is what a stage yields at a time, bounded by rows and bytes,
and one task of the next stage: none waits for more of them, but for a GPU, whose batches are full.
Commits are the driver's (`committer`): it sees each as it happens, can stop early, and can tell a
slow run from a stuck one.
"""

import functools
import math
import warnings
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any, cast

import ray
import ray.data
from ray.actor import ActorHandle
from ray.data import DataContext, TaskPoolStrategy
from ray.util.annotations import RayDeprecationWarning

from vqpipe.codec.codec import Codec
from vqpipe.codec.config import batch_size_for
from vqpipe.engine import capacity
from vqpipe.engine.adding import add_along
from vqpipe.engine.blocks import keep_blocks
from vqpipe.engine.coder import CodecActor, Setup
from vqpipe.engine.committer import Committer
from vqpipe.engine.counter import make_counter
from vqpipe.engine.metrics import tags_of, tell_along
from vqpipe.engine.outlet import remember_executors
from vqpipe.engine.places import Place
from vqpipe.engine.portions import are_enough, portions
from vqpipe.engine.resources import Resources, Where, look_around
from vqpipe.engine.tasks import commit, open_views, read, read_views, spare_rows, todo_rows
from vqpipe.engine.watchdog import Needs, Tick, watch
from vqpipe.occupancy import Setting
from vqpipe.stages.work import TableFunction, Work

BLOCK_IMAGES = {"cuda": 256, "cpu": 128}
"""Most images of a block, within `PIXEL_BYTES`, rounded up to whole batches of the codec."""
PIXEL_BYTES = 48 * 2**20
"""Most bytes of a block of opened images, unless one batch of the codec is larger."""

# Logical cores. Reading, encoding and committing mostly wait, for the network or for each other;
# with a whole core reserved for each, the operators of a two-core machine starve one another.
READ_CORES = 0.25
# A commit waits for no core: whoever reads and opens holds one for the length of its shards, and
# leaves so much of it that a commit always finds its share, but not on a head that has no core.
READ_AND_OPEN_CORES, COMMIT_CORES = 0.985, 0.001

# A worker may die, and a spot node be reclaimed, this often before Ray gives the run up. Ray Data's
# own default is to retry for ever.
_ARROW: dict[str, Any] = {"batch_format": "pyarrow", "zero_copy_batch": True}
RETRIES = 64
TASKS = {**_ARROW, "max_retries": RETRIES}
ACTORS = {**_ARROW, "max_restarts": -1, "max_task_retries": RETRIES}

SPARES = 4
"""Tasks on a cluster, the last ones, that do again what others take too long for."""
_GATHERED = 4
"""Blocks that a codec on a GPU is given together where views are of several shapes."""


def run(
    work: Work, resources: Resources, codec: type[Codec] = Codec
) -> Generator[Tick, None, None]:
    """Does and commits all shards that are left, yielding a tick at least every second or so.

    To be closed if it is not taken to its end: threads of Ray Data have to rest before Ray ends.

    Args:
        work: What to do.
        resources: Where to run.
        codec: What encodes and decodes; a benchmark puts one that costs nothing in its place.

    Raises:
        NoProgressError: If nothing moves for `resources.stall_timeout_s`, or devices or workers
            fail again and again.
        MachineError: If a machine runs out of memory or disk.
        VqpipeError: Whatever a stage raised.
    """
    where = look_around(resources)
    counter = make_counter()
    shapes = len(work.opens.shapes) if work.opens else 1
    batch_size = resources.batch_size or batch_size_for(where.kind, shapes)
    weights = ray.put(replace(work.weights))  # a copy without the parsed tensors
    writer = ray.put(work.writer)
    is_fair = work.writer.attempt is None
    views = work.writer.product.views
    run = work.writer.sink.run
    tags = tags_of(run.stage, run.fingerprint)
    setup = Setup(codec, work.step, batch_size, resources.device, views, is_fair, tags)
    with warnings.catch_warnings():
        # Ray 2.60 deprecates `max_retries` and the like in favour of named parameters, but has no
        # named ones for these; 2.64 is to remove them, hence the bound in pyproject.toml.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        dataset = _graph(work, writer, (setup, weights, counter), where)
    commits = Committer(_launcher(writer, resources.workers))
    places = resources.codecs, resources.workers
    needs = Needs(where.kind, *places, work.opens is not None, frozenset(work.todo))
    ticks = watch(dataset, commits, counter, resources.stall_timeout_s, needs, where.cores)
    told = tell_along(ticks, tags, Setting(where.kind, needs.opens), len(work.todo))
    shards, earlier = len(work.writer.sink.plan), work.adds_earlier
    yield from add_along(told, writer, list(work.todo), shards, earlier=earlier)


def _launcher(writer: "ray.ObjectRef[Any]", workers: Place) -> Callable[..., Any]:
    """Returns what has a worker commit blocks, given as references."""
    task = cast(Any, ray.remote(commit)).options(
        name="commit",
        max_retries=RETRIES,
        scheduling_strategy="SPREAD",
        **workers.options(num_cpus=COMMIT_CORES),
    )
    return functools.partial(task.remote, writer)


def _graph(
    work: Work,
    writer: "ray.ObjectRef[Any]",
    arguments: "tuple[Setup, ray.ObjectRef[Any], ActorHandle[Any]]",
    where: Where,
) -> ray.data.Dataset:
    """Wires the stages together; every one is a plain function from table to table."""
    setup, _, counter = arguments
    row_bytes, views = work.step.row_bytes, work.opens.views if work.opens else 1
    rows = _rows_of_block(setup, row_bytes, BLOCK_IMAGES[where.kind])
    set_up_data(rows * row_bytes)
    source = (writer, work.reader, max(1, rows // views), counter)
    sizes, cores = _sizes_left(work), where.cores
    processors = cores or capacity.cores_to_plan_for()
    map_rows = functools.partial(_map, place=where.workers)
    spares = spare_rows(0 if cores else SPARES)
    if work.opens and are_enough(sizes, processors):
        todo = todo_rows(work.todo, portions(sizes, processors))
        data = ray.data.from_arrow(todo + spares)
        views_too = TableFunction(read_views, (*source, work.opens))
        data = map_rows(data, views_too, READ_AND_OPEN_CORES, cores)
    else:
        todo = todo_rows(work.todo, portions(sizes))
        readers = cores and min(cores + 1, len(todo))  # else Ray warns of blocks that are too few
        data = ray.data.from_arrow(todo + spares)
        data = map_rows(data, TableFunction(read, source), READ_CORES, readers)
        if work.opens:
            data = map_rows(data, TableFunction(open_views, (work.opens, counter)))
    is_cuda = where.kind == "cuda"
    data = data.map_batches(
        CodecActor,
        fn_constructor_args=arguments,
        compute=where.pool,
        batch_size=_rows_of_codec(rows, work) if is_cuda else None,  # a CPU takes one image
        **where.codec,
        **ACTORS,
    )
    return cast(ray.data.Dataset, map_rows(data, work.after) if work.after else data)


def _rows_of_block(setup: "Setup", row_bytes: int, most: int) -> int:
    """Returns how many rows a codec is given at a time: whole samples, and whole batches if it can.

    Ray cuts the rows of all blocks at multiples of it, and every sample has as many rows as an
    image has views, so that no cut tears one.
    """
    images = max(1, min(most, PIXEL_BYTES // row_bytes))
    whole = math.lcm(setup.batch_size, setup.views)
    unit = whole if whole <= 2 * max(images, setup.batch_size) else setup.views
    return unit * math.ceil(images / unit)


def _rows_of_codec(rows: int, work: Work) -> int:
    """Returns how many rows a codec on a GPU is given at a time, by those of a block.

    Where views are of several shapes, they are more: each shape's last batch is padded.
    """
    has_shapes = work.opens is not None and len(work.opens.shapes) > 1
    return rows * (_GATHERED if has_shapes else 1)


def _sizes_left(work: Work) -> list[int]:
    """Returns the compressed bytes of each shard left."""
    sizes = work.writer.sink.plan.table["size"].to_numpy()
    return cast(list[int], sizes[list(work.todo)].tolist())


def _map(
    data: Any,  # noqa: ANN401 (Ray's types are too narrow)
    stage: TableFunction,
    cores: float = 1,
    most: int | None = None,
    *,
    place: Place,
) -> Any:  # noqa: ANN401
    """Adds a stage, each block a task: whoever waits for many large ones waits for ever.

    Ray Data hands on no more than a share of its memory, so that a task that is to begin with 128
    images of 80 MB never does.

    Args:
        data: What comes before.
        stage: What is done.
        cores: Logical cores of a task.
        most: Most tasks at once, if they are not to be as many as there are cores for.
        place: What a task asks for beside.
    """
    how = {"fn_args": stage.arguments, "batch_size": None, **place.options(num_cpus=cores)}
    return data.map_batches(stage.function, compute=TaskPoolStrategy(most), **how, **TASKS)


def set_up_data(block_bytes: int) -> None:
    """Sets what Ray Data has no argument for.

    Args:
        block_bytes: About what a large block has; Ray Data counts on it until it has seen some.
    """
    data = DataContext.get_current()
    data.target_max_block_size = block_bytes
    # By default it wraps what a stage raises, and 2.60 loses the cause.
    data.raise_original_map_exception = True
    # Its own guard ends a run that has not moved for half an hour; ours is the user's to set.
    data.execution_no_progress_timeout_s = -1
    # By default every task, of which each block is one, has a thread that looks at its memory.
    data.memory_usage_poll_interval_s = None
    keep_blocks()
    remember_executors(data)
