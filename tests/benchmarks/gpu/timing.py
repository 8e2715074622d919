"""Options that all measurements take, and time on a device."""

import argparse
import statistics
import time

import torch


def parse(description, *own):
    """Returns options: `--device`, `--tiny`, and a step's own, each a name and what it takes."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes that say nothing of speed")
    for name, how in own:
        parser.add_argument(name, **how)
    return parser.parse_args()


def time_ms(run, device, *, seconds=0.3, least=3):
    """Returns the median milliseconds of a call, after some to warm up; by events on a GPU."""
    for _ in range(least):
        run()
    synchronise(device)
    times, started = [], time.perf_counter()
    while len(times) < least or time.perf_counter() - started < seconds:
        times.append(_time_once(run, device))
    return statistics.median(times)


def _time_once(run, device):
    if device != "cuda":
        started = time.perf_counter()
        run()
        return (time.perf_counter() - started) * 1e3
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def synchronise(device):
    if device == "cuda":
        torch.cuda.synchronize()
