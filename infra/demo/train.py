"""Trains the demo checkpoint on a CPU: a small VQ model of the photos in `photos.py`.

    python -m infra.demo.train --steps 5000 --out infra/demo/checkpoint

The model first learns as a plain autoencoder. Then k-means of its latents becomes the codebook,
which from there on follows the latents as a moving average (https://arxiv.org/abs/1711.00937,
appendix A.1), and entries that latents stop choosing are put where latents are.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from infra.demo.photos import HELD_OUT, TRAIN, crop_square, open_photo
from vqpipe.vqgan import VQConfig, VQModel
from vqpipe.vqgan.nearest import find_nearest

CONFIG = VQConfig(
    block_out_channels=(32, 48, 56),
    down_block_types=("DownEncoderBlock2D",) * 3,
    up_block_types=("UpDecoderBlock2D",) * 3,
    latent_channels=8,
    norm_num_groups=8,
    num_vq_embeddings=1024,
    sample_size=256,
    mid_block_add_attention=False,
)
CROP_PX = 64
BATCH = 8
PEAK_LR = 2e-3
COMMITMENT = 0.25
CODEBOOK_DECAY = 0.98
RESTART_EVERY = 50
DEAD_COUNT = 0.02
"""An entry is dead when this is its moving average of uses a step, out of 2,048 latents."""


class MovingCodebook:
    """Sets a model's codebook to the moving average of the latents that chose each entry."""

    def __init__(self, model: VQModel, latents: Tensor) -> None:
        """Start from k-means of latents (N, C), N >= codebook size."""
        self.weight = model.quantize.embedding.weight.requires_grad_(requires_grad=False)
        self.weight.copy_(cluster(latents, len(self.weight)))
        self.counts = torch.ones(len(self.weight))  # (K,)
        self.sums = self.weight.clone()  # (K, C)

    @torch.no_grad()
    def update(self, latents: Tensor, codes: Tensor) -> None:
        """Take in the latents (N, C) of one step and the codes (N,) they chose."""
        counts = torch.bincount(codes, minlength=len(self.weight)).float()
        sums = torch.zeros_like(self.sums).index_add_(0, codes, latents)
        self.counts.lerp_(counts, 1 - CODEBOOK_DECAY)
        self.sums.lerp_(sums, 1 - CODEBOOK_DECAY)
        self.weight.copy_(self.sums / self.counts.clamp_min(1e-6)[:, None])

    @torch.no_grad()
    def restart(self, latents: Tensor) -> int:
        """Put dead entries on random latents (N, C); return how many there were."""
        dead = (self.counts < DEAD_COUNT).nonzero().flatten()
        chosen = latents[torch.randint(len(latents), (len(dead),))]
        self.counts[dead] = 1.0
        self.sums[dead] = chosen
        self.weight[dead] = chosen
        return len(dead)


@torch.no_grad()
def cluster(latents: Tensor, count: int, rounds: int = 20) -> Tensor:
    """Return k-means centres (count, C) of latents (N, C); empty clusters restart on a latent."""
    centres = latents[torch.randperm(len(latents))[:count]].clone()
    for _ in range(rounds):
        nearest = find_nearest(latents, centres)
        counts = torch.bincount(nearest, minlength=count)
        sums = torch.zeros_like(centres).index_add_(0, nearest, latents)
        centres = sums / counts.clamp_min(1)[:, None]
        empty = counts == 0
        centres[empty] = latents[torch.randint(len(latents), (int(empty.sum()),))]
    return centres


def draw_crop(photo: Image.Image, rng: np.random.Generator) -> np.ndarray:
    """Return one augmented crop, uint8 (64, 64, 3): random scale, place, flip and quarter turn.

    The scale is 0.5 to 1.5 times that of the photo with a short side of 256 px.
    """
    width, height = photo.size
    short = min(width, height)
    side = min(short, max(48, CROP_PX * short / 256 * 2 ** rng.uniform(-0.6, 1.0)))
    left, top = rng.uniform(0, width - side), rng.uniform(0, height - side)
    box = (left, top, left + side, top + side)
    pixels = np.asarray(photo.resize((CROP_PX, CROP_PX), Image.Resampling.BICUBIC, box=box))
    pixels = np.rot90(pixels, rng.integers(4))
    return pixels[:, ::-1] if rng.random() < 0.5 else pixels


def jitter_colours(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Return pixels (3, H, W) in [-1, 1] with other channels, saturation, contrast, brightness."""
    if rng.random() < 0.5:
        pixels = pixels[torch.from_numpy(rng.permutation(3))]
    grey = pixels.mean(dim=0, keepdim=True)
    pixels = grey + (pixels - grey) * rng.uniform(0.3, 1.4)
    gain, bias = rng.uniform(0.7, 1.2, (3, 1, 1)), rng.uniform(-0.25, 0.25)
    return (pixels * torch.from_numpy(gain).float() + bias).clamp(-1, 1)


def draw_batch(photos: list[Image.Image], rng: np.random.Generator) -> Tensor:
    """Return augmented crops (B, 3, 64, 64), float32 in [-1, 1]."""
    crops = [draw_crop(photos[rng.integers(len(photos))], rng) for _ in range(BATCH)]
    batch = torch.stack([jitter_colours(to_pixels(crop), rng) for crop in crops])
    return batch.contiguous(memory_format=torch.channels_last)


def to_pixels(image: np.ndarray) -> Tensor:
    """Return (3, H, W) float32 in [-1, 1] of an uint8 (H, W, 3) image."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 127.5 - 1


@torch.no_grad()
def measure(model: VQModel) -> tuple[dict[str, float], int]:
    """Return the PSNR in dB of each held-out photo, and how many codes they use between them."""
    psnr, used = {}, set()
    for name in HELD_OUT:
        image = np.asarray(crop_square(open_photo(name)))
        codes = model.encode_to_codes(to_pixels(image)[None])  # (1, 64, 64)
        decoded = model.decode_codes(codes)[0].permute(1, 2, 0)  # (256, 256, 3)
        rounded = ((decoded + 1) * 127.5).round().clamp(0, 255).numpy()
        psnr[name] = 10 * math.log10(255**2 / np.mean((rounded - image.astype(np.float64)) ** 2))
        used |= set(codes.flatten().tolist())
    return psnr, len(used)


def learning_rate(step: int, steps: int) -> float:
    """Return the rate of one step: up over 100 steps, then down to zero along a cosine."""
    return PEAK_LR * min(1, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / steps))


def flatten(latents: Tensor) -> Tensor:
    """Return (B * h * w, C) float32, detached, of latents (B, C, h, w)."""
    return latents.detach().float().permute(0, 2, 3, 1).reshape(-1, latents.shape[1])


def reconstruct(
    model: VQModel, pixels: Tensor, codebook: MovingCodebook | None
) -> tuple[Tensor, Tensor]:
    """Return the loss of one batch and its latents (N, C); quantize only if there is a codebook."""
    with torch.autocast("cpu", torch.bfloat16):
        latents = model.encode(pixels).latents
        quantized, commitment = latents, torch.zeros(())
        if codebook is not None:
            quantized, commitment, (_, _, codes) = model.quantize(latents.float())
        decoded = model.decode(quantized, force_not_quantize=True).sample.float()
    if codebook is not None:
        codebook.update(flatten(latents), codes)
    error = decoded - pixels
    return error.abs().mean() + error.square().mean() + COMMITMENT * commitment, flatten(latents)


@torch.no_grad()
def collect_latents(model: VQModel, photos: list[Image.Image], rng: np.random.Generator) -> Tensor:
    """Return the latents (N, C) of 16 batches of crops."""
    return torch.cat([flatten(model.encode(draw_batch(photos, rng)).latents) for _ in range(16)])


def train(steps: int, warmup: int, out: Path, seed: int) -> None:
    """Train and write the checkpoint, every 500 steps and at the end."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    photos = [open_photo(name) for name in TRAIN]
    model = VQModel.from_config(CONFIG).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, weight_decay=1e-4)
    codebook, started = None, time.monotonic()
    for step in range(steps):
        if step == warmup:
            codebook = MovingCodebook(model, collect_latents(model, photos, rng))
        optimizer.param_groups[0]["lr"] = learning_rate(step, steps)
        loss, latents = reconstruct(model, draw_batch(photos, rng), codebook)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if codebook is not None and step % RESTART_EVERY == 0 and step < 0.8 * steps:
            codebook.restart(latents)
        if codebook is not None and ((step + 1) % 500 == 0 or step + 1 == steps):
            model.save_pretrained(out)
            report(model, step + 1, float(loss.detach()), time.monotonic() - started)


def report(model: VQModel, step: int, loss: float, elapsed_s: float) -> None:
    """Print one line of progress."""
    psnr, used = measure(model)
    each = ", ".join(f"{name} {value:.2f}" for name, value in psnr.items())
    mean = sum(psnr.values()) / len(psnr)
    print(
        f"step {step}, {elapsed_s:.0f} s: loss {loss:.4f}, held-out PSNR {mean:.2f} dB ({each}), "
        f"{used} of {model.config.num_vq_embeddings} codes used",
        flush=True,
    )


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--warmup", type=int, default=400, help="steps before there is a codebook")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train(args.steps, args.warmup, args.out, args.seed)


if __name__ == "__main__":
    main()
