"""SBER-MoVQGAN in plain torch, from its published layout, and its file.

Layout and arithmetic: ai-forever/MoVQGAN, `movqgan/models/vqgan.py` (`MOVQ`),
`movqgan/modules/vqvae/movq_modules.py` and `movqgan/models/ema.py`; the encoder and the look-up
are CompVis'.
"""

import functools

import torch
import torch.nn.functional as F  # noqa: N812 - as everybody does
from torch import nn

from tests.tokenizers.published.colours import GRID, NARROW, WIDE, randomise, set_by_hand
from tests.tokenizers.published.ibq import shake
from tests.vqgan.compvis import VQGAN, norm

PIXEL_RANGE = "signed"
# published: 256, 256 or 128, [1, 2, 2, 4], 2 or 4, [32], and 16384 entries
DDCONFIG = {
    "double_z": False,
    "z_channels": 4,
    "resolution": 32,
    "in_channels": 3,
    "out_ch": 3,
    "attn_resolutions": [8],
    "dropout": 0.0,
}
SIZE, EMBED_DIM = len(GRID), 4


class SpatialNorm(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm_layer = norm(channels)
        self.conv_y, self.conv_b = (nn.Conv2d(EMBED_DIM, channels, 1) for _ in range(2))
        self.zq = None  # of the pass that is under way

    def forward(self, x):
        zq = F.interpolate(self.zq, x.shape[2:])
        return self.norm_layer(x) * self.conv_y(zq) + self.conv_b(zq)


class Net(VQGAN):
    def __init__(self, shape):
        super().__init__(DDCONFIG | shape, EMBED_DIM, SIZE)
        for module in list(self.decoder.modules()):
            for name, part in list(module.named_children()):
                if isinstance(part, nn.GroupNorm):
                    setattr(module, name, SpatialNorm(part.num_channels))

    def encode(self, x):
        return super().encode(x)[1]

    def decode(self, codes):
        vectors = self.quantize.embedding(codes).permute(0, 3, 1, 2)
        for module in self.decoder.modules():
            if isinstance(module, SpatialNorm):
                module.zq = vectors  # before the convolution
        return self.decoder(self.post_quant_conv(vectors))


@functools.cache
def make_random():
    return randomise(Net(NARROW), seed=6)


def latents_of(colours):
    """Of one direction if they differ in brightness alone."""
    shifted = colours + 1.2
    return torch.cat([shifted, 0.5 * shifted.sum(-1, keepdim=True)], -1)


@functools.cache
def make_faithful():
    return set_by_hand(Net(WIDE), 7, latents_of, latents_of(GRID))


def write(folder, net, has_averages=False):
    """ai-forever's; its loader takes no averages, whether they are there or not."""
    folder.mkdir(parents=True, exist_ok=True)
    state = net.state_dict()
    if has_averages:
        for part, module in shake(net).named_children():
            kept = {"decay": torch.tensor(0.9999), "num_updates": torch.tensor(-1, dtype=torch.int)}
            parameters = module.named_parameters()
            kept |= {key.replace(".", ""): tensor.detach() for key, tensor in parameters}
            state |= {f"ema_{part}.{name}": tensor for name, tensor in kept.items()}
    path = folder / "movqgan_270M.ckpt"
    torch.save(state, path)
    return str(path)
