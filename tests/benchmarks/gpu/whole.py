"""The whole pipeline on Ray: `vqpipe encode` of JPEGs by a MoVQ, images/s and the GPU's busy share.

The command runs as it is, but for the sizes of Ray's object store, which are given by hand, and for
the cores, of which it is given some: how many a GPU needs is what is asked. Rates are those between
30 and 95 % of the images.
"""

import functools
import os
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import vqpipe
from tests.benchmarks.codec import fields_of, make_weights
from tests.benchmarks.gpu import timing
from tests.benchmarks.records import note
from tests.benchmarks.tars import build_tars

_CONFIG = "MoVQ f8"
_STORE = 2**33
_STEADY = 0.3, 0.95
"""Between which shares of the images the rate is taken."""
_DATA = Path(tempfile.gettempdir()) / "vqpipe-figures"
"""JPEGs and a model that several steps use."""


def main():
    options = timing.parse(__doc__, ("--cores", {"type": int, "required": True}))
    cores = give_cores(1 if options.tiny else options.cores)
    images, shards = (24, 2) if options.tiny else (24_000, 24)
    source, model = prepare(images, shards, tiny=options.tiny)
    curve = watch_graph(options.device, tiny=options.tiny)
    sink = Path(tempfile.mkdtemp(prefix="vqpipe-sink"))
    try:
        with Utilisation(options.device) as busy:
            found = encode(source, sink, model, options)
    finally:
        shutil.rmtree(sink, ignore_errors=True)
    report(f"whole pipeline, {options.cores} cores", curve, busy, found.totals, cores)


def give_cores(count):
    """Leaves this process, and what it starts, so many of the cores it has; returns how many."""
    there = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, there[:count])
    return min(count, len(there))


def prepare(images, shards, *, tiny):
    """Returns folders of JPEGs in tars and of a model, made once for all steps of a machine."""
    folder = _DATA / ("tiny" if tiny else "full")
    source, model = folder / "tars", folder / "model"
    if not model.exists():
        shutil.rmtree(folder, ignore_errors=True)
        build_tars(source, images, shards)
        model.mkdir()
        for name, data in make_weights(fields_of(_CONFIG, tiny=tiny)).files.items():
            (model / name).write_bytes(data)
    return source, model


def watch_graph(device, *, tiny):
    """Has the graph note how far it is, and Ray take a store of our size; returns the notes."""
    import ray

    from vqpipe.engine import graph

    curve, run = [], graph.run

    def noted(*arguments, **how):
        for tick in run(*arguments, **how):
            curve.append((time.perf_counter(), tick.counts.encoded))
            yield tick

    graph.run = noted
    given = {"object_store_memory": choose_store(tiny=tiny)}
    if device == "cuda":
        given["num_gpus"] = 1
    ray.init = functools.partial(ray.init, **given)
    return curve


def choose_store(*, tiny):
    """Returns bytes for Ray's object store: what shared memory has room for, up to a bound.

    Where it has next to none, the store lies on the disk of /tmp, which Ray refuses unless told.
    """
    free = shutil.disk_usage("/dev/shm").free
    if tiny:
        return 2**28
    if free < 2**31:
        os.environ["RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE"] = "1"
        return 2**32
    return min(_STORE, int(free * 0.8))


def encode(source, sink, model, options):
    how = {"resolution": 32, "batch_size": 2} if options.tiny else {"resolution": 256}
    found = vqpipe.encode(
        source=str(source),
        sink=str(sink),
        model=str(model),
        device=options.device,
        dtype="bfloat16",
        pixel_range="signed",
        stall_timeout_s=150.0,  # longer than kernels take to compile
        verbose=True,
        **how,
    )
    found.check()
    return found


class Utilisation:
    """How busy the driver says that the GPU is, five times a second."""

    def __init__(self, device):
        self.seen = []
        self._process = None
        if device == "cuda" and shutil.which("nvidia-smi"):
            command = ["nvidia-smi", "--query-gpu=utilization.gpu", "-lms", "200"]
            self._process = subprocess.Popen(
                [*command, "--format=csv,noheader,nounits"], stdout=subprocess.PIPE, text=True
            )

    def __enter__(self):
        if self._process:
            threading.Thread(target=self._read, daemon=True).start()
        return self

    def __exit__(self, *_):
        if self._process:
            self._process.terminate()
            self._process.wait()

    def _read(self):
        for line in self._process.stdout:
            if line.strip().isdigit():
                self.seen.append((time.perf_counter(), int(line) / 100))

    def between(self, begin, end):
        """Returns the mean share of the time that kernels ran, or None if it is not known."""
        shares = [share for moment, share in self.seen if begin <= moment <= end]
        return statistics.mean(shares) if shares else None


def report(name, curve, busy, totals, cores):
    total = max(count for _, count in curve)
    steady = [point for point in curve if total * _STEADY[0] <= point[1] <= total * _STEADY[1]]
    (begin, before), (end, after) = (steady or curve)[0], (steady or curve)[-1]
    rate = (after - before) / max(end - begin, 1e-9)
    shares = {"GPU busy": busy.between(begin, end), "codec busy": totals["codec_busy"]}
    print(f"{name}: {rate:,.1f} images/s of {total:,}, {shares}", flush=True)
    note(name, rate, "images/s", cores=cores, over_all=totals["images_per_second"])
    for what, share in shares.items():
        if share is not None:
            note(f"{name}, {what}", share, "of the time")


if __name__ == "__main__":
    main()
