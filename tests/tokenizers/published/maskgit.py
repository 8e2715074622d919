"""MaskGIT's VQGAN in plain torch, from its published layout, and its file.

Layout and arithmetic: bytedance/1d-tokenizer, `modeling/modules/maskgit_vqgan.py`, which is
openMUSE's `muse/modeling_maskgit_vqgan.py`.
"""

import functools

import torch
import torch.nn.functional as F  # noqa: N812 - as everybody does
from torch import nn

from tests.tokenizers.published import frames
from tests.vqgan.compvis import Quantize, norm, swish

PIXEL_RANGE = "unit"
# published: 128, [1, 1, 2, 2, 4], 2, 256 and 1024
CH, CH_MULT, NUM_RES_BLOCKS, Z_CHANNELS, SIZE = 32, [1, 1, 2], 2, 6, 512


def conv3(a, b, bias=False):
    return nn.Conv2d(a, b, 3, padding=1, bias=bias)


class Block(nn.Module):
    def __init__(self, a, b):
        super().__init__()
        self.norm1, self.conv1 = norm(a), conv3(a, b)
        self.norm2, self.conv2 = norm(b), conv3(b, b)
        if a != b:
            self.nin_shortcut = nn.Conv2d(b, b, 1, bias=False)

    def forward(self, x):
        h = self.conv2(swish(self.norm2(self.conv1(swish(self.norm1(x))))))
        return h + (self.nin_shortcut(h) if hasattr(self, "nin_shortcut") else x)  # of h indeed


def make_blocks(a, b, count):
    return nn.Sequential(*(Block(b if i else a, b) for i in range(count)))


class Encoder(nn.Module):
    def __init__(self, ch, ch_mult, num_res_blocks, z_channels):
        super().__init__()
        widths = [ch * m for m in ch_mult]
        self.conv_in = conv3(3, ch)
        self.down = nn.ModuleList(nn.Module() for _ in widths)
        for level, before, width in zip(self.down, [ch, *widths], widths, strict=False):
            level.block = make_blocks(before, width, num_res_blocks)
        self.mid = make_blocks(widths[-1], widths[-1], num_res_blocks)
        self.norm_out = norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], z_channels, 1)

    def forward(self, x):
        x = self.conv_in(x)
        for i, level in enumerate(self.down):
            x = level.block(F.avg_pool2d(x, 2) if i else x)
        return self.conv_out(swish(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    def __init__(self, ch, ch_mult, num_res_blocks, z_channels):
        super().__init__()
        widths = [ch * m for m in ch_mult]
        self.conv_in = conv3(z_channels, widths[-1], bias=True)
        self.mid = make_blocks(widths[-1], widths[-1], num_res_blocks)
        self.up = nn.ModuleList(nn.Module() for _ in widths)
        befores = [*widths[1:], widths[-1]]
        for i, (level, before, width) in enumerate(zip(self.up, befores, widths, strict=True)):
            level.block = make_blocks(before, width, num_res_blocks)
            if i:
                level.upsample_conv = conv3(width, width, bias=True)
        self.norm_out = norm(widths[0])
        self.conv_out = conv3(widths[0], 3, bias=True)

    def forward(self, x):
        x = self.mid(self.conv_in(x))
        for level in reversed(self.up):
            x = level.block(x)
            if hasattr(level, "upsample_conv"):
                x = level.upsample_conv(F.interpolate(x, None, 2.0))
        return self.conv_out(swish(self.norm_out(x)))


class Net(nn.Module):
    def __init__(self, ch=CH):
        super().__init__()
        self.encoder = Encoder(ch, CH_MULT, NUM_RES_BLOCKS, Z_CHANNELS)
        self.decoder = Decoder(ch, CH_MULT, NUM_RES_BLOCKS, Z_CHANNELS)
        self.quantize = Quantize(SIZE, Z_CHANNELS)

    def encode(self, x):
        return self.quantize(self.encoder(x))

    def decode(self, codes):
        return self.decoder(self.quantize.embedding(codes).permute(0, 3, 1, 2))


@functools.cache
def make_random():
    return frames.randomise(Net(), seed=11)


def carry_changes(net):
    """Makes blocks between widths hand frames on, in halves: they have no way past themselves."""
    for module in net.modules():
        if hasattr(module, "nin_shortcut"):
            frames.pass_norm(module.norm1, frames.LIFT_ALL)
            frames.carry(module.conv1)
            frames.pass_norm(module.norm2, frames.LIFT_ALL)
            frames.carry(module.conv2, 0.5)


@functools.cache
@torch.no_grad()
def make_faithful():
    """A codebook of 8 x 8 x 8 colours; wider than the random one, as frames need it."""
    net = frames.randomise(Net(frames.CH), seed=12)
    frames.carry_through(net)
    carry_changes(net)
    encoder, decoder = net.encoder, net.decoder
    rgb = torch.eye(Z_CHANNELS)[:, :3]
    frames.enter(encoder.conv_in, rgb[:3], torch.zeros(3))
    first = encoder.down[0].block[0]  # brings in the constants: no convolution before has a bias
    first.norm2.weight[-1], first.norm2.bias[-1] = 0, frames.K
    first.conv2.weight[:, -1] = 0
    for at in frames.starts(frames.CH):
        first.conv2.weight[at : at + 3, -1, 1, 1] = torch.tensor([0.0, 1.0, -1.0])
    frames.leave(encoder.norm_out, encoder.conv_out, rgb, torch.zeros(Z_CHANNELS))
    steps = torch.arange(0.5, 8) / 8
    net.quantize.embedding.weight.mul_(0.03)[:, :3] = torch.cartesian_prod(steps, steps, steps)
    frames.enter(decoder.conv_in, rgb.T, torch.zeros(3))
    frames.leave(decoder.norm_out, decoder.conv_out, torch.eye(3), torch.zeros(3))
    return net


def write(folder, net):
    path = folder / "maskgit-vqgan-imagenet-f16-256.bin"
    torch.save(net.state_dict(), path)
    return str(path)
