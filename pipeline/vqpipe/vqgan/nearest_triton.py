"""The search of `nearest.py` as one CUDA kernel: no score is written, three numbers a row are.

Importing this needs triton; nothing else of the pipeline does.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 64
"""Rows of a program, and entries of a step of it: 64 x 64 scores in registers."""
MAX_CHANNELS = 64
"""Channels multiplied at once. Longer vectors are summed in pieces: a tile has to fit on chip."""
WARPS = 8


def search(
    z: Tensor, weights: Tensor, centre: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns codes int64, lead of the best score and length of the row, each (N,).

    Args:
        z: (N, C), float32 or less, of any strides; N at least 1.
        weights: (K', C + 1) float32, contiguous, as in `nearest._Table`; K' a multiple of `TILE`.
        centre: (C,) float32.
        scale: () float32.
    """
    N, C = z.shape
    codes = torch.empty(N, dtype=torch.int64, device=z.device)
    leads, lengths = weights.new_empty(2, N)
    channels = min(MAX_CHANNELS, max(16, triton.next_power_of_2(C)))  # tl.dot takes 16 or more
    arguments = (z, *z.stride(), weights, centre, scale, codes, leads, lengths, N, C, len(weights))
    _search_kernel[(triton.cdiv(N, TILE),)](
        *arguments, TILE=TILE, CHANNELS=channels, IS_ONE_PIECE=channels >= C, num_warps=WARPS
    )
    return codes, leads, lengths


@triton.jit
def _load_rows(z, row_stride, channel_stride, row, channel, N, C, centre, scale):
    """Returns (TILE, CHANNELS) of z, centred and scaled, zeros past its ends."""
    inside = (row < N)[:, None] & (channel < C)[None, :]
    places = z + row[:, None] * row_stride + channel[None, :] * channel_stride
    values = tl.load(places, mask=inside, other=0.0).to(tl.float32)
    middle = tl.load(centre + channel, mask=channel < C, other=0.0)
    return tl.where(inside, (values - middle[None, :]) * scale, 0.0)


@triton.jit
def _search_kernel(
    z,
    row_stride,
    channel_stride,
    weights,
    centre,
    scale,
    codes,
    leads,
    lengths,
    N,
    C,
    K,
    TILE: tl.constexpr,
    CHANNELS: tl.constexpr,
    IS_ONE_PIECE: tl.constexpr,
):
    """One program: TILE rows against all K entries.

    Each place of the tile keeps the least of the scores it has seen, its entry, and the next
    least; the places of a row are compared once, at the end.
    """
    row = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    step, channel = tl.arange(0, TILE), tl.arange(0, CHANNELS)
    factor = tl.load(scale)
    square = tl.zeros((TILE,), tl.float32)
    rows = tl.zeros((TILE, CHANNELS), tl.float32)
    for first in range(0, C, CHANNELS):
        rows = _load_rows(z, row_stride, channel_stride, row, first + channel, N, C, centre, factor)
        square += tl.sum(rows * rows, axis=1)
    best = tl.full((TILE, TILE), float("inf"), tl.float32)
    following = best
    found = tl.broadcast_to(step[None, :], (TILE, TILE))
    for start in range(0, K, TILE):
        entry = start + step
        scores = tl.broadcast_to(tl.load(weights + entry * (C + 1) + C)[None, :], (TILE, TILE))
        for first in range(0, C, CHANNELS):
            if not IS_ONE_PIECE:
                rows = _load_rows(
                    z, row_stride, channel_stride, row, first + channel, N, C, centre, factor
                )
            places = weights + entry[None, :] * (C + 1) + (first + channel)[:, None]
            columns = tl.load(places, mask=(first + channel < C)[:, None], other=0.0)
            scores = tl.dot(rows, columns, scores, input_precision="ieee")
        following = tl.where(scores < best, best, tl.where(scores < following, scores, following))
        found = tl.where(scores < best, tl.broadcast_to(entry[None, :], (TILE, TILE)), found)
        best = tl.where(scores < best, scores, best)
    least = tl.min(best, axis=1)
    code = tl.min(tl.where(best == least[:, None], found, K - 1), axis=1)
    others = tl.where(found == code[:, None], following, best)
    tl.store(codes + row, code.to(tl.int64), mask=row < N)
    tl.store(leads + row, tl.min(others, axis=1) - least, mask=row < N)
    tl.store(lengths + row, tl.sqrt(square), mask=row < N)
