"""Show-o's MAGVIT-v2 in plain torch, from its published layout, and its files.

Layout and arithmetic: showlab/Show-o, `models/modeling_magvitv2.py` (`MAGVITv2`) and
`models/common_modules.py`; its blocks are CompVis'.
"""

import functools
import json

import torch
from safetensors.torch import save_file
from torch import nn

from tests.tokenizers.published import frames
from tests.vqgan import compvis

PIXEL_RANGE = "signed"
# published: 128, [1, 2, 2, 4, 4] with [4, 3, 4, 3, 4], [1, 1, 2, 2, 4] with [4, 4, 3, 4, 3], 13
CH, Z_CHANNELS = 32, 10
ENCODER = {"ch_mult": [1, 2, 3], "counts": [2, 1, 2]}
DECODER = {"ch_mult": [3, 1, 2], "counts": [2, 1, 1]}
COMMON = {"ch": CH, "z_channels": Z_CHANNELS, "in_channels": 3, "out_ch": 3}
COMMON |= {"resolution": 256, "attn_resolutions": [5]}  # published so: no level attends


def drop_blocks(levels, counts):
    for level, count in zip(levels, counts, strict=True):
        level.block = level.block[:count]


class Encoder(compvis.Encoder):
    def __init__(self, ch_mult, counts):
        super().__init__(COMMON | {"ch_mult": ch_mult, "num_res_blocks": max(counts)})
        drop_blocks(self.down, counts)
        self.quant_conv = nn.Conv2d(Z_CHANNELS, Z_CHANNELS, 1)

    def forward(self, x):
        return self.quant_conv(super().forward(x))


class Decoder(compvis.Decoder):
    def __init__(self, ch_mult, counts):
        super().__init__(COMMON | {"ch_mult": ch_mult, "num_res_blocks": max(counts) - 1})
        drop_blocks(self.up, counts)
        self.post_quant_conv = nn.Conv2d(Z_CHANNELS, Z_CHANNELS, 1)

    def forward(self, z):
        return super().forward(self.post_quant_conv(z))


class Signs(nn.Module):
    """The codebook is all vectors of signs; the first sign is the most significant bit."""

    def __init__(self):
        super().__init__()
        powers = 2 ** torch.arange(Z_CHANNELS - 1, -1, -1)
        bits = torch.arange(2**Z_CHANNELS)[:, None] // powers % 2
        self.register_buffer("embedding", bits * 2.0 - 1)
        self.register_buffer("power_vals", powers)

    def forward(self, z):
        return torch.einsum("bchw,c->bhw", (z > 0).long(), self.power_vals)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder, self.quantize = Encoder(**ENCODER), Decoder(**DECODER), Signs()

    def encode(self, x):
        return self.quantize(self.encoder(x))

    def decode(self, codes):
        return self.decoder(self.quantize.embedding[codes].permute(0, 3, 1, 2))


@functools.cache
def make_random():
    return frames.randomise(Net(), seed=13)


@functools.cache
@torch.no_grad()
def make_faithful():
    """Six bits say how bright a colour is, and four how much more red than blue."""
    net = frames.randomise(Net(), seed=14)
    frames.carry_through(net)
    encoder, decoder = net.encoder, net.decoder
    matrix = torch.tensor([[1 / 3, 1 / 3, 1 / 3]] * 6 + [[0.5, 0.0, -0.5]] * 4)
    offset = torch.cat([torch.linspace(0.65, -0.65, 6), torch.linspace(0.35, -0.35, 4)])
    frames.enter(encoder.conv_in, torch.eye(3), torch.zeros(3))
    # quant_conv and post_quant_conv are any rotations; the layers before and after undo them
    for conv in (encoder.quant_conv, decoder.post_quant_conv):
        conv.weight[..., 0, 0] = torch.linalg.qr(conv.weight[..., 0, 0]).Q
    turn, shift = encoder.quant_conv.weight[..., 0, 0].T, encoder.quant_conv.bias
    frames.leave(encoder.norm_out, encoder.conv_out, turn @ matrix, turn @ (offset - shift))

    generator = torch.Generator().manual_seed(15)
    colours = torch.rand(4096, 1, generator=generator) * 2 - 1
    colours = (colours + torch.randn(4096, 3, generator=generator) * 0.3).clamp(-1, 1)
    signs = (colours @ matrix.T + offset).sign()
    steps = decoder.post_quant_conv(signs[..., None, None]).flatten(1)
    steps = torch.cat([steps, torch.ones(len(steps), 1)], 1)
    found = torch.linalg.lstsq(steps, colours, driver="gelsd").solution.T
    frames.enter(decoder.conv_in, found[:, :-1], found[:, -1])
    frames.leave(decoder.norm_out, decoder.conv_out, torch.eye(3), torch.zeros(3))
    return net


def write(folder, net):
    torch.save(net.state_dict(), folder / "pytorch_model.bin")
    return write_config(folder)


def write_safetensors(folder, net):
    save_file(net.state_dict(), folder / "pytorch_model.safetensors", metadata={"format": "pt"})
    return write_config(folder)


def write_config(folder):
    """It says nothing of the network."""
    config = {"_class_name": "MAGVITv2", "_diffusers_version": "0.30.1", "_version": "0.0.1"}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)
