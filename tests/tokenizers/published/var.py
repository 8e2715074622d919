"""VAR's multi-scale VQVAE in plain torch, from its published layout, and its file.

Layout and arithmetic: FoundationVision/VAR, `models/vqvae.py`, `models/quant.py`
(`VectorQuantizer2`) and `models/basic_vae.py`; its blocks are CompVis', but for the attention.
"""

import functools

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - as everybody does
from torch import nn

from tests.tokenizers.published import frames
from tests.vqgan import compvis

PIXEL_RANGE = "signed"
PATCH_NUMS = {
    256: (1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
    512: (1, 2, 3, 4, 6, 9, 13, 18, 24, 32),
}
"""Codes along a side, scale by scale, by the side of the image."""
# published: 160, 2, 32 and 4096
CH, NUM_RES_BLOCKS, Z_CHANNELS, SIZE = 32, 1, 8, 384
COMMON = {"ch_mult": [1, 1, 2, 2, 4], "num_res_blocks": NUM_RES_BLOCKS, "z_channels": Z_CHANNELS}
COMMON |= {"in_channels": 3, "out_ch": 3, "resolution": 256, "attn_resolutions": [16]}


class Attn(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.norm, self.qkv = compvis.norm(c), nn.Conv2d(c, 3 * c, 1)
        self.proj_out = nn.Conv2d(c, c, 1)

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).flatten(2).chunk(3, 1)  # (B, C, H*W)
        weights = torch.softmax(q.mT @ k / x.shape[1] ** 0.5, 2)
        return x + self.proj_out((v @ weights.mT).view(x.shape))


class Phi(nn.Conv2d):
    """Half a convolution, half none."""

    def forward(self, x):
        return 0.5 * x + 0.5 * super().forward(x)


class Phis(nn.Module):
    def __init__(self):
        super().__init__()
        self.qresi_ls = nn.ModuleList(Phi(Z_CHANNELS, Z_CHANNELS, 3, padding=1) for _ in range(4))

    def of(self, scale, scales):
        """Which is nearest; of two that are as near, rounding decides, as it does in numpy."""
        ticks = np.linspace(1 / 3 / 4, 1 - 1 / 3 / 4, 4)
        return self.qresi_ls[np.abs(ticks - scale / (scales - 1)).argmin()]


class Quantize(compvis.Quantize):
    def __init__(self, scales):
        super().__init__(SIZE, Z_CHANNELS)
        self.quant_resi = Phis()
        self.register_buffer("ema_vocab_hit_SV", torch.zeros(scales, SIZE))

    def spread(self, codes, scale, patch_nums):
        """What the codes (B, n, n) of a scale add to the latents."""
        vectors = self.embedding(codes).permute(0, 3, 1, 2)
        if scale < len(patch_nums) - 1:
            vectors = F.interpolate(vectors, (patch_nums[-1],) * 2, mode="bicubic")
        return self.quant_resi.of(scale, len(patch_nums))(vectors)

    def encode(self, latents, patch_nums):
        rest, found = latents, []
        for scale, side in enumerate(patch_nums):
            codes = self(F.interpolate(rest, (side, side), mode="area"))
            rest = rest - self.spread(codes, scale, patch_nums)
            found.append(codes.flatten(1))
        return torch.cat(found, 1)

    def decode(self, codes, patch_nums):
        scales = codes.split([n * n for n in patch_nums], 1)
        grids = [c.unflatten(1, (n, n)) for c, n in zip(scales, patch_nums, strict=True)]
        return sum(self.spread(grid, i, patch_nums) for i, grid in enumerate(grids))


class Net(nn.Module):
    def __init__(self, ch=CH, side=256):
        super().__init__()
        self.encoder = compvis.Encoder(COMMON | {"ch": ch})
        self.decoder = compvis.Decoder(COMMON | {"ch": ch})
        for module in list(self.modules()):
            for name, part in list(module.named_children()):
                if isinstance(part, compvis.Attn):
                    setattr(module, name, Attn(part.norm.num_channels))
        self.patch_nums = PATCH_NUMS[side]
        self.quantize = Quantize(len(self.patch_nums))
        self.quant_conv = nn.Conv2d(Z_CHANNELS, Z_CHANNELS, 3, padding=1)
        self.post_quant_conv = nn.Conv2d(Z_CHANNELS, Z_CHANNELS, 3, padding=1)

    def encode(self, x):
        """The codes of all scales one after the other, (B, n)."""
        return self.quantize.encode(self.quant_conv(self.encoder(x)), self.patch_nums)

    def decode(self, codes):
        return self.decoder(self.post_quant_conv(self.quantize.decode(codes, self.patch_nums)))


@functools.cache
def make_random(side=256):
    net = frames.randomise(Net(side=side), seed=16)
    net.quantize.ema_vocab_hit_SV += torch.arange(float(SIZE))
    return net


@functools.cache
@torch.no_grad()
def make_faithful(side=256):
    """Every scale corrects the colours that those before it give, by large and by small steps."""
    net = frames.randomise(Net(2 * CH, side), seed=17)
    frames.carry_through(net)
    encoder, decoder = net.encoder, net.decoder
    rgb = torch.eye(Z_CHANNELS)[:, :3]
    frames.enter(encoder.conv_in, torch.eye(3), torch.zeros(3))
    frames.leave(encoder.norm_out, encoder.conv_out, rgb, torch.zeros(Z_CHANNELS))
    for conv in (net.quant_conv, net.post_quant_conv, *net.quantize.quant_resi.qresi_ls):
        conv.weight.mul_(0.03)[..., 1, 1] += torch.eye(Z_CHANNELS)
        conv.bias.mul_(0.03)
    book = net.quantize.embedding.weight
    book /= book[:, :3].norm(dim=1, keepdim=True) / torch.logspace(-2, 0.2, SIZE)[:, None]
    book[:, 3:] *= 0.03
    frames.enter(decoder.conv_in, rgb.T, torch.zeros(3))
    leave_in_pairs(decoder, side)
    return net


def leave_in_pairs(decoder, side):
    """Lets colours out of a norm with two channels to a group, one too few for frames.

    They travel as (c, r - c), where r is large at the image's edge, which zeros around it give
    away, and 0 elsewhere: as in a frame, mean and variance hardly depend on the colour.
    """
    conv, norm, last = decoder.up[1].upsample.conv, decoder.norm_out, decoder.conv_out
    edge = -torch.ones(3, 3)
    edge[1, 1] = 8
    conv.weight[:6], conv.bias[:6] = 0, 0
    for i, at in enumerate(frames.starts(conv.in_channels)):
        conv.weight[2 * i, at, 1, 1] = 1
        conv.weight[2 * i + 1, at, 1, 1] = -1
        conv.weight[2 * i + 1, at + 1] += 8 * edge  # of K - c / 2
        conv.weight[2 * i + 1, at + 2] -= 8 * edge  # of -K - c / 2
    ring = 16 * frames.K * F.conv2d(torch.ones(1, 1, side, side), edge[None, None], padding=1)
    norm.weight[:6] = (ring.square().mean() / 2 - ring.mean().square() / 4).sqrt()
    norm.bias[:6] = frames.LIFT + ring.mean() / 2
    last.weight.mul_(0.01)[:, :6] = 0
    for i in range(3):
        last.weight[i, 2 * i, 1, 1] = 1 / frames.GAIN
    last.bias[:] = -frames.LIFT / frames.GAIN


def write(folder, net):
    path = folder / "vae_ch160v4096z32.pth"
    torch.save(net.state_dict(), path)
    return str(path)
