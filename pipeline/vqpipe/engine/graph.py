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

import contextlib
import functools
import math
import os
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, cast

import pyarrow as pa
import ray
import ray.data
from ray.actor import ActorHandle
from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy
from ray.util.annotations import RayDeprecationWarning

from vqpipe.codec import device_time, nvml
from vqpipe.codec.codec import Codec
from vqpipe.codec.config import CodecConfig, Device, batch_size_for
from vqpipe.codec.device import choose_device, device_name, watch_device
from vqpipe.codec.weights import Weights
from vqpipe.engine import capacity
from vqpipe.engine.adding import add_along
from vqpipe.engine.blocks import keep_blocks
from vqpipe.engine.committer import Committer
from vqpipe.engine.counter import RemoteLedger, here, make_counter
from vqpipe.engine.metrics import CodecMetrics, tags_of, tell_along
from vqpipe.engine.outlet import remember_executors
from vqpipe.engine.pace import Pace, hand_on
from vqpipe.engine.places import Place, describe_missing
from vqpipe.engine.portions import are_enough, portions
from vqpipe.engine.tasks import commit, open_views, read, read_views, todo_rows
from vqpipe.engine.watchdog import CODEC_CORES, Needs, Tick, watch
from vqpipe.errors import ConfigError, DeviceError
from vqpipe.occupancy import Setting, Spent
from vqpipe.stages.attempts import run_bounded
from vqpipe.stages.step import Step
from vqpipe.stages.work import TableFunction, Work

BLOCK_IMAGES = {"cuda": 256, "cpu": 128}
"""Most images of a block, within `PIXEL_BYTES`, rounded up to whole batches of the codec."""
PIXEL_BYTES = 48 * 2**20
"""Most bytes of a block of opened images, unless one batch of the codec is larger."""

# Logical cores. Reading, encoding and committing mostly wait, for the network or for each other;
# with a whole core reserved for each, the operators of a two-core machine starve one another.
# A codec on a GPU asks for no core: one that comes to a machine whose cores all open images would
# wait until one of them ends, which reads shards as long as there are some, and its GPU with it.
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

_GATHERED = 4
"""Blocks that a codec on a GPU is given together where views are of several shapes."""
_TABLES = 2
"""That a codec on a GPU has in hand at a time: one on the device, one on the way in or out."""

_REPORT_S = 30.0
_TELL_S = 1.0  # between two words to the counter about one table


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Where to run and how wide; nothing here changes a result."""

    address: str | None = None
    """A Ray cluster to join; None starts one on this machine that ends with the command."""
    device: Device = "auto"
    codecs: Place = field(default_factory=Place)
    """What codecs ask for, beside a GPU and some of a core."""
    workers: Place = field(default_factory=Place)
    """What all others ask for, beside some of a core."""
    actors: int | None = None
    """Most codecs; None is one for every GPU, also those that come later, or one on a CPU."""
    batch_size: int | None = None
    """Images in one forward."""
    stall_timeout_s: float = 900.0
    """Seconds without any progress after which the run is given up."""


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
    where = _look_around(resources)
    counter = make_counter()
    shapes = len(work.opens.shapes) if work.opens else 1
    batch_size = resources.batch_size or batch_size_for(where.kind, shapes)
    weights = ray.put(replace(work.weights))  # a copy without the parsed tensors
    writer = ray.put(work.writer)
    is_fair = work.writer.attempt is None
    views = work.writer.product.views
    run = work.writer.sink.run
    tags = tags_of(run.stage, run.fingerprint)
    setup = _Setup(codec, work.step, batch_size, resources.device, views, is_fair, tags)
    with warnings.catch_warnings():
        # Ray 2.60 deprecates `max_retries` and the like in favour of named parameters, but has no
        # named ones for these; 2.64 is to remove them, hence the bound in pyproject.toml.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        dataset = _graph(work, writer, (setup, weights, counter), where)
    commits = Committer(_launcher(writer, resources.workers))
    needs = Needs(where.kind, resources.codecs, resources.workers, opens=work.opens is not None)
    ticks = watch(dataset, commits, counter, resources.stall_timeout_s, needs, where.cores)
    told = tell_along(ticks, tags, Setting(where.kind, needs.opens), len(work.todo))
    shards, earlier = len(work.writer.sink.plan), work.adds_earlier
    yield from add_along(told, writer, list(work.todo), shards, earlier=earlier)


@dataclass(frozen=True)
class _Where:
    """What there is to run on, and what of it each worker asks for."""

    kind: str
    """Kind of device of the codecs, `cuda` or `cpu`."""
    codec: dict[str, Any]
    """What a codec asks Ray for."""
    pool: ActorPoolStrategy
    """How many codecs."""
    workers: Place
    """What all others ask for, beside some of a core."""
    cores: int | None
    """Those of this machine if it is the only one: each process of Ray takes two seconds of a core
    to start, and a laptop has few."""


def _look_around(resources: Resources) -> _Where:
    gpus = capacity.count_gpus(resources.codecs)
    kind = choose_kind(resources.device, resources.codecs, gpus)
    on_gpu = kind == "cuda"
    codec = resources.codecs.options(num_cpus=0 if on_gpu else CODEC_CORES, num_gpus=int(on_gpu))
    at_once = int(gpus / codec["num_gpus"]) if on_gpu else 1
    is_alone = not resources.address and len(capacity.machines()) == 1
    cores = capacity.cores() if is_alone else None
    return _Where(kind, codec, _pool(resources.actors, at_once, kind), resources.workers, cores)


def choose_kind(device: Device, place: Place, gpus: float) -> str:
    """Returns the kind of device that codecs work on, `cuda` or `cpu`.

    Args:
        device: What was asked for.
        place: What codecs ask for beside.
        gpus: That are there now.
    """
    if device == "auto":
        return "cuda" if gpus or place.resources.get("GPU") else "cpu"
    return device


def look_for_machines(resources: Resources) -> list[str]:
    """Returns what is to be known, in sentences, of machines that a run waits for.

    Raises:
        ConfigError: If this machine alone is what there is, and lacks what was asked for.
    """
    machines = capacity.machines()
    asked = ("codecs", resources.codecs), ("other workers", resources.workers)
    missing = [said for who, place in asked if (said := describe_missing(place, machines, who))]
    if missing and not resources.address and len(machines) == 1:
        raise ConfigError(
            f"{'; '.join(missing)}: this machine is all there is. Join a cluster by --address, or "
            "leave these options out"
        )
    return [f"{said} now: they wait for one" for said in missing] + _say_no_gpu(resources)


def _say_no_gpu(resources: Resources) -> list[str]:
    gpus = capacity.count_gpus(resources.codecs)
    kind = choose_kind(resources.device, resources.codecs, gpus)
    if resources.address and resources.device == "auto" and kind == "cpu":
        return ["no GPU in the cluster now, so CPUs encode: --device cuda waits for GPUs to come"]
    return []


def _pool(actors: int | None, at_once: int, kind: str) -> ActorPoolStrategy:
    """Returns where codecs are: at least one at work.

    On GPUs there may be any number of them, unless one was asked for: Ray adds codecs as long as
    there are GPUs for them and work waits, and asks its autoscaler for more GPUs while those that
    are there are busy; a bound from what is there at the start would hold forever. All that have
    a GPU begin at once: one after the other, each would wait for the kernels of those before
    it. There each takes two tables at a time, so that fetching one and handing on another go on
    beside the device.

    Args:
        actors: Most of them that were asked for.
        at_once: How many find a place now; on a cluster that is only starting, none.
        kind: Of their devices.
    """
    if kind == "cpu":
        return ActorPoolStrategy(min_size=1, max_size=actors or 1)
    return ActorPoolStrategy(
        min_size=1,
        max_size=actors,
        initial_size=max(1, min(actors or at_once, at_once)),
        max_concurrent_calls_per_actor=_TABLES,
    )


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
    arguments: "tuple[_Setup, ray.ObjectRef[Any], ActorHandle[Any]]",
    where: _Where,
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
    if work.opens and are_enough(sizes, processors):
        data = ray.data.from_arrow(todo_rows(work.todo, portions(sizes, processors)))
        views_too = TableFunction(read_views, (*source, work.opens))
        data = map_rows(data, views_too, READ_AND_OPEN_CORES, cores)
    else:
        todo = todo_rows(work.todo, portions(sizes))
        readers = cores and min(cores + 1, len(todo))  # else Ray warns of blocks that are too few
        data = map_rows(ray.data.from_arrow(todo), TableFunction(read, source), READ_CORES, readers)
        if work.opens:
            data = map_rows(data, TableFunction(open_views, (work.opens, counter)))
    is_cuda = where.kind == "cuda"
    data = data.map_batches(
        _Codec,
        fn_constructor_args=arguments,
        compute=where.pool,
        batch_size=_rows_of_codec(rows, work) if is_cuda else None,  # a CPU takes one image
        **where.codec,
        **ACTORS,
    )
    return cast(ray.data.Dataset, map_rows(data, work.after) if work.after else data)


def _rows_of_block(setup: "_Setup", row_bytes: int, most: int) -> int:
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


@dataclass(frozen=True)
class _Setup:
    """How the codec works, the same in every process."""

    codec: type[Codec]
    step: Step
    batch_size: int
    device: Device
    views: int
    """Rows of a sample."""
    is_fair: bool
    """Whether its rows are a fair sample of the data; see `attempts.check_finite`."""
    tags: dict[str, str]
    """Of the run's metrics."""


class _Codec:
    """The codec as Ray Data's actor: made once, then called with one table after another.

    What goes wrong while it is made is raised at the first call: of an actor that cannot be made
    Ray tells the driver no more than a text. A device that fails once fails for good in its
    process, so the process ends, after word to the driver, and Ray puts another in its place.
    The device belongs to one thread, whatever thread Ray makes a call in: Ray (2.60) has calls of a
    plain function follow one another, but not those of a generator.
    """

    def __init__(
        self, setup: _Setup, weights: ray.ObjectRef[Any], counter: ActorHandle[Any]
    ) -> None:
        self._setup = setup
        self._counter = counter
        self._ledger = RemoteLedger(counter)
        self._error: Exception | None = None
        self._id = ray.get_runtime_context().get_actor_id()
        self._device = ThreadPoolExecutor(max_workers=1)
        has_gpu = bool(ray.get_gpu_ids())
        self._device.submit(self._begin, weights, has_gpu=has_gpu).result()

    def _begin(self, weights: ray.ObjectRef[Any], *, has_gpu: bool) -> None:
        try:
            with watch_device():
                self._prepare(weights, has_gpu=has_gpu)
        except DeviceError as error:
            self._end_process(error)
        except Exception as error:  # noqa: BLE001 (raised at the first call)
            self._error = error

    def _prepare(self, weights: ray.ObjectRef[Any], *, has_gpu: bool) -> None:
        setup = self._setup
        chosen = choose_device(setup.device, promised=has_gpu)
        read = cast(Weights, ray.get(weights))

        def make(how: CodecConfig, size: int | None) -> Codec:
            placed: dict[str, Any] = {"device": chosen, "threads": capacity.cores()}
            return setup.codec(read, how, batch_size=size or setup.batch_size, **placed)

        ready = setup.step.prepare(make)
        self._run = ready.run
        self._through, self._told = 0, time.monotonic()
        self._gpu = nvml.Watch(nvml.find_gpu() if chosen == "cuda" else None)
        self._gpu.start()
        self._metrics = CodecMetrics(setup.tags)
        self._pace = Pace(setup.batch_size, self._ledger.agree, setup.views)
        unused = chosen == "cpu" and has_gpu
        note = " (Ray gave it a GPU, but this torch is one for CPUs)" if unused else ""
        self._counter.join.remote(self._id, device_name(chosen) + note, ready.warm_up())

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        if self._error:
            raise self._error
        yield from hand_on(table, self._finish, self._pace, is_fair=self._setup.is_fair)

    def _finish(self, table: pa.Table) -> pa.Table:
        return self._device.submit(self._run_on_device, table).result()

    def _run_on_device(self, table: pa.Table) -> pa.Table:
        self._since, self._device_s = time.monotonic(), device_time.total_s()
        self._batch_since = self._since
        try:
            done = run_bounded(table, self._work, self._ledger, self._setup.step.item)
        except DeviceError as error:
            self._end_process(error)
        self._tell()
        return done

    def _work(self, table: pa.Table) -> pa.Table:
        return self._run(table, self._count)

    def _count(self, views: int) -> None:
        self._through += views
        begun, self._batch_since = self._batch_since, time.monotonic()
        self._metrics.time_batch(self._batch_since - begun)
        if self._batch_since - self._told > _TELL_S:
            self._tell()

    def _tell(self) -> None:
        images, self._through = divmod(self._through, self._setup.views)
        seen = self._gpu.take()
        self._counter.add.remote(images, self._spent(seen), here(), seen.memory)
        self._metrics.show_gpu(seen.busy_s / seen.seconds if seen.seconds else None, seen.memory)
        self._told = time.monotonic()

    def _spent(self, seen: nvml.Seen) -> Spent:
        """Returns what was spent on rows since the last word."""
        now, device_s = time.monotonic(), device_time.total_s()
        spent = Spent(
            codec_s=now - self._since,
            device_s=device_s - self._device_s,
            gpu_busy_s=seen.busy_s,
            gpu_seen_s=seen.seconds,
        )
        self._since, self._device_s = now, device_s
        return spent

    def _end_process(self, error: DeviceError) -> NoReturn:
        with contextlib.suppress(ray.exceptions.RayError):  # the driver's watchdog remains
            ray.get(self._counter.fail.remote(self._id, error.message), timeout=_REPORT_S)
        os._exit(1)
