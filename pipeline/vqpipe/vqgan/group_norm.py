"""Group norms for inference on CUDA: statistics a channel at a time, or `group_norm_triton.py`.

`torch.compile` makes of torch's own group norm one program a group, which reads pieces of 8 bytes
of channels-last tensors and divides for every number. Sums over the places of each channel, which
are combined afterwards, read whole lines with a quarter of the instructions, and kernels of our own
apply the norm with fewer as well. `fusion.py` says which form a network takes; without it, all is
torch's.

Rounding, with u = 2^-24. Squares are summed about the mean of every sixteenth place of a channel.
Those places' own squares about the channel's mean are no more than all places' are, so that this
mean is within 4 standard deviations of the channel's, and mostly within a hundredth. A sum whose
longest chain of additions is k errs by k u; the relative error of a variance, a difference of two
such sums, is below 2 (k + 2) (1 + 16) u on any data and close to 2 (k + 2) u on ordinary data,
whatever the mean is. Without the shift, a mean of 1,000 deviations would cost 10^6 u, and the
variance all its digits but one.
"""

from typing import Literal

import torch
from torch import Tensor, nn

Form = Literal["torch", "by_channel", "kernel"]
"""How a norm is computed: as torch does it; in torch's operators a channel at a time, for
`torch.compile` to fuse; or by our kernels."""
PLACES_APART = 16
"""Of so many places, one is looked at for a value to subtract."""


def normalise_by_channel(x: Tensor, norm: nn.GroupNorm, before: Tensor | None = None) -> Tensor:
    """Returns the group norm of x + before, (B, C, H, W) in x's dtype; sums are float32.

    Args:
        x: (B, C, H, W), float32 or less.
        norm: Groups, eps, weight and bias.
        before: (C,) to add to x before, or None.
    """
    B, C, G = x.shape[0], norm.num_channels, norm.num_groups
    values = x.flatten(2).float()  # (B, C, N)
    values = values if before is None else values + before.float()[:, None]
    shift = values[:, :, ::PLACES_APART].mean(2, keepdim=True)  # (B, C, 1)
    apart = values - shift
    mean, square = apart.mean(2).view(B, G, -1), apart.square().mean(2).view(B, G, -1)
    shift = shift.view(B, G, -1)  # (B, G, C / G)
    centre = shift[:, :, :1]  # far from zero, a mean of means would lose digits
    means = shift - centre + mean
    middle = means.mean(2, keepdim=True)  # (B, G, 1)
    within = (square - mean.square()).clamp(min=0)
    variance = (within + (means - middle).square()).mean(2, keepdim=True)
    factor = norm.weight.float().view(G, -1) * torch.rsqrt(variance + norm.eps)  # (B, G, C / G)
    offset = norm.bias.float().view(G, -1) - (centre + middle) * factor
    factor, offset = factor.reshape(B, C, 1), offset.reshape(B, C, 1)
    return (values * factor + offset).to(x.dtype).view(x.shape)


def normalise(
    x: Tensor,
    norm: nn.GroupNorm,
    activation: nn.Module,
    before: Tensor | None = None,
    spatial: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Returns activation(norm(x + before)) by our kernels, (B, C, H, W) in x's dtype.

    Args:
        x: (B, C, H, W), float32 or less; channels-last, or it is copied.
        norm: Groups, eps, weight and bias; `group_norm_triton.suits` it.
        activation: SiLU is part of the kernel, others follow.
        before: (C,) to add to x before, or None.
        spatial: Scale and shift, (B, C, h, w) each, that the norm is multiplied by and that is
            added, before the activation; x's grid is theirs times a power of two. Or None.
    """
    from vqpipe.vqgan import group_norm_triton  # noqa: PLC0415 - needs triton, and takes long

    activates = isinstance(activation, nn.SiLU)
    weights, how = (norm.weight, norm.bias, before), (norm.num_groups, norm.eps, activates)
    if spatial is None:
        out = group_norm_triton.normalise(x, *weights, *how)
    else:
        out = group_norm_triton.normalise_spatially(x, *weights, *spatial, *how)
    return out if activates else activation(out)
