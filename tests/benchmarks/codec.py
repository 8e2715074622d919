"""The codec beside diffusers as research scripts use it, in one run.

    python -m tests.benchmarks.codec [--configs MoVQ aMUSEd LDM taming] [--resolutions 256 512]

Encodes uint8 images on the host to codes on the host, and back. Weights are random and seeded:
speed does not depend on them. Every round measures all sides one after the other and ratios are
taken within a round, since machines are shared and noisy. Warm-up is told, not counted.
Sides that need diffusers are left out, with a line that says so, where it is missing.

rate      images/s, the median of the rounds
ratio     to diffusers in float32 with TF32, the median of the rounds' ratios
matrix    share of the matrix products that the device was measured to do in bfloat16
memory    the most that was allocated on the device at a time
unlike    share of codes unlike float32's; when decoding, PSNR to what float32 decodes to
"""

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.benchmarks.records import note
from tests.vqgan.configs import CONFIGS as NARROW
from tests.vqgan.published import PUBLISHED
from vqpipe.codec.codec import Codec
from vqpipe.codec.config import CodecConfig
from vqpipe.codec.weights import Weights
from vqpipe.metrics import mean_psnr
from vqpipe.vqgan import VQModel
from vqpipe.vqgan.checkpoint import write_state

try:
    import diffusers
except ImportError:
    diffusers = None

TINY = {"MoVQ f8": "movq", "aMUSEd f16": "amused", "LDM f4": "ldm_f4", "taming f16": "vq_diffusion"}
"""Narrow ones of the same build, for a run that says nothing of speed."""
BASELINE = "diffusers float32"
OURS = {
    "ours float32": {"dtype": "float32"},
    "ours tf32": {"dtype": "tf32"},
    "ours bfloat16 eager": {"dtype": "bfloat16", "eager": True},
    "ours bfloat16": {"dtype": "bfloat16"},
}


FIGURES = {
    "ours bfloat16": "compiled",
    "ours bfloat16 eager": "eager",
    "ours float32": "float32",
    "ours tf32": "tf32",
    BASELINE: "by diffusers, float32 with TF32",
    "diffusers bfloat16": "by diffusers, autocast",
}
"""What figures of a side are called."""
THEIRS = {BASELINE: False, "diffusers bfloat16": True}
"""Whether diffusers runs under autocast."""


@dataclass
class Side:
    """One way to encode and decode, and what was measured of it."""

    encode: Callable[[np.ndarray], np.ndarray]
    decode: Callable[[np.ndarray], np.ndarray]
    rates: dict[str, list[float]] = field(default_factory=lambda: {"encode": [], "decode": []})
    peaks: dict[str, float] = field(default_factory=dict)
    warm_up_s: float = 0.0


def fields_of(name, *, tiny=False):
    """Returns the architecture of that name."""
    return NARROW[TINY[name]] if tiny else PUBLISHED[name]


def make_weights(fields):
    """Returns random weights, the same for the same architecture."""
    torch.manual_seed(0)
    return pack(VQModel(**fields).eval())


def pack(model):
    return Weights(write_state(model.config, model.state_dict()), "benchmark")


def ours(model, device, batch, how):
    codec = Codec(pack(model), CodecConfig(**how), device=device, batch_size=batch)
    return Side(lambda images: codec.encode(images)[0], lambda codes: codec.decode(codes)[0])


def theirs(model, device, batch, autocast):
    """The loops of research scripts: normalise on the host, eager, TF32 on, argmin of cdist."""
    network = diffusers.VQModel.from_config(dict(model.config))
    network.load_state_dict(model.state_dict())
    network.eval().to(device)
    size = model.config.embed_dim

    def encode(images):
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()  # as ToTensor makes it
        pixels = pixels.float() / 127.5 - 1
        latents = network.encode(pixels.to(device)).latents
        codes = network.quantize(latents)[2][2]
        return codes.view(len(images), *latents.shape[2:]).cpu().numpy()

    def decode(codes):
        indices, shape = torch.from_numpy(codes).to(device), (*codes.shape, size)
        looks_up = network.config.lookup_from_codebook
        vectors = indices if looks_up else network.quantize.get_codebook_entry(indices, shape)
        pixels = network.decode(vectors, force_not_quantize=True, shape=shape).sample
        levels = ((pixels.float() + 1) * 127.5).round().clamp(0, 255).byte()
        return levels.permute(0, 2, 3, 1).cpu().numpy()

    def loop(step):
        run = as_a_script_runs_it(step, device, autocast)
        return lambda items: np.concatenate(
            [run(items[start : start + batch]) for start in range(0, len(items), batch)]
        )

    return Side(loop(encode), loop(decode))


def as_a_script_runs_it(step, device, autocast):
    """Returns the step with a script's switches; on too little memory, by halves."""

    @torch.inference_mode()
    def run(items):
        try:
            with allow_tf32(), torch.autocast(device, torch.bfloat16, enabled=autocast):
                return step(items)
        except torch.OutOfMemoryError:
            pass
        torch.cuda.empty_cache()
        return np.concatenate([run(half) for half in np.array_split(items, 2)])

    return run


@contextlib.contextmanager
def allow_tf32():
    """Has products and convolutions in float32 use TF32, as scripts do, for a block.

    From torch 2.9 on there are other switches, which must not be mixed with those of before.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    is_new = hasattr(matmul, "fp32_precision")
    name, on = ("fp32_precision", "tf32") if is_new else ("allow_tf32", True)
    switches = (matmul, cudnn.conv) if is_new else (matmul, cudnn)
    before = [getattr(switch, name) for switch in switches]
    try:
        for switch in switches:
            setattr(switch, name, on)
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            setattr(switch, name, value)


def make_sides(model, device, batch, chosen):
    """Returns the sides to measure, and ours in float32, eager, that they are compared with."""
    left_out = set() if device == "cuda" else {"ours tf32", "ours bfloat16 eager"}  # it has no TF32
    sides = {
        name: ours(model, device, batch, how)
        for name, how in OURS.items()
        if name in chosen and name not in left_out
    }
    for name, autocast in THEIRS.items():
        if diffusers and name in chosen:
            sides[name] = theirs(model, device, batch, autocast)
    exact = {"dtype": "float32", "eager": True}
    return sides, sides.get("ours float32") or ours(model, device, batch, exact)


def measure(step, items, seconds):
    """Returns items/s over at least `seconds`."""
    rounds, started = 0, time.perf_counter()
    while not rounds or time.perf_counter() - started < seconds:
        step(items)
        rounds += 1
    return rounds * len(items) / (time.perf_counter() - started)


def count_flops(fields, resolution):
    """Returns floating-point operations (two a product) of encoding and of decoding one image."""
    with torch.device("meta"):
        model = VQModel(**fields).eval()
        pixels = torch.empty(1, 3, resolution, resolution)
        found = {}
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            latents = model.encode(pixels).latents
        found["encode"] = counter.get_total_flops()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model.decode_quantized(latents)
        found["decode"] = counter.get_total_flops()
    return found


def measure_matrix_rate(device):
    """Returns floating-point operations a second of large bfloat16 matrix products, the best."""
    size = 8192 if device == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = 0.0
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(10 if device == "cuda" else 1):
            product = a @ b
        product[0, 0].item()  # waits for the device
        times = 10 if device == "cuda" else 1
        best = max(best, times * 2 * size**3 / (time.perf_counter() - started))
    return best


def warm_up(side, images, codes):
    started = time.perf_counter()
    side.encode(images)
    side.decode(codes)
    side.warm_up_s = time.perf_counter() - started


def run_rounds(sides, batches, options, device):
    for round_number in range(options.rounds):
        for side in sides.values():
            for step in ("encode", "decode"):
                if device == "cuda" and not round_number:
                    torch.cuda.reset_peak_memory_stats()
                rate = measure(getattr(side, step), batches[step], options.seconds)
                side.rates[step].append(rate)
                if device == "cuda" and not round_number:
                    side.peaks[step] = torch.cuda.max_memory_allocated()


def describe_difference(step, side, reference, items):
    found, expected = (getattr(each, step)(items) for each in (side, reference))
    if step == "decode":
        return f"{mean_psnr(found, expected):.1f} dB"
    return f"{np.mean(found != expected):.3%}"


def report(config, sides, reference, batches, flops, matrix_rate):
    print(f"{'':20} {'':8} {'rate':>9} {'ratio':>6} {'matrix':>7} {'memory':>9} {'unlike':>8}")
    for step in ("encode", "decode"):
        for name, side in sides.items():
            rates, baseline = side.rates[step], sides.get(BASELINE)
            pairs = zip(rates, baseline.rates[step], strict=True) if baseline else ()
            ratio = statistics.median([a / b for a, b in pairs] or [float("nan")])
            rate = statistics.median(rates)
            peak = f"{side.peaks[step] / 2**30:.1f} GiB" if side.peaks else "-"
            unlike = describe_difference(step, side, reference, batches[step])
            print(
                f"{name:20} {step:8} {rate:9.2f} {ratio:6.2f} "
                f"{rate * flops[step] / matrix_rate:7.1%} {peak:>9} {unlike:>8}"
            )
            beside = {"ratio": round(ratio, 3), "memory": peak, "unlike": unlike}
            beside["matrix"] = round(rate * flops[step] / matrix_rate, 4)
            note(f"{config[0]} {step} {config[1]} {FIGURES[name]}", rate, "images/s", **beside)
    told = ", ".join(f"{name} {side.warm_up_s:.1f} s" for name, side in sides.items())
    print(f"warm-up: {told}\n", flush=True)


def benchmark(config, resolution, device, matrix_rate, options):
    torch.manual_seed(0)
    fields = fields_of(config, tiny=options.tiny)
    model = VQModel(**fields).eval()
    grid = resolution // model.downsample_factor
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (options.batch, resolution, resolution, 3), np.uint8)
    codes = rng.integers(0, model.config.num_vq_embeddings, (options.batch, grid, grid))
    sides, reference = make_sides(model, device, options.batch, options.sides)
    for side in sides.values():
        warm_up(side, images, codes)
    # Two batches a call, so that one's copies can overlap with the other's arithmetic.
    batches = {"encode": np.tile(images, (2, 1, 1, 1)), "decode": np.tile(codes, (2, 1, 1))}
    run_rounds(sides, batches, options, device)
    flops = count_flops(fields, resolution)
    report((config, resolution), sides, reference, batches, flops, matrix_rate)


def parse_options():
    has_cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--resolutions", type=int, nargs="+", default=[256, 512] if has_cuda else [256]
    )
    parser.add_argument("--batch", type=int, default=64 if has_cuda else 1)
    parser.add_argument("--configs", nargs="+", default=["MoVQ", "aMUSEd"], help="by first word")
    parser.add_argument("--sides", nargs="+", default=list(FIGURES), choices=list(FIGURES))
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda" if has_cuda else "cpu")
    parser.add_argument("--tiny", action="store_true", help="sizes that say nothing of speed")
    options = parser.parse_args()
    if options.tiny:
        options.resolutions, options.batch, options.seconds, options.rounds = [32], 2, 0.0, 1
    return options


def main():
    options = parse_options()
    device, is_cuda = options.device, options.device == "cuda"
    name = torch.cuda.get_device_name() if is_cuda else f"cpu, {torch.get_num_threads()} threads"
    matrix_rate = 1e12 if options.tiny else measure_matrix_rate(device)
    print(f"{name}; torch {torch.__version__}; {matrix_rate / 1e12:.2f} TFLOP/s in bfloat16")
    if not diffusers:
        print("diffusers is not installed: its sides are left out")
    for config in (name for name in PUBLISHED if name.split()[0] in options.configs):
        for resolution in options.resolutions:
            print(f"{config}, {resolution} px, batch {options.batch}")
            benchmark(config, resolution, device, matrix_rate, options)


if __name__ == "__main__":
    main()
