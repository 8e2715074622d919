"""What the driver sees of a graph that runs: receipts, counts, and whether anything moves."""

import contextlib
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import pyarrow as pa
import ray
import ray.data
from ray.actor import ActorHandle

from pipeline import cluster
from pipeline.attempts import ATTEMPTS
from pipeline.errors import DeviceError, NoProgressError
from pipeline.failures import explain
from pipeline.tasks import Counts

CODEC_CORES = 0.5
"""Logical cores that a codec needs, beside its device."""

_POLL_S = 0.5


@dataclass(frozen=True)
class Tick:
    """What the driver learns from time to time."""

    receipts: pa.Table | None
    """`commit.RECEIPT`: what became durable since the last tick; None if nothing did."""
    counts: Counts
    """What the workers have done so far."""


_END = object()


def watch(
    dataset: ray.data.Dataset,
    counter: ActorHandle[Any],
    stall_timeout_s: float,
    kind: str,
) -> Iterator[Tick]:
    """Yields ticks until the graph ends, and gives up when nothing has moved for too long.

    Args:
        dataset: The graph; its rows are receipts.
        counter: What the workers report to.
        stall_timeout_s: Seconds without progress after which the run is given up.
        kind: Kind of device that the codecs need.

    Raises:
        NoProgressError: If nothing moves for that long, or devices fail again and again.
        VqpipeError: Whatever a stage raised.
    """
    results: queue.Queue[Any] = queue.Queue()
    threading.Thread(target=_pump, args=(dataset, results), daemon=True).start()
    moved, counts, head = time.monotonic(), Counts(), cluster.Head()
    while True:
        for item in _take(results):
            if item is _END:
                return
            if isinstance(item, BaseException):
                raise explain(item)
            moved = time.monotonic()
            yield Tick(item, counts)
        head.check()
        found = _poll(counter, counts)
        # Not what is read: a task that is tried again reads for ever.
        if (found.encoded, found.opened) != (counts.encoded, counts.opened):
            moved = time.monotonic()
        counts = found
        yield Tick(None, counts)
        _check_devices(counts)
        if time.monotonic() - moved > stall_timeout_s:
            raise NoProgressError(_describe_stall(stall_timeout_s, kind))


def _take(results: "queue.Queue[Any]") -> Iterator[Any]:
    """Yields all that is there, after a while of waiting if nothing is.

    What became durable is not to wait for the counter's answers, which take long on a busy machine:
    the error budget is judged by it.
    """
    with contextlib.suppress(queue.Empty):
        yield results.get(timeout=_POLL_S)
        while True:
            yield results.get_nowait()


def _pump(dataset: ray.data.Dataset, results: "queue.Queue[Any]") -> None:
    try:
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            results.put(batch)
        results.put(_END)
    except BaseException as error:  # noqa: BLE001 (handed to the main thread, which raises it)
        results.put(error)


def _poll(counter: ActorHandle[Any], before: Counts) -> Counts:
    try:
        return cast(Counts, ray.get(counter.read.remote(), timeout=_POLL_S))
    except ray.exceptions.RayError:  # its node is gone or busy: the receipts still count
        return before


def _check_devices(counts: Counts) -> None:
    if counts.failures >= ATTEMPTS:
        raise DeviceError(
            f"the device of a codec failed in {counts.failures} processes in a row, with no image "
            f"encoded in between; the last time: {counts.failure}. Everything committed is safe: "
            "look at that machine (nvidia-smi, dmesg), and run the same command again"
        )


def _describe_stall(timeout_s: float, kind: str) -> str:
    total, free = cluster.resources(), cluster.free_resources()
    needed = "1 GPU" if kind == "cuda" else f"{CODEC_CORES} cores"
    have = ", ".join(
        f"{free.get(name, 0):g} of {total.get(name, 0):g} {name}s free" for name in ("CPU", "GPU")
    )
    return (
        f"no image was finished or committed for {timeout_s:g} s; a codec needs {needed}, and the "
        f"cluster has {have}. Everything committed is safe: run the same command again when the "
        "cluster is whole (--stall-timeout-s waits longer)"
    )
