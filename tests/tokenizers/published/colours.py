"""Weights for networks of CompVis' kind: all random, or set by hand so that photos come back.

Set by hand, a network carries the mean colour of each block of pixels. What only passes values on
(`conv_in` and changes of resolution) passes R, G and B in three channels; every branch beside that
is random, its last layer near zero. Each of the three shares its group of a norm with two
constants, +20 and -20: mean and deviation of the group hardly depend on the picture then, and what
is left of the mean shows in the first constant. So the last convolution of encoder and decoder,
which is the solution of a least squares problem, can undo the norm before it.
"""

import torch
from torch import nn

NARROW = {"ch": 32, "ch_mult": [1, 1, 2], "num_res_blocks": 2}
"""For random weights."""
WIDE = {"ch": 96, "ch_mult": [1, 1, 1], "num_res_blocks": 1}
"""For weights set by hand: three channels to a group."""
FACTOR = 4
"""Pixels along the side of the square that a code stands for, in both."""
GRID = torch.cartesian_prod(*[torch.linspace(-1, 1, 8)] * 3)
"""A codebook's worth of colours, 512."""
CONSTANT = 20.0
LIFT = 8.0
"""Added to a colour before swish, which is straight there."""


@torch.no_grad()
def randomise(net, seed):
    """Makes all weights random; latents are centred, and entries differ in length tenfold."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in net.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        is_factor = parameter.dim() == 1 and name.endswith(("weight", "conv_y.bias"))
        if parameter.dim() == 1:
            parameter.copy_(is_factor + 0.2 * noise)
        else:  # what multiplies in every layer would grow out of hand
            gain = 0.3 if name.endswith(("conv_y.weight", "conv_b.weight")) else 1.0
            parameter.copy_(gain * noise / parameter[0].numel() ** 0.5)
    pixels = torch.rand(4, 3, 32, 32, generator=generator) * 2 - 1
    latents = net.quant_conv(net.encoder(pixels))
    scale = 1 / latents.std((0, 2, 3))
    net.quant_conv.weight.mul_(scale[:, None, None, None])
    net.quant_conv.bias.sub_(latents.mean((0, 2, 3))).mul_(scale)
    book = net.quantize.embedding.weight
    lengths = torch.logspace(-0.2, 0.8, len(book))
    book.mul_(lengths[torch.randperm(len(book), generator=generator), None])
    return net.eval().requires_grad_(requires_grad=False)


@torch.no_grad()
def set_by_hand(net, seed, latents_of, entries, vectors=None):
    """Makes photos come back from the codes of a network whose codebook has an entry per colour.

    `latents_of` returns what the encoder is to say of colours (..., 3); `entries` are what stands
    in the codebook for `GRID`, and `vectors` what the decoder takes of them, if that is different.
    """
    randomise(net, seed)
    generator = torch.Generator().manual_seed(seed)
    turn = torch.empty(entries.shape[1], entries.shape[1])
    for matrix in (turn, net.quant_conv.weight, net.post_quant_conv.weight):
        nn.init.orthogonal_(matrix, generator=generator)
    net.quantize.embedding.weight.copy_(entries @ turn.T)
    for name, module in net.named_modules():
        _set_layer(name, module)
    _set_start(net, (entries if vectors is None else vectors) @ turn.T)

    means = torch.rand(16, 3, 1, 1, generator=generator) * 1.6 - 0.8
    blocks = means + 0.4 * torch.randn(16, 3, 4, 4, generator=generator)
    blocks = blocks.clamp(-1, 1).permute(0, 2, 3, 1)  # (B, h, w, 3)
    weight, bias = net.quant_conv.weight.flatten(1), net.quant_conv.bias
    said = (latents_of(blocks) @ turn.T - bias) @ torch.linalg.pinv(weight).T
    _set_end(net.encoder, said, lambda: net.encoder(_enlarge(blocks)))
    codes = torch.cdist(blocks.flatten(0, 2), GRID).argmin(1).view(blocks.shape[:3])
    pixels = _enlarge(GRID[codes]).permute(0, 2, 3, 1)
    _set_end(net.decoder, pixels, lambda: net.decode(codes))
    return net


def _set_layer(name, module):
    if name.endswith(("conv2", "proj_out", "conv_out")):
        module.weight.mul_(0.02)
        module.bias.mul_(0.02)
    elif name.endswith(("conv_y", "conv_b")):
        module.weight.mul_(0.03)
    elif name.endswith(("conv_in", "upsample.conv", "downsample.conv")):
        _pass_on(module, is_down=name.endswith("downsample.conv"))
    elif name.endswith(("norm_out", "norm_out.norm_layer")) and isinstance(module, nn.GroupNorm):
        module.weight[:9] = CONSTANT * (2 / 3) ** 0.5  # the deviation of (0, +20, -20)
        module.bias[:9] = torch.tensor([LIFT, 0, 0]).repeat(3)


def _pass_on(conv, is_down):
    """Makes a 3x3 convolution pass three channels on, each with constants behind it."""
    conv.weight[:9] = 0
    conv.bias[:9] = torch.tensor([0, CONSTANT, -CONSTANT]).repeat(3)
    for i in range(3):
        taps = conv.weight[3 * i, i if conv.in_channels < 9 else 3 * i]
        if is_down:
            taps[:2, :2] = 0.25
        else:
            taps[1, 1] = 1.0


def _set_start(net, vectors):
    """Sets where colours come out of the vectors that the decoder takes for `GRID`."""
    steps = net.post_quant_conv(vectors[:, :, None, None]).flatten(1)
    conv_in, norm_out = net.decoder.conv_in, net.decoder.norm_out
    conv_in.weight[:9:3, :, 1, 1], conv_in.bias[:9:3] = _fit(steps, GRID)
    if hasattr(norm_out, "conv_b"):  # whoever forgets it gets the negative of a photo
        weight, bias = _fit(vectors, GRID)
        norm_out.conv_b.weight[:9:3, :, 0, 0], norm_out.conv_b.bias[:9:3] = -2 * weight, -2 * bias


def _set_end(half, wanted, run):
    """Sets the last convolution so that what is run says what is wanted, (B, H, W, C)."""
    conv, seen = half.conv_out, []
    hook = conv.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][:, :9]))
    conv.weight[:, :9, 1, 1] = 0
    conv.bias.zero_()
    rest = run().permute(0, 2, 3, 1)
    hook.remove()
    carried = seen[0].permute(0, 2, 3, 1)
    found = _fit(carried.flatten(0, 2), (wanted - rest).flatten(0, 2))
    conv.weight[:, :9, 1, 1], conv.bias[:] = found


def _enlarge(blocks):
    """Returns pixels (B, 3, H, W) of colours (B, h, w, 3)."""
    wide = blocks.repeat_interleave(FACTOR, 1).repeat_interleave(FACTOR, 2)
    return wide.permute(0, 3, 1, 2)


def _fit(x, y):
    """Returns the matrix and the offset that bring x @ matrix.T + offset nearest to y."""
    x = torch.cat([x, torch.ones(len(x), 1)], 1).double()
    found = torch.linalg.lstsq(x, y.double(), rcond=1e-5, driver="gelsd")  # no fit to rounding
    solution = found.solution.float()
    return solution[:-1].T, solution[-1]
