"""The codec as an actor of Ray Data's: which rows it is given, and what becomes of its device."""

import contextlib
import functools
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NoReturn, cast

import pyarrow as pa
import ray
from ray.actor import ActorHandle

from vqpipe.codec import device_time, nvml
from vqpipe.codec.codec import Codec
from vqpipe.codec.config import Device
from vqpipe.codec.device import watch_device
from vqpipe.codec.placed import place_codec
from vqpipe.codec.weights import Weights
from vqpipe.engine import capacity
from vqpipe.engine.ledger import RemoteLedger, WaryLedger
from vqpipe.engine.metrics import CodecMetrics
from vqpipe.engine.pace import Pace, hand_on
from vqpipe.engine.report import Report, teller
from vqpipe.errors import DeviceError
from vqpipe.occupancy import Spent
from vqpipe.stages.attempts import run_bounded
from vqpipe.stages.step import Step

_REPORT_S = 30.0
_TELL_S = 1.0  # between two words to the counter about one table


@dataclass(frozen=True)
class Setup:
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


class CodecActor:
    """The codec as Ray Data's actor: made once, then called with one table after another.

    What goes wrong while it is made is raised at the first call: of an actor that cannot be made
    Ray tells the driver no more than a text. A device that fails once fails for good in its
    process, so the process ends, after word to the driver, and Ray puts another in its place.
    The device belongs to one thread, whatever thread Ray makes a call in: Ray (2.60) has calls of a
    plain function follow one another, but not those of a generator.
    """

    def __init__(
        self, setup: Setup, weights: ray.ObjectRef[Any], counter: ActorHandle[Any]
    ) -> None:
        self._setup = setup
        self._counter = counter
        self._teller = teller(counter)
        self._error: Exception | None = None
        self._id = str(ray.get_runtime_context().get_actor_id())
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
        placed = place_codec(
            functools.partial(setup.codec, cast(Weights, ray.get(weights))),
            setup.device,
            batch_size=setup.batch_size,
            shapes=1,  # of which the batch size takes account
            threads=capacity.cores(),
            promised=has_gpu,
        )
        ready = setup.step.prepare(placed.make)
        self._run = ready.run
        self._through, self._told = 0, time.monotonic()
        self._gpu = nvml.Watch(nvml.find_gpu() if placed.kind == "cuda" else None)
        self._gpu.start()
        self._metrics = CodecMetrics(setup.tags)
        ledger = RemoteLedger(self._counter)
        self._pace = Pace(setup.batch_size, ledger.agree, setup.views)
        unused = placed.kind == "cpu" and has_gpu
        note = " (Ray gave it a GPU, but this torch is one for CPUs)" if unused else ""
        is_again = ledger.join(self._id, placed.name + note, ready.warm_up())
        self._ledger = WaryLedger(ledger, is_again=is_again)

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        """Yields the finished rows of a table."""
        if self._error:
            raise self._error
        yield from hand_on(table, self._finish, self._pace, is_fair=self._setup.is_fair)
        self._ledger.pass_table()

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
        spent = self._spent(seen)
        self._teller.note(Report(encoded=images, spent=spent, gpu_memory=seen.memory))
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
            self._teller.flush()  # what it has encoded makes its failures no row
            ray.get(self._counter.fail.remote(self._id, error.message), timeout=_REPORT_S)
        os._exit(1)
