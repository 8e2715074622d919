"""The encoder and decoder networks, top to bottom: norms, residual block, attention, levels, ends.

Attribute names, and so state-dict keys, are those of `diffusers.VQModel` 0.42. The architecture is
VQGAN's (https://arxiv.org/abs/2012.09841), with MoVQ's spatial norm (https://arxiv.org/abs/2209.09002)
as an option of the decoder. Every tensor is floating (B, C, H, W); `quantized` is (B, C_q, h, w)
where the decoder has spatial norms, else None.
"""

from dataclasses import dataclass
from itertools import pairwise, zip_longest

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vqpipe.vqgan.attention import attend as attend_fast
from vqpipe.vqgan.config import SPATIAL_NORM_GROUPS, VQConfig
from vqpipe.vqgan.group_norm import Form, normalise, normalise_by_channel

NORM_EPS = 1e-6
"""Added to the variance in every norm (CompVis/taming-transformers, `modules/diffusionmodules`)."""

IDENTITY = nn.Identity()
"""No activation behind a norm."""

ACTIVATION_MODULES: dict[str, type[nn.Module]] = {
    "swish": nn.SiLU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
}


@dataclass(frozen=True)
class BlockOptions:
    """What all blocks of one network share."""

    act_fn: str
    """Key of `ACTIVATION_MODULES`."""
    groups: int
    """Groups of a group norm."""
    quantized_channels: int | None = None
    """Channels of the vectors that condition a spatial norm; None for group norms."""


class GroupNorm(nn.GroupNorm):
    """Group norm that can stand in for a spatial norm: it takes, and ignores, quantized vectors."""

    form: Form = "torch"
    """How it is computed where no gradients are wanted; `fusion.fuse` sets it."""

    def forward(
        self,
        x: Tensor,
        quantized: Tensor | None = None,  # noqa: ARG002 - see the class
        activation: nn.Module = IDENTITY,
        before: Tensor | None = None,
    ) -> Tensor:
        """Return activation(norm(x + before)), as x is.

        Args:
            x: (B, C, H, W), or of any places in the form of torch.
            quantized: Not looked at.
            activation: Of the network, or none.
            before: (C,), of a convolution whose bias was left off; in the form of torch, None.
        """
        if is_plain(self):
            return activation(super().forward(x))
        if self.form == "kernel":
            return normalise(x, self, activation, before)
        return activation(normalise_by_channel(x, self, before))


class SpatialNorm(nn.Module):
    """Group norm whose scale and shift are read from the quantized vectors at each place (MoVQ)."""

    form: Form = "torch"
    """As in `GroupNorm`."""

    def __init__(self, channels: int, quantized_channels: int) -> None:
        super().__init__()
        self.norm_layer = nn.GroupNorm(SPATIAL_NORM_GROUPS, channels, eps=NORM_EPS)
        self.conv_y = nn.Conv2d(quantized_channels, channels, 1)
        self.conv_b = nn.Conv2d(quantized_channels, channels, 1)

    def forward(
        self,
        x: Tensor,
        quantized: Tensor,
        activation: nn.Module = IDENTITY,
        before: Tensor | None = None,
    ) -> Tensor:
        """Return activation(norm(x + before) * scale + shift), (B, C, H, W); else as above."""
        if self.form == "kernel" and not is_plain(self):
            small = (self.conv_y(quantized), self.conv_b(quantized))  # (B, C, h, w)
            return normalise(x, self.norm_layer, activation, before, small)
        scale, shift = (spread(conv, quantized, x.shape) for conv in (self.conv_y, self.conv_b))
        if is_plain(self):
            return activation(self.norm_layer(x) * scale + shift)
        return activation(normalise_by_channel(x, self.norm_layer, before) * scale + shift)


def spread(convolution: nn.Conv2d, quantized: Tensor, shape: torch.Size) -> Tensor:
    """Return what a 1 x 1 convolution makes of vectors (B, C_q, h, w), repeated to (B, C, H, W).

    What it makes of repeated vectors is the same, so without gradients it runs on the small grid.
    With them it runs on the large one, as in diffusers: else bfloat16 would round their sums.
    """
    if torch.is_grad_enabled():
        return convolution(F.interpolate(quantized, size=shape[-2:], mode="nearest"))
    return F.interpolate(convolution(quantized), size=shape[-2:], mode="nearest")


def is_plain(norm: nn.Module) -> bool:
    """Whether torch's own operators are to be run, in which alone gradients are known."""
    return norm.form == "torch" or torch.is_grad_enabled()


def convolve_apart(convolution: nn.Conv2d, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return what the convolution makes of x but for its bias, and the bias.

    A norm of ours that follows adds it for nothing. The compiler cannot reach into that kernel, and
    beside a convolution of cuDNN's a bias is another pass.
    """
    c = convolution
    return F.conv2d(x, c.weight, None, c.stride, c.padding, c.dilation, c.groups), c.bias


def make_norm(channels: int, options: BlockOptions) -> nn.Module:
    """Return the norm of a network for this many channels."""
    if options.quantized_channels is None:
        return GroupNorm(options.groups, channels, eps=NORM_EPS)
    return SpatialNorm(channels, options.quantized_channels)


class ResnetBlock(nn.Module):
    """Two norm-activation-convolution steps around a skip."""

    def __init__(self, in_channels: int, out_channels: int, options: BlockOptions) -> None:
        super().__init__()
        self.norm1 = make_norm(in_channels, options)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = make_norm(out_channels, options)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.nonlinearity = ACTIVATION_MODULES[options.act_fn.lower()]()
        self.conv_shortcut = (
            nn.Conv2d(in_channels, out_channels, 1)
            if in_channels != out_channels
            else nn.Identity()
        )

    def forward(self, x: Tensor, quantized: Tensor | None = None) -> Tensor:
        """Return (B, out_channels, H, W)."""
        h, bias = self.norm1(x, quantized, self.nonlinearity), None
        if is_plain(self.norm2):
            h = self.conv1(h)  # (B, out_channels, H, W)
        else:
            h, bias = convolve_apart(self.conv1, h)
        h = self.conv2(self.norm2(h, quantized, self.nonlinearity, bias))
        return self.conv_shortcut(x) + h


class Attention(nn.Module):
    """One-head self-attention over the places of the grid, around a skip.

    The memory layouts the kernels see are diffusers' as well, so that results are equal to the last
    bit: the group norm runs on (B, C, H * W), and the sum takes its strides from the attention.
    """

    multiplies = False
    """Whether `attention.attend` may do without torch's attention where no gradients are wanted;
    `fusion.fuse` sets it."""

    def __init__(self, channels: int, options: BlockOptions) -> None:
        super().__init__()
        self.is_spatial = options.quantized_channels is not None
        if self.is_spatial:
            self.spatial_norm = make_norm(channels, options)
        else:
            self.group_norm = make_norm(channels, options)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor, quantized: Tensor | None = None) -> Tensor:
        """Return (B, C, H, W)."""
        if self.is_spatial:
            h = self.spatial_norm(x, quantized).flatten(2)  # (B, C, H*W)
        elif is_plain(self.group_norm):
            h = self.group_norm(x.flatten(2))
        else:
            h = self.group_norm(x).flatten(2)
        h = h.transpose(1, 2)[:, None]  # (B, 1, H*W, C)
        is_fast = self.multiplies and not torch.is_grad_enabled()
        attend = attend_fast if is_fast else F.scaled_dot_product_attention
        h = attend(self.to_q(h), self.to_k(h), self.to_v(h))
        h = self.to_out[0](h[:, 0]).transpose(1, 2)  # (B, C, H*W)
        return h.reshape(x.shape) + x


class Downsample(nn.Module):
    """Convolution that halves the grid, rounding odd sides down; zeros go right and below only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, H // 2, W // 2)."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Nearest-neighbour doubling of the grid, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, 2 * H, 2 * W)."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """One resolution of the encoder or decoder: residual blocks, and what the makers below add."""

    def __init__(self, channels: list[int], options: BlockOptions) -> None:
        """Chain residual blocks through these channel counts, one block fewer than counts."""
        super().__init__()
        self.resnets = nn.ModuleList(ResnetBlock(a, b, options) for a, b in pairwise(channels))
        self.attentions = nn.ModuleList()
        self.downsamplers = nn.ModuleList()
        self.upsamplers = nn.ModuleList()

    def add_attentions(self, channels: int, options: BlockOptions) -> None:
        """Put an attention behind every residual block."""
        self.attentions.extend(Attention(channels, options) for _ in self.resnets)

    def forward(self, x: Tensor, quantized: Tensor | None = None) -> Tensor:
        """Return (B, channels[-1], H, W), or half or twice that grid after a resampler."""
        for resnet, attention in zip_longest(self.resnets, self.attentions):
            x = resnet(x, quantized)
            if attention is not None:
                x = attention(x, quantized)
        for resample in (*self.downsamplers, *self.upsamplers):
            x = resample(x)
        return x


class MidBlock(nn.Module):
    """Two residual blocks on the coarsest grid, with an attention between them or none."""

    def __init__(self, channels: int, options: BlockOptions, *, attends: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResnetBlock(channels, channels, options) for _ in range(2))
        count = 1 if attends else 0
        self.attentions = nn.ModuleList(Attention(channels, options) for _ in range(count))

    def forward(self, x: Tensor, quantized: Tensor | None = None) -> Tensor:
        """Return (B, C, h, w)."""
        x = self.resnets[0](x, quantized)
        for attention in self.attentions:
            x = attention(x, quantized)
        return self.resnets[1](x, quantized)


def make_down_levels(config: VQConfig, options: BlockOptions) -> nn.ModuleList:
    """Return the encoder's levels, finest first."""
    levels = nn.ModuleList()
    channels = config.block_out_channels
    for i, kind in enumerate(config.down_block_types):
        chain = [channels[max(i - 1, 0)]] + [channels[i]] * config.layers_per_block
        level = Level(chain, options)
        if kind.startswith("Attn"):
            level.add_attentions(channels[i], options)
        if i < len(channels) - 1:
            level.downsamplers.append(Downsample(channels[i]))
        levels.append(level)
    return levels


def make_up_levels(config: VQConfig, options: BlockOptions) -> nn.ModuleList:
    """Return the decoder's levels, coarsest first."""
    levels = nn.ModuleList()
    channels = config.decoder_channels[::-1]
    for i, kind in enumerate(config.up_block_types):
        chain = [channels[max(i - 1, 0)]] + [channels[i]] * config.decoder_layers
        level = Level(chain, options)
        if kind.startswith("Attn"):
            level.add_attentions(channels[i], options)
        if i < len(channels) - 1:
            level.upsamplers.append(Upsample(channels[i]))
        levels.append(level)
    return levels


def run_block(block: nn.Module, *inputs: Tensor | None, recompute: bool) -> Tensor:
    """Return what the block makes of its inputs.

    Args:
        block: A `Level` or `MidBlock`.
        *inputs: x (B, C, H, W), and the quantized vectors in a decoder.
        recompute: Whether backward runs the block again instead of having kept what is inside it.
    """
    if recompute and torch.is_grad_enabled():
        return checkpoint(block, *inputs, use_reentrant=False)
    return block(*inputs)


class Encoder(nn.Module):
    """Pixels to unquantized latents."""

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        options = BlockOptions(config.act_fn, config.norm_num_groups)
        first, last = config.block_out_channels[0], config.block_out_channels[-1]
        self.conv_in = nn.Conv2d(config.in_channels, first, 3, padding=1)
        self.down_blocks = make_down_levels(config, options)
        self.mid_block = MidBlock(last, options, attends=config.mid_block_add_attention)
        self.conv_norm_out = make_norm(last, options)
        self.conv_act = nn.SiLU()
        self.conv_out = nn.Conv2d(last, config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, latent_channels, h, w) for pixels (B, in_channels, H, W)."""
        h = self.conv_in(x)  # (B, channels[0], H, W)
        recompute = self.gradient_checkpointing
        for level in self.down_blocks:
            # (B, channels[i], H / 2**(i + 1), W / 2**(i + 1)); the last keeps its grid
            h = run_block(level, h, recompute=recompute)
        h = run_block(self.mid_block, h, recompute=recompute)  # (B, channels[-1], h, w)
        return self.conv_out(self.conv_norm_out(h, None, self.conv_act))


class Decoder(nn.Module):
    """Quantized latents to pixels."""

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        is_spatial = config.norm_type == "spatial"
        options = BlockOptions(
            config.act_fn, config.norm_num_groups, config.embed_dim if is_spatial else None
        )
        first, last = config.decoder_channels[0], config.decoder_channels[-1]
        self.conv_in = nn.Conv2d(config.latent_channels, last, 3, padding=1)
        self.mid_block = MidBlock(last, options, attends=config.mid_block_add_attention)
        self.up_blocks = make_up_levels(config, options)
        self.conv_norm_out = make_norm(first, options)
        self.conv_act = nn.SiLU()
        self.conv_out = nn.Conv2d(first, config.out_channels, 3, padding=1)

    def forward(self, x: Tensor, quantized: Tensor | None = None) -> Tensor:
        """Return pixels (B, out_channels, H, W) for latents (B, latent_channels, h, w)."""
        recompute = self.gradient_checkpointing
        h = self.conv_in(x)  # (B, channels[-1], h, w)
        h = run_block(self.mid_block, h, quantized, recompute=recompute)
        for level in self.up_blocks:
            h = run_block(level, h, quantized, recompute=recompute)
        h = self.conv_norm_out(h, quantized, self.conv_act)
        return self.conv_out(h)  # (B, out_channels, H, W)
