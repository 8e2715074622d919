"""One model, encoded and decoded: images/s eager and compiled, and where the time of it goes.

A profile has the 25 kernels that take longest, and the GPU's idle share: of the time from the first
kernel's start to the last one's end, what no kernel was at work in.
"""

import json
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from tests.benchmarks.codec import fields_of, make_weights, measure
from tests.benchmarks.gpu import timing
from tests.benchmarks.records import note
from vqpipe.codec.codec import Codec
from vqpipe.codec.config import CodecConfig

SHOWN = 25
_KINDS = {"cuda": ("kernel", "gpu_memcpy", "gpu_memset"), "cpu": ("cpu_op",)}
"""What the profiler calls work of a device, in its traces."""


def main():
    options = timing.parse(__doc__, ("--config", {"required": True}))
    resolution, batch = (32, 2) if options.tiny else (256, 64)
    seconds = 0.0 if options.tiny else 3.0
    weights = make_weights(fields_of(options.config, tiny=options.tiny))
    for how in ("eager", "compiled"):
        codec = Codec(
            weights,
            CodecConfig(dtype="bfloat16", eager=how == "eager"),
            device=options.device,
            batch_size=batch,
        )
        for step, items in draw(weights, resolution, batch).items():
            run = getattr(codec, step)
            warm_up_s = _seconds(lambda run=run, items=items: run(items))
            name = f"{options.config} {step} {resolution} {how}"
            rate = measure(run, items, seconds)
            say(name, rate, "images/s", warm_up_s=round(warm_up_s, 1), **_memory(options.device))
            if how == "compiled":
                show_profile(name, lambda run=run, items=items: run(items), options.device)


def draw(weights, resolution, batch):
    """Returns what to encode and what to decode, four batches each, so that copies overlap."""
    rng, about = np.random.default_rng(0), weights.description
    images = rng.integers(0, 256, (4 * batch, resolution, resolution, 3), np.uint8)
    grid = about.layout_of(resolution, resolution).shape
    return {
        "encode": images,
        "decode": rng.integers(0, about.codebook_size, (4 * batch, *grid)),
    }


def say(name, value, unit, **more):
    beside = ", ".join(f"{key} {value}" for key, value in more.items())
    print(f"{name}: {value:,.4g} {unit} {beside}", flush=True)
    note(name, value, unit, **more)


def _seconds(run):
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _memory(device):
    if device != "cuda":
        return {}
    return {"peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1)}


def show_profile(name, run, device):
    """Prints and notes the profile of one call."""
    spans = profiled(run, device)
    busy_us, whole_us = covered(spans), max(end for *_, end in spans) - min(s for _, s, _ in spans)
    say(f"{name}, idle", 1 - busy_us / whole_us, "of the time", kernels=len(spans))
    taken, calls = Counter(), Counter(kernel for kernel, *_ in spans)
    for kernel, start, end in spans:
        taken[kernel] += end - start
    total = sum(taken.values())
    for place, (kernel, microseconds) in enumerate(taken.most_common(SHOWN), 1):
        share, label = microseconds / total, f"{name}, kernel {place:2}"
        say(label, microseconds / 1e3, "ms", share=f"{share:.1%}", calls=calls[kernel], what=kernel)


def profiled(run, device):
    """Returns name, start and end in microseconds of all that the device did in a call."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with profile(activities=activities) as traced:
        run()
        timing.synchronise(device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        traced.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    return [
        (event["name"], event["ts"], event["ts"] + event["dur"])
        for event in events
        if event.get("ph") == "X" and event.get("cat") in _KINDS[device]
    ]


def covered(spans):
    """Returns how much time at least one of the spans takes; they may overlap."""
    total, until = 0.0, float("-inf")
    for _, start, end in sorted(spans, key=lambda span: span[1]):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


if __name__ == "__main__":
    main()
