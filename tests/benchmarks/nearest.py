"""Time of the search for nearest entries beside `cdist` and `argmin`, in one run, and its memory.

    python -m tests.benchmarks.nearest [--rounds 7] [--shapes 65536x16384x4]

Gaussian latents and codebook. A round measures both sides one after the other, and the ratio is
taken within it: machines are shared and noisy.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch

from tests.benchmarks.records import note
from vqpipe.vqgan import nearest
from vqpipe.vqgan.nearest import find_nearest

SHAPES = [(4096, 16384, 4), (4096, 16384, 256), (4096, 8192, 64)]
LARGE = (128 * 32 * 32, 16384, 4)
"""A batch of 128 grids of 32 x 32: `cdist` would take over 8 GB."""

MAX_TERMS = 2**30
"""Squared differences summed in float64, by definition, to check codes: rows past it are not."""


def find_by_cdist(z, codebook):
    return torch.cdist(z, codebook).argmin(dim=1)


def find_exact(z, codebook):
    rows = torch.split(z.double(), max(1, 2**22 // codebook.numel()))
    codebook = codebook.double()
    return torch.cat([(row[:, None] - codebook).square().sum(2).argmin(1) for row in rows])


def measure_time(find, z, codebook):
    """Returns milliseconds."""
    _synchronise(z.device.type)
    started = time.perf_counter()
    find(z, codebook)
    _synchronise(z.device.type)
    return (time.perf_counter() - started) * 1e3


def _synchronise(device):
    if device == "cuda":
        torch.cuda.synchronize()


def measure_peak(run, device):
    """Returns how many bytes more than before the process, or the device, held at most in `run`."""
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far (man 5 proc)
    before = _read_memory("VmRSS")
    run()
    return _read_memory("VmHWM") - before


def _read_memory(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def share_in_doubt(z, codebook):
    """Returns the share of rows decided in float64."""
    table, kernels = nearest._make_table(codebook), nearest._load_kernels()
    if not is_fused(z[:64]):
        return float(table.doubt(nearest._search(z, table)).float().mean())
    found = kernels.search(z, table.weights, table.centre, table.scale)
    is_split = z.shape[1] > kernels.FEW_CHANNELS
    return float(table.doubt(found, is_split=is_split).float().mean())


def is_fused(z):
    """Tells whether kernels of ours find the entries of rows like these."""
    table = nearest._make_table(z)
    return z.is_cuda and nearest._find_fused(z, z, table) is not None


def compare(shape, device, rounds):
    count, size, dim = shape
    z, codebook = torch.randn(count, dim, device=device), torch.randn(size, dim, device=device)
    sides = (find_by_cdist, find_nearest)
    for find in sides:
        find(z, codebook)
    times = [[measure_time(find, z, codebook) for find in sides] for _ in range(rounds)]
    theirs, ours = (statistics.median(side) for side in zip(*times, strict=True))
    ratios = [a / b for a, b in times]
    some = z[: max(1, MAX_TERMS // codebook.numel())]
    exact = find_exact(some, codebook)
    assert torch.equal(find_nearest(some, codebook), exact)
    wrong = float((find_by_cdist(some, codebook) != exact).float().mean())
    doubt = share_in_doubt(z, codebook)
    print(
        f"{count} x {dim}, {size:6} entries: cdist + argmin {theirs:8.2f} ms, ours {ours:8.2f} ms, "
        f"{statistics.median(ratios):5.2f} ({min(ratios):.2f} to {max(ratios):.2f}) times as fast; "
        f"{doubt:.3%} of rows decided in float64; "
        f"cdist differs from float64 in {wrong:.3%} of {len(some)}"
    )
    beside = {"cdist_ms": round(theirs, 3), "in_float64": f"{doubt:.3%}", "cdist_wrong": wrong}
    note(f"nearest entry, {count} x {size} x {dim}", ours, "ms", **beside)


def run_large(device, rounds):
    count, size, dim = LARGE
    z, codebook = torch.randn(count, dim, device=device), torch.randn(size, dim, device=device)
    find_nearest(z[:64], codebook)
    peak = measure_peak(lambda: find_nearest(z, codebook), device)
    times = [measure_time(find_nearest, z, codebook) for _ in range(rounds)]
    print(
        f"{count} x {dim}, {size:6} entries: ours {statistics.median(times):8.2f} ms, "
        f"peak {peak / 1e6:.0f} MB on top of the input"
    )


def parse_shape(text):
    """Returns rows, entries and channels of `4096x16384x4`."""
    rows, entries, channels = map(int, text.split("x"))
    return rows, entries, channels


def parse_options():
    is_there = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--shapes", type=parse_shape, nargs="+", help="instead of the usual ones")
    parser.add_argument("--device", choices=["cuda", "cpu"], default=is_there)
    parser.add_argument("--tiny", action="store_true", help="sizes that say nothing of speed")
    return parser.parse_args()


def main():
    options = parse_options()
    device = options.device
    fused = is_fused(torch.zeros(1, 4, device=device))
    name = (
        torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"
    )
    print(f"{device}, {name}; torch {torch.__version__}; {'fused kernel' if fused else 'products'}")
    torch.manual_seed(0)
    if not options.shapes:
        run_large(device, 3)
    for rows, entries, channels in options.shapes or SHAPES:
        scale = 256 if options.tiny else 1
        compare((rows // scale, entries // scale, channels), device, options.rounds)


if __name__ == "__main__":
    main()
