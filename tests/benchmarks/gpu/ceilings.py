"""What the device can do at most: products of random matrices, copies, and the host's link."""

import contextlib

import torch

from tests.benchmarks.codec import allow_tf32
from tests.benchmarks.gpu import timing
from tests.benchmarks.records import note


def main():
    options = timing.parse(__doc__)
    side, copied = (256, 2**20) if options.tiny else (8192, 2**32)
    for name in ("bfloat16", "tf32", "float32"):
        measure_products(name, side, options.device)
    measure_copy(copied, options.device)
    measure_link(2**20 if options.tiny else 2**26, options.device)


def say(name, value, unit):
    print(f"{name}: {value:.4g} {unit}", flush=True)
    note(name, value, unit)


def measure_products(name, side, device):
    """Measures square products; random numbers, since zeros draw less power and run faster."""
    dtype = torch.bfloat16 if name == "bfloat16" else torch.float32
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    with allow_tf32() if name == "tf32" else contextlib.nullcontext():
        milliseconds = timing.time_ms(lambda: torch.mm(a, b, out=out), device, seconds=1.0)
    say(f"product {name}", 2 * side**3 / milliseconds / 1e9, "TFLOP/s")


def measure_copy(size, device):
    """Measures a copy within the device's memory, far larger than its caches."""
    source = torch.randint(0, 256, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    milliseconds = timing.time_ms(lambda: target.copy_(source), device, seconds=1.0)
    say("copy on the device", 2 * size / milliseconds / 1e9, "TB/s, read and written")


def measure_link(size, device):
    host = torch.randint(0, 256, (size,), dtype=torch.uint8).numpy()
    pinned = torch.from_numpy(host)
    pinned = pinned.pin_memory() if device == "cuda" else pinned
    there = torch.empty(size, dtype=torch.uint8, device=device)
    for name, run in (
        ("copy to the device", lambda: there.copy_(pinned, non_blocking=True)),
        ("copy to the host", lambda: pinned.copy_(there, non_blocking=True)),
    ):
        say(name, size / timing.time_ms(run, device) / 1e6, "GB/s, pinned")


if __name__ == "__main__":
    main()
