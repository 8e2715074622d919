"""Group norm and SiLU of channels-last tensors as three CUDA kernels; no value is written twice.

    measure   x               ->  mean of each channel over some places, and squares about it
    combine   these           ->  factor and offset of each channel of each image
    apply     x, both of them ->  SiLU(x * factor + offset), or with a spatial norm in between

Importing this needs triton; nothing else of the pipeline does.

Rounding, with u = 2^-24. A place in the tile of a `measure` program sees up to n = `_count_steps`
values of one channel and takes its first as the shift: d_i = x_i - x_0 is exact but for u. Sums of
d_i and d_i^2 in float32 err by (n + 2) u, so that the squares about the place's mean, sum d^2 -
(sum d)^2 / n, err by at most 4 (n + 2) u sum d^2. The sum of d^2 is the squares about the mean and
n (x_0 - mean)^2: where the first values are as far from the mean as others, twice the former, and
never more than n + 1 times it. The relative error of a variance is thus below 8 (n + 2) u on
ordinary data (3e-5 at 64 steps), whatever the mean is, and below 4 (n + 1) (n + 2) u (1e-3) on any.
Means come to a few u of themselves, as differences from a value of the channel.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import custom_op

MEASURED, APPLIED = 2048, 4096
"""Numbers that a program of each kernel holds at once, 16 and 32 a thread. More need registers for
which fewer programs run beside each other; fewer cost instructions, which count here."""
MOST_CHANNELS = 512
"""Channels of a program, at most; a power of two that divides the channels."""
LEAST_CHANNELS = 32
"""And at least: fewer would read less than a sector of memory at a time."""
LEAST_STEPS = 16
MOST_PARTS = 128
"""Parts of an image that programs measure one by one. Their number depends on the image alone, not
on the batch nor on the device, so that no code does."""


def split(channels: int, numbers: int) -> tuple[int, int]:
    """Returns channels of a program, the largest power of two that divides them, and its rows."""
    part = min(channels & -channels, MOST_CHANNELS)
    return part, numbers // part


def suits(channels: int) -> bool:
    """Tells whether the kernels are made for so many channels."""
    return split(channels, APPLIED)[0] >= LEAST_CHANNELS


@custom_op("vqpipe::group_norm_silu", mutates_args=(), tags=(torch.Tag.flexible_layout,))
def normalise(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    before: Tensor | None,
    groups: int,
    eps: float,
    activates: bool,
) -> Tensor:
    """Returns the group norm of x, and SiLU of it if asked, (B, C, H, W) channels-last.

    `torch.compile` takes the whole for one operator: of two kernels that it sees into, each gets a
    copy of x of its own, and the sum around them computes x again.

    Args:
        x: (B, C, H, W), float32, bfloat16 or float16; lies channels-last, or is copied.
        weight: (C,).
        bias: (C,).
        before: (C,) to add to x before, a convolution's bias; it costs nothing.
        groups: Of the norm.
        eps: Added to the variance.
        activates: Whether SiLU follows.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    factors, offsets = _measure(x, weight, bias, before, groups, eps)
    out = torch.empty_like(x)
    B, C, H, W = x.shape
    channels, rows = split(C, APPLIED)
    grid = (triton.cdiv(H * W, rows), C // channels, B)
    _apply_kernel[grid](
        x, factors, offsets, out, H * W, C, ROWS=rows, CHANNELS=channels, ACTIVATES=activates
    )
    return out


@custom_op("vqpipe::spatial_norm_silu", mutates_args=(), tags=(torch.Tag.flexible_layout,))
def normalise_spatially(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    before: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    groups: int,
    eps: float,
    activates: bool,
) -> Tensor:
    """Returns the group norm times scale plus shift, and SiLU of it if asked; else as `normalise`.

    Args:
        x: As there; its grid is that of scale and shift times a power of two.
        weight: As there.
        bias: As there.
        before: As there.
        scale: (B, C, h, w), in any dtype of x's kinds; each place stands for a square of x's.
        shift: Likewise.
        groups: As there.
        eps: As there.
        activates: As there.
    """
    x, scale, shift = (
        each.contiguous(memory_format=torch.channels_last) for each in (x, scale, shift)
    )
    B, C, H, W = x.shape
    halvings = (H // scale.shape[2]).bit_length() - 1
    assert (scale.shape[2] << halvings, scale.shape[3] << halvings) == (H, W)
    factors, offsets = _measure(x, weight, bias, before, groups, eps)
    out = torch.empty_like(x)
    channels, rows = split(C, APPLIED)
    grid = (H * triton.cdiv(W, rows), C // channels, B)
    _apply_spatially_kernel[grid](
        x, factors, offsets, scale, shift, out, H, W, halvings, C,
        ROWS=rows, CHANNELS=channels, ACTIVATES=activates,
    )  # fmt: skip
    return out


@normalise.register_fake
def _(x: Tensor, *_: object) -> Tensor:
    """Returns what a compiler wants to know of the result: its shape, dtype, device and strides."""
    return torch.empty_like(x, memory_format=torch.channels_last)


@normalise_spatially.register_fake
def _(x: Tensor, *_: object) -> Tensor:
    """Returns the same."""
    return torch.empty_like(x, memory_format=torch.channels_last)


def _count_steps(places: int, rows: int) -> int:
    """Returns how many tiles of so many rows a program of `measure` goes through."""
    return max(LEAST_STEPS, triton.cdiv(triton.cdiv(places, rows), MOST_PARTS))


def _measure(
    x: Tensor, weight: Tensor, bias: Tensor, before: Tensor | None, groups: int, eps: float
) -> tuple[Tensor, Tensor]:
    """Returns factor and offset (B, C) float32 of each channel of x (B, C, H, W), channels-last."""
    B, C, N = *x.shape[:2], x.shape[2] * x.shape[3]
    channels, rows = split(C, MEASURED)
    steps = _count_steps(N, rows)
    parts = triton.cdiv(N, rows * steps)
    means, squares = (x.new_empty(B, parts, C, dtype=torch.float32) for _ in range(2))
    _measure_kernel[(parts, C // channels, B)](
        x, means, squares, N, steps, C, ROWS=rows, CHANNELS=channels
    )
    factors, offsets = (x.new_empty(B, C, dtype=torch.float32) for _ in range(2))
    _combine_kernel[(groups, B)](
        means, squares, weight, bias, bias if before is None else before, factors, offsets,
        N, rows * steps, parts, eps, C, C // groups,
        PARTS=triton.next_power_of_2(parts), MEMBERS=triton.next_power_of_2(C // groups),
        ADDS=before is not None,
    )  # fmt: skip
    return factors, offsets


@triton.jit
def _measure_kernel(
    x, means, squares, N, steps, C: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr
):
    """One program: `steps` tiles of ROWS places by CHANNELS channels of one image."""
    part, image = tl.program_id(0), tl.program_id(2).to(tl.int64)
    row, channel = tl.arange(0, ROWS), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    start = part * steps * ROWS
    tile = x + (image * N + start) * C + (row[:, None] * C + channel[None, :])
    first = tl.load(tile, mask=(start + row < N)[:, None], other=0.0)
    shift = first.to(tl.float32)
    total = tl.zeros((ROWS, CHANNELS), tl.float32)
    square = tl.zeros((ROWS, CHANNELS), tl.float32)
    for step in range(1, steps):
        inside = start + step * ROWS + row < N
        tile += ROWS * C
        apart = tl.load(tile, mask=inside[:, None], other=first).to(tl.float32) - shift
        total += apart
        square += apart * apart
    seen = tl.minimum(tl.maximum((N - start - row + ROWS - 1) // ROWS, 0), steps).to(tl.float32)
    weight = seen[:, None] / tl.minimum(N - start, steps * ROWS)
    mean = total / tl.maximum(seen, 1.0)[:, None]
    centre = tl.sum(tl.where(row[:, None] == 0, shift, 0.0), axis=0)
    middle = tl.sum((shift - centre[None, :] + mean) * weight, axis=0)
    apart = shift - centre[None, :] + mean - middle[None, :]
    square += seen[:, None] * (apart * apart) - total * mean
    place = (image * tl.num_programs(0) + part) * C + channel
    tl.store(means + place, centre + middle)
    tl.store(squares + place, tl.sum(square, axis=0))


@triton.jit
def _combine_kernel(
    means,
    squares,
    weight,
    bias,
    before,
    factors,
    offsets,
    N,
    places,
    parts,
    eps,
    C: tl.constexpr,
    SIZE: tl.constexpr,
    PARTS: tl.constexpr,
    MEMBERS: tl.constexpr,
    ADDS: tl.constexpr,
):
    """One program: a group of SIZE channels of one image; parts have `places`, the last fewer."""
    group, image = tl.program_id(0), tl.program_id(1).to(tl.int64)
    part, member = tl.arange(0, PARTS), tl.arange(0, MEMBERS)
    channel, known = group * SIZE + member, member < SIZE
    inside = (part < parts)[:, None] & known[None, :]
    tile = (image * parts + part[:, None]) * C + channel[None, :]
    mean = tl.load(means + tile, mask=inside, other=0.0)
    added = tl.zeros((MEMBERS,), tl.float32)
    if ADDS:
        added = tl.load(before + channel, mask=known, other=0.0).to(tl.float32)
    centre = tl.load(means + image * parts * C + group * SIZE)
    apart = mean - centre + added[None, :]
    seen = tl.minimum(N - part * places, places).to(tl.float32)[:, None]
    middle = tl.sum(tl.sum(tl.where(inside, apart * (seen / N), 0.0), axis=1), axis=0) / SIZE
    apart = tl.where(inside, apart - middle, 0.0)
    square = tl.load(squares + tile, mask=inside, other=0.0) + seen * apart * apart
    variance = tl.sum(tl.sum(square / N, axis=1), axis=0) / SIZE
    factor = tl.load(weight + channel, mask=known, other=0.0).to(tl.float32)
    factor = factor / tl.sqrt_rn(tl.maximum(variance, 0.0) + eps)
    offset = tl.load(bias + channel, mask=known, other=0.0).to(tl.float32)
    offset -= (centre + middle - added) * factor
    tl.store(factors + image * C + channel, factor, mask=known)
    tl.store(offsets + image * C + channel, offset, mask=known)


@triton.jit
def _apply_kernel(
    x,
    factors,
    offsets,
    out,
    N,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
    ACTIVATES: tl.constexpr,
):
    """One program: ROWS places by CHANNELS channels of one image."""
    image = tl.program_id(2).to(tl.int64)
    row, channel = tl.arange(0, ROWS), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    factor = tl.load(factors + image * C + channel)[None, :]
    offset = tl.load(offsets + image * C + channel)[None, :]
    start = tl.program_id(0) * ROWS
    inside = (start + row < N)[:, None]
    base, tile = (image * N + start) * C, row[:, None] * C + channel[None, :]
    value = tl.load(x + base + tile, mask=inside, other=0.0).to(tl.float32) * factor + offset
    if ACTIVATES:
        value = value * tl.sigmoid(value)
    tl.store(out + base + tile, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _apply_spatially_kernel(
    x,
    factors,
    offsets,
    scale,
    shift,
    out,
    H,
    W,
    halvings,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
    ACTIVATES: tl.constexpr,
):
    """One program: ROWS places of one line of one image, by CHANNELS channels."""
    image, pieces = tl.program_id(2).to(tl.int64), tl.cdiv(W, ROWS)
    line, start = tl.program_id(0) // pieces, (tl.program_id(0) % pieces) * ROWS
    row, channel = tl.arange(0, ROWS), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    factor = tl.load(factors + image * C + channel)[None, :]
    offset = tl.load(offsets + image * C + channel)[None, :]
    inside = (start + row < W)[:, None]
    small = ((image * (H >> halvings) + (line >> halvings)) * (W >> halvings)) * C
    square = ((start + row) >> halvings)[:, None] * C + channel[None, :]
    times = tl.load(scale + small + square, mask=inside, other=0.0).to(tl.float32)
    plus = tl.load(shift + small + square, mask=inside, other=0.0).to(tl.float32)
    base, tile = ((image * H + line) * W + start) * C, row[:, None] * C + channel[None, :]
    value = tl.load(x + base + tile, mask=inside, other=0.0).to(tl.float32) * factor + offset
    value = value * times + plus
    if ACTIVATES:
        value = value * tl.sigmoid(value)
    tl.store(out + base + tile, value.to(out.dtype.element_ty), mask=inside)
