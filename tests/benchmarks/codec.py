"""The codec beside diffusers as research scripts use it, in one run.

    python -m tests.benchmarks.codec [--configs MoVQ aMUSEd] [--resolutions 256 512] [--batch 64]

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
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

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

CONFIGS = {
    "MoVQ f8 16384x4": {
        "block_out_channels": (128, 256, 256, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 3 + ("AttnDownEncoderBlock2D",),
        "up_block_types": ("AttnUpDecoderBlock2D",) + ("UpDecoderBlock2D",) * 3,
        "layers_per_block": 2,
        "latent_channels": 4,
        "num_vq_embeddings": 16_384,
        "vq_embed_dim": 4,
        "norm_type": "spatial",
    },
    "aMUSEd f16 8192x64": {
        "block_out_channels": (128, 256, 256, 512, 768),
        "down_block_types": ("DownEncoderBlock2D",) * 5,
        "up_block_types": ("UpDecoderBlock2D",) * 5,
        "layers_per_block": 2,
        "latent_channels": 64,
        "num_vq_embeddings": 8192,
        "mid_block_add_attention": False,
        "lookup_from_codebook": True,
    },
}
BASELINE = "diffusers float32"
OURS = {
    "ours float32": {"dtype": "float32"},
    "ours tf32": {"dtype": "tf32"},
    "ours bfloat16 eager": {"dtype": "bfloat16", "eager": True},
    "ours bfloat16": {"dtype": "bfloat16"},
}


@dataclass
class Side:
    """One way to encode and decode, and what was measured of it."""

    encode: Callable[[np.ndarray], np.ndarray]
    decode: Callable[[np.ndarray], np.ndarray]
    rates: dict[str, list[float]] = field(default_factory=lambda: {"encode": [], "decode": []})
    peaks: dict[str, float] = field(default_factory=dict)
    warm_up_s: float = 0.0


def ours(model, device, batch, how):
    weights = Weights(write_state(model.config, model.state_dict()), "benchmark")
    codec = Codec(weights, CodecConfig(**how), device=device, batch_size=batch)
    return Side(lambda images: codec.encode(images)[0], codec.decode)


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
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        try:
            with torch.autocast(device, torch.bfloat16, enabled=autocast):
                return step(items)
        except torch.OutOfMemoryError:
            pass
        finally:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.cuda.empty_cache()
        return np.concatenate([run(half) for half in np.array_split(items, 2)])

    return run


def make_sides(model, device, batch):
    sides = {name: ours(model, device, batch, how) for name, how in OURS.items()}
    if device == "cpu":  # it has no TF32, and is eager in any case
        del sides["ours tf32"], sides["ours bfloat16 eager"]
    if diffusers:
        sides[BASELINE] = theirs(model, device, batch, autocast=False)
        sides["diffusers bfloat16"] = theirs(model, device, batch, autocast=True)
    return sides


def measure(step, items, seconds):
    """Returns items/s over at least `seconds`."""
    rounds, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
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


def report(sides, batches, flops, matrix_rate):
    reference = sides["ours float32"]
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
    told = ", ".join(f"{name} {side.warm_up_s:.1f} s" for name, side in sides.items())
    print(f"warm-up: {told}\n", flush=True)


def benchmark(fields, resolution, device, matrix_rate, options):
    torch.manual_seed(0)
    model = VQModel(**fields).eval()
    grid = resolution // model.downsample_factor
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (options.batch, resolution, resolution, 3), np.uint8)
    codes = rng.integers(0, model.config.num_vq_embeddings, (options.batch, grid, grid))
    sides = make_sides(model, device, options.batch)
    for side in sides.values():
        warm_up(side, images, codes)
    # Two batches a call, so that one's copies can overlap with the other's arithmetic.
    batches = {"encode": np.tile(images, (2, 1, 1, 1)), "decode": np.tile(codes, (2, 1, 1))}
    run_rounds(sides, batches, options, device)
    report(sides, batches, count_flops(fields, resolution), matrix_rate)


def main():
    has_cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--resolutions", type=int, nargs="+", default=[256, 512] if has_cuda else [256]
    )
    parser.add_argument("--batch", type=int, default=64 if has_cuda else 1)
    parser.add_argument("--configs", nargs="+", default=["MoVQ", "aMUSEd"], help="by first word")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    device = "cuda" if has_cuda else "cpu"
    name = torch.cuda.get_device_name() if has_cuda else f"cpu, {torch.get_num_threads()} threads"
    matrix_rate = measure_matrix_rate(device)
    print(f"{name}; torch {torch.__version__}; {matrix_rate / 1e12:.2f} TFLOP/s in bfloat16")
    if not diffusers:
        print("diffusers is not installed: its sides are left out")
    chosen = {name: CONFIGS[name] for name in CONFIGS if name.split()[0] in options.configs}
    for config, fields in chosen.items():
        for resolution in options.resolutions:
            print(f"{config}, {resolution} px, batch {options.batch}")
            benchmark(fields, resolution, device, matrix_rate, options)


if __name__ == "__main__":
    main()
