"""What a forecast needs Ray for: a run of a few images, and a watch on other machines.

rehearse        the graph itself, a few images into a folder of this machine: how long it takes to
                start, and to end
measure_there   opening on the cores of a node, a codec on a device of a cluster
"""

import functools
import time
from dataclasses import dataclass, replace
from typing import Any, cast

import pyarrow as pa
import ray
from ray.actor import ActorHandle

from vqpipe.codec.codec import Codec
from vqpipe.codec.placed import place_codec
from vqpipe.codec.weights import Weights
from vqpipe.engine import capacity, cluster, graph
from vqpipe.engine.failures import explain
from vqpipe.engine.resources import Resources, Where, look_around, look_for_machines
from vqpipe.errors import NoProgressError
from vqpipe.images import Preprocess
from vqpipe.stages.encode import Encoding
from vqpipe.stages.measure import measure_coding, measure_opening
from vqpipe.stages.measured import Coding, Opening, StartUp
from vqpipe.stages.work import Work

_OPENING_CORES = 4
"""Logical cores that images are opened on, unless no machine has as many."""


def rehearse(work: Work, resources: Resources) -> StartUp:
    """Returns what a run of a few images takes besides them.

    Args:
        work: A few images, into a sink that is of no other use.
        resources: This machine.

    Raises:
        VqpipeError: If Ray does not start, or a stage fails.
    """
    began = time.monotonic()
    ready: float | None = None
    images, shards = 0, 0
    with cluster.connect(resources.address):
        look_for_machines(resources)  # as a run does, which would wait for them
        for tick in graph.run(work, resources):
            if ready is None and tick.counts.devices:
                ready = time.monotonic()
            for receipt in tick.receipts.to_pylist() if tick.receipts else ():
                images += receipt["good"] + receipt["rejected"] + receipt["left_out"]
                shards += receipt["committed"] is not None
        ended = time.monotonic()
    ready = ended if ready is None else ready
    return StartUp(ready - began, ended - ready, time.monotonic() - ended, images, shards)


@dataclass(frozen=True)
class There:
    """What was measured on a cluster."""

    opening: Opening
    coding: Coding
    coded: pa.Table
    """Rows with their codes."""
    start_up: StartUp
    cores: int
    """Logical ones of the cluster."""
    notes: list[str]
    """What is to be known of machines that were waited for, in sentences."""


def measure_there(rows: pa.Table, work: Work, resources: Resources) -> There:
    """Returns what it takes to open and to encode some images on a cluster.

    Args:
        rows: As they were read.
        work: How they are opened and encoded.
        resources: The cluster, and which device to take.

    Raises:
        NoProgressError: If no node has a free core or device for `resources.stall_timeout_s`.
        VqpipeError: What a stage raises.
    """
    began = time.monotonic()
    assert isinstance(work.step, Encoding), "images are encoded"
    assert work.opens is not None, "images are opened"
    with cluster.connect(resources.address):
        notes, where = look_for_machines(resources), look_around(resources)
        connected = time.monotonic()
        opened, opening = _ask(_open(rows, work.opens, where), resources, "core")
        started = time.monotonic()
        codec = _codec_of(work, resources, where)
        _ask(codec.begin.remote(), resources, "GPU" if where.kind == "cuda" else "core")
        ready_s = connected - began + time.monotonic() - started
        coded, coding = _ask(codec.measure.remote(opened), resources, "device")
        cores, gpus = capacity.count_cores(), capacity.count_gpus(resources.codecs)
    start_up = StartUp(ready_s, 0.0, None, 0, 0)
    if coding.kind == "cuda":
        coding = replace(coding, devices=max(1, int(gpus)))
    return There(opening, coding, coded, start_up, max(1, int(cores)), notes)


def _ask(answer: Any, resources: Resources, what: str) -> Any:  # noqa: ANN401 (Ray's references)
    try:
        return ray.get(answer, timeout=resources.stall_timeout_s)
    except ray.exceptions.GetTimeoutError:
        raise NoProgressError(
            f"no node of the cluster had a free {what} for {resources.stall_timeout_s:g} s: look at"
            " the cluster, and run the same command again (--stall-timeout-s waits longer)"
        ) from None
    except ray.exceptions.RayError as error:
        raise explain(error) from error


def _open(rows: pa.Table, how: Preprocess, where: Where) -> Any:  # noqa: ANN401 (Ray's references)
    """Has a node open images on some of its cores."""
    cores = max(1, min(_OPENING_CORES, int(capacity.most_cores(where.workers))))
    place = where.workers.options(num_cpus=cores)
    task = cast(Any, ray.remote(measure_opening)).options(name="measure opening", **place)
    return task.remote(rows, how, cores)


def _codec_of(work: Work, resources: Resources, where: Where) -> "ActorHandle[Any]":
    weights = ray.put(replace(work.weights))  # a copy without the parsed tensors
    shapes = len(work.opens.shapes) if work.opens else 1
    actor = cast(Any, ray.remote(_Codec)).options(**where.codec)
    return cast("ActorHandle[Any]", actor.remote(weights, work.step, resources, shapes))


class _Codec:
    """A codec on a node of the cluster."""

    def __init__(self, weights: Weights, step: Encoding, resources: Resources, shapes: int) -> None:
        self._weights, self._step = weights, step
        self._resources, self._shapes = resources, shapes

    def begin(self) -> None:
        """Finds the device."""
        self._placed = place_codec(
            functools.partial(Codec, self._weights),
            self._resources.device,
            batch_size=self._resources.batch_size,
            shapes=self._shapes,
            threads=capacity.cores(),
            promised=bool(ray.get_gpu_ids()),
        )

    def measure(self, opened: pa.Table) -> tuple[pa.Table, Coding]:
        """Returns rows with their codes, and what these took."""
        return measure_coding(opened, self._step, self._placed)
