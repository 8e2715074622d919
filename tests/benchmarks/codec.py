"""Images per second of the codec, beside diffusers as research scripts use it, in one run.

    python -m tests.benchmarks.codec [--resolution 256] [--batch 64] [--seconds 10]

Weights are random and seeded: speed does not depend on them. Every round measures all sides one
after the other, and the ratio is taken within the round, since machines are shared and noisy.
Sides that need diffusers are left out, with a line that says so, where it is missing.
"""

import argparse
import contextlib
import statistics
import time

import numpy as np
import torch

from pipeline.codec import Codec, CodecConfig
from pipeline.vqgan import VQModel
from pipeline.vqgan.checkpoint import write_checkpoint
from pipeline.weights import Weights

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


def ours(model, device, dtype, batch):
    """Encodes uint8 images on the host to codes on the host."""
    weights = Weights(write_checkpoint(model), "benchmark")
    codec = Codec(weights, CodecConfig(dtype=dtype), device=device, batch_size=batch)
    return lambda images: codec.encode(images)[0]


def theirs(model, device, autocast):
    """The loop of research scripts: normalise on the host, eager, TF32 on, argmin of cdist."""
    network = diffusers.VQModel.from_config(dict(vars(model.config)))
    network.load_state_dict(model.state_dict())
    network.eval().to(device)

    @torch.inference_mode()
    def encode(images):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
        context = torch.autocast(device, torch.bfloat16) if autocast else contextlib.nullcontext()
        with context:
            latents = network.encode(pixels.to(device)).latents
            codes = network.quantize(latents)[2][2]
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        return codes.view(len(images), *latents.shape[2:]).cpu().numpy()

    return encode


def measure(encode, images, seconds):
    """Returns images/s over at least `seconds`, warm-up left out."""
    encode(images)
    rounds, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        encode(images)
        rounds += 1
    return rounds * len(images) / (time.perf_counter() - started)


def sides(model, device, batch):
    yield "ours float32", ours(model, device, "float32", batch)
    yield "ours bfloat16", ours(model, device, "bfloat16", batch)
    if diffusers:
        yield "diffusers float32", theirs(model, device, autocast=False)
        yield "diffusers bfloat16", theirs(model, device, autocast=True)


def main():
    has_cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--batch", type=int, default=64 if has_cuda else 2)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    device = "cuda" if has_cuda else "cpu"
    name = torch.cuda.get_device_name() if has_cuda else f"cpu, {torch.get_num_threads()} threads"
    print(f"{name}; torch {torch.__version__}; {options.resolution} px, batch {options.batch}")
    if not diffusers:
        print("diffusers is not installed: its sides are left out")
    shape = (options.batch, options.resolution, options.resolution, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    for config, fields in CONFIGS.items():
        torch.manual_seed(0)
        benchmark(config, VQModel(**fields).eval(), device, images, options)


def benchmark(config, model, device, images, options):
    encoders = dict(sides(model, device, len(images)))
    reference = encoders["ours float32"](images)
    rates = {name: [] for name in encoders}
    for _ in range(options.rounds):
        for name, encode in encoders.items():
            rates[name].append(measure(encode, images, options.seconds))
    baseline = rates.get("diffusers float32")
    for name, found in rates.items():
        peak = peak_bytes(encoders[name], images) if device == "cuda" else 0
        flips = float(np.mean(encoders[name](images) != reference))
        ratio = (
            statistics.median(a / b for a, b in zip(found, baseline, strict=True))
            if baseline
            else 0
        )
        print(
            f"{config:20} {name:20} {statistics.median(found):9.2f} images/s"
            + (f"  {ratio:5.2f} x diffusers float32" if baseline else "")
            + (f"  {peak / 2**30:5.1f} GiB" if peak else "")
            + f"  {flips:.3%} of codes differ from ours float32"
        )


def peak_bytes(encode, images):
    torch.cuda.reset_peak_memory_stats()
    encode(images)
    return torch.cuda.max_memory_allocated()


if __name__ == "__main__":
    main()
