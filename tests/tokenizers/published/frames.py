"""Weights for networks that are not quite of CompVis' kind: all random, or set by hand.

Set by hand, a network gives back the colours it is shown. A group norm takes away the mean and the
variance of its group, so a colour c travels as a frame, (c, K - c / 2, -K - c / 2) in three
channels of one group: their mean is 0, and their variance is K's. After a norm so much is added
that swish, which is straight up there, changes nothing. What is beside the frames is random.
"""

from importlib.resources import files

import numpy as np
import torch
from PIL import Image
from torch import nn

PHOTOS = ("coffee", "astronaut", "rocket", "chelsea")
CH = 96
"""The least width of a norm that frames go through: three channels to a group."""
GAIN, K = 32.0, 160.0
SHAPE, CONSTANTS = torch.tensor([1.0, -0.5, -0.5]), torch.tensor([0.0, K, -K])
CENTRED = torch.eye(3) - 1 / 3
"""Changes nothing in a frame, and takes away what was added to all of it."""
LIFT, LIFT_ALL = GAIN + 8, GAIN + 8 + K
"""What swish needs to leave a frame's first channel alone, and all three of them."""


@torch.no_grad()
def randomise(net, seed):
    """Makes everything random; returns the network, ready to run."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in net.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.2
        parameter.copy_(scale * noise)
    for module in net.modules():
        if isinstance(module, nn.GroupNorm | nn.LayerNorm):
            module.weight.add_(1)
    return net.eval()


def load_photos(side, pixel_range):
    """Returns the doctor's photos (4, 3, side, side)."""
    folder = files("vqpipe.codec") / "probes"
    photos = [Image.open(folder / f"{name}.jpg").resize((side, side)) for name in PHOTOS]
    pixels = torch.from_numpy(np.stack([np.asarray(photo) for photo in photos])).movedim(3, 1)
    return pixels / 127.5 - 1 if pixel_range == "signed" else pixels / 255


def starts(width):
    """Returns where the frames of R, G and B begin; each has a group where there is room for it."""
    return [max(width // 32, 3) * i for i in range(3)]


def carry(conv, gain=1.0):
    """Makes a convolution hand frames on, or the means of 2 x 2 of them if it has a stride."""
    side = conv.kernel_size[0]
    taps = torch.zeros(side, side)
    taps[(slice(2), slice(2)) if conv.stride == (2, 2) else (side // 2, side // 2)] = 1
    for to, at in zip(starts(conv.out_channels), starts(conv.in_channels), strict=True):
        conv.weight[to : to + 3] = 0
        conv.weight[:, at : at + 3] = 0
        frame = CENTRED[:, :, None, None] * taps / taps.sum()
        conv.weight[to : to + 3, at : at + 3] = gain * frame
        if conv.bias is not None:
            conv.bias[to : to + 3] = 0


def enter(conv, matrix, offset):
    """Makes a convolution begin frames, of the colours `matrix @ x + offset`."""
    middle = conv.kernel_size[0] // 2
    for i, to in enumerate(starts(conv.out_channels)):
        conv.weight[to : to + 3] = 0
        conv.weight[to : to + 3, :, middle, middle] = GAIN * SHAPE[:, None] * matrix[i]
        if conv.bias is not None:
            conv.bias[to : to + 3] = GAIN * SHAPE * offset[i] + CONSTANTS


def pass_norm(norm, lift):
    """Makes a norm leave frames as they are, but for what is added to them."""
    for at in starts(norm.num_channels):
        norm.weight[at : at + 3] = K * (2 * 32 / norm.num_channels) ** 0.5
        norm.bias[at : at + 3] = lift


def leave(norm, conv, matrix, offset):
    """Makes a last norm and convolution give `matrix @ colours + offset`."""
    pass_norm(norm, LIFT)
    middle = conv.kernel_size[0] // 2
    conv.weight.mul_(0.01)
    for i, at in enumerate(starts(norm.num_channels)):
        conv.weight[:, at : at + 3] = 0
        conv.weight[:, at, middle, middle] = matrix[:, i] / GAIN
    conv.bias.copy_(offset - matrix.sum(1) * LIFT / GAIN)


def carry_through(net):
    """Makes all hand frames on but for the first and last layers of the encoder and decoder."""
    for name, module in net.named_modules():
        if name.endswith(("conv2", "proj_out")):
            module.weight.mul_(0.03)
        elif name.endswith(("nin_shortcut", "upsample_conv", "upsample.conv", "downsample.conv")):
            carry(module)
