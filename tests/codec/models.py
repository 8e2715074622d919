"""Models by what their pixels were trained to be."""

from pathlib import Path

import numpy as np
import torch

from tests.vqgan.configs import CONFIGS
from vqpipe.vqgan import VQModel

DEMO = Path(__file__).parents[2] / "infra" / "demo" / "checkpoint"
"""Trained on pixels in [-1, 1]."""


@torch.no_grad()
def make_unit():
    """The demo model for pixels in [0, 1]: the step to and from [-1, 1] is part of its weights."""
    model = VQModel.from_pretrained(DEMO)
    first, last = model.encoder.conv_in, model.decoder.conv_out
    first.bias -= first.weight.sum((1, 2, 3))
    first.weight *= 2
    last.weight /= 2
    last.bias.add_(1).div_(2)
    return model


def make_untrained():
    """A model that has learnt nothing, so that nothing shows what its pixels are to be."""
    torch.manual_seed(0)
    return VQModel(**CONFIGS["other_groups"])


@torch.no_grad()
def write_tiny(folder, photos):
    """Writes a model that takes a millisecond for an image, and tells images apart by each pixel.

    Its weights are random; its codebook is of latents of photos, so that codes are many.

    Args:
        folder: Where to write it, in diffusers' layout.
        photos: Pillow images.
    """
    torch.manual_seed(0)
    levels = {"block_out_channels": (16, 16, 16), "norm_num_groups": 4, "layers_per_block": 1}
    blocks = {
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
    }
    model = VQModel(**levels, **blocks, num_vq_embeddings=256, mid_block_add_attention=False)
    pixels = [torch.from_numpy(np.asarray(photo.resize((64, 64))).copy()) for photo in photos]
    batch = torch.stack(pixels).permute(0, 3, 1, 2) / 127.5 - 1
    vectors = model.encode(batch).latents.permute(0, 2, 3, 1).flatten(0, 2)
    picked = torch.randperm(len(vectors))[:256]
    model.quantize.embedding.weight.copy_(vectors[picked])
    model.save_pretrained(folder)
    return folder
