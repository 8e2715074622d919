"""The search of `nearest.py` as CUDA kernels: no score is written, three numbers a row are.

    search   rows     ->  codes, leads and lengths; one kernel for few channels, one for many
    settle   doubts   ->  codes by float64 distance; the host does not learn how many there were

Few channels are multiplied one after the other: a tensor core takes no fewer than 16. Many go
through tensor cores as pairs of float16 (`split`), whose error `nearest.py` accounts for.

Importing this needs triton; nothing else of the pipeline does.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

FEW_CHANNELS = 8
"""Most channels that are multiplied one after the other."""
ROWS, ENTRIES = 64, 64
"""Of a program, and of a step of it: 64 x 64 scores in registers."""
CHANNELS = 64
"""Multiplied at once on tensor cores; longer vectors take several steps."""
NUMBERS_AT_ONCE = 2**22
"""Of rows that are split at once, which takes some 20 bytes for each."""
WARPS, WARPS_OF_TENSOR_CORES = 8, 4
DOUBTS = 32
"""Rows that a program of `settle` looks through."""
DISTANCES = 4096
"""Differences that it takes at a time, of entries times channels."""
_SMALLEST_ROW = 2.0**-100
"""Rows of no larger number are not scaled up to 1."""

Found = tuple[Tensor, Tensor, Tensor]
"""Codes int64, lead of the best score and length of the row, each (N,)."""


def search(z: Tensor, weights: Tensor, centre: Tensor, scale: Tensor) -> Found:
    """Returns what was found.

    Args:
        z: (N, C), float32 or less, of any strides; N at least 1.
        weights: (K', C + 1) float32, as in `nearest._Table`; K' a multiple of `ENTRIES`.
        centre: (C,) float32.
        scale: () float32.
    """
    with torch.cuda.device_of(z):  # type: ignore[no-untyped-call]
        if z.shape[1] <= FEW_CHANNELS:
            return _search_few(z, weights, centre, scale)
        return _search_many(z, weights, centre, scale)


def settle(z: Tensor, codebook: Tensor, doubtful: Tensor, codes: Tensor) -> None:
    """Puts the entry at least distance, in float64, in the place of doubtful codes.

    Args:
        z: (N, C), floating, of any strides.
        codebook: (K, C), floating.
        doubtful: (N,) bool.
        codes: (N,) int64.
    """
    N, C = z.shape
    channels = min(CHANNELS, triton.next_power_of_2(C))
    sizes = {"CHANNELS": channels, "ENTRIES": DISTANCES // channels, "DOUBTS": DOUBTS}
    arguments = (z, *z.stride(), codebook.contiguous(), doubtful, codes, N, C, len(codebook))
    with torch.cuda.device_of(z):  # type: ignore[no-untyped-call]
        _settle_kernel[(triton.cdiv(N, DOUBTS),)](*arguments, **sizes, num_warps=WARPS)


def split(values: Tensor) -> tuple[Tensor, Tensor]:
    """Returns what float16 takes of values (N, C) up to 1, and of what is left; C up to 16, 32, ...

    Together they are within 2^-22 of a value, relatively, or within 2^-24.
    """
    padded = values.new_zeros(len(values), -(-values.shape[1] // 16) * 16)
    padded[:, : values.shape[1]] = values
    high = padded.half()
    return high, (padded - high.float()).half()


def _search_few(z: Tensor, weights: Tensor, centre: Tensor, scale: Tensor) -> Found:
    found = _new_found(z)
    sizes = {"C": z.shape[1], "ROWS": ROWS, "ENTRIES": ENTRIES}
    columns = weights.T.contiguous()  # (C + 1, K'), for loads of entries side by side
    arguments = (z, *z.stride(), columns, centre, scale, *found, len(z), len(weights))
    _few_kernel[(triton.cdiv(len(z), ROWS),)](*arguments, **sizes, num_warps=WARPS)
    return found


def _search_many(z: Tensor, weights: Tensor, centre: Tensor, scale: Tensor) -> Found:
    found = _new_found(z)
    entries = (*split(weights[:, :-1]), weights[:, -1].contiguous())
    at_once = max(ROWS, NUMBERS_AT_ONCE // z.shape[1])
    for part, *places in zip(*(torch.split(each, at_once) for each in (z, *found)), strict=True):
        rows = (part.float() - centre).mul_(scale)
        _search_rows(rows, entries, *places)
    return found


def _search_rows(
    rows: Tensor, entries: tuple[Tensor, ...], codes: Tensor, leads: Tensor, lengths: Tensor
) -> None:
    """Puts what is found of rows (N, C), centred and scaled as the entries are, in its place."""
    torch.linalg.vector_norm(rows, dim=1, out=lengths)
    largest = rows.abs().amax(1).clamp_(min=_SMALLEST_ROW)
    factor = torch.frexp(largest).mantissa / largest  # powers of two, so scaling is exact
    high, low = split(rows.mul_(factor[:, None]))
    arguments = (high, low, 1 / factor, *entries, codes, leads, len(rows), len(entries[0]))
    _many_kernel[(triton.cdiv(len(rows), ROWS),)](*arguments, **_fit(high.shape[1]))


def _fit(C: int) -> dict[str, int]:
    """Returns sizes with which rows and entries of C channels, 16, 32, ..., lie on chip (227 kB).

    Past 512 channels nothing does, and triton says so.
    """
    stages, entries = next(
        fitting
        for most, *fitting in ((128, 3, ENTRIES), (256, 2, ENTRIES), (math.inf, 1, ENTRIES // 2))
        if most >= C
    )
    sizes = {"C": C, "ROWS": ROWS, "ENTRIES": entries, "CHANNELS": math.gcd(C, CHANNELS)}
    return {**sizes, "num_stages": stages, "num_warps": WARPS_OF_TENSOR_CORES}


def _new_found(z: Tensor) -> Found:
    codes = torch.empty(len(z), dtype=torch.int64, device=z.device)
    leads, lengths = torch.empty(2, len(z), dtype=torch.float32, device=z.device)
    return codes, leads, lengths


@triton.jit
def _few_kernel(
    z,
    row_stride,
    channel_stride,
    columns,
    centre,
    scale,
    codes,
    leads,
    lengths,
    N,
    K,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    ENTRIES: tl.constexpr,
):
    """One program: ROWS rows against all K entries, a channel at a time."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    step = tl.arange(0, ENTRIES)
    factor = tl.load(scale)
    square = tl.zeros((ROWS,), tl.float32)
    values = ()
    for channel in tl.static_range(C):
        value = tl.load(z + row * row_stride + channel * channel_stride, mask=row < N, other=0.0)
        value = (value.to(tl.float32) - tl.load(centre + channel)) * factor
        square += value * value
        values = values + (value,)  # type: ignore[assignment] # noqa: RUF005 - triton takes no star
    best = tl.full((ROWS, ENTRIES), float("inf"), tl.float32)
    following = best
    found = tl.broadcast_to(step[None, :], (ROWS, ENTRIES))
    for start in range(0, K, ENTRIES):
        entry = start + step
        half = tl.load(columns + C * K + entry)
        scores = tl.broadcast_to(half[None, :], (ROWS, ENTRIES))
        for channel in tl.static_range(C):
            weight = tl.load(columns + channel * K + entry)
            scores += values[channel][:, None] * weight[None, :]
        best, following, found = _keep_least(scores, entry, best, following, found)
    _store_least(codes, leads, row, N, K, best, following, found)
    tl.store(lengths + row, tl.sqrt(square), mask=row < N)


@triton.jit
def _many_kernel(
    high,
    low,
    back,
    entries_high,
    entries_low,
    halves,
    codes,
    leads,
    N,
    K,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    ENTRIES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """One program: ROWS rows against all K entries, on tensor cores.

    High parts are summed by themselves: so the error of sums of products is that of as many terms
    as there are channels, and what the low parts add to it is a thousandth.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    step, channel = tl.arange(0, ENTRIES), tl.arange(0, CHANNELS)
    unit = tl.load(back + row, mask=row < N, other=0.0)
    best = tl.full((ROWS, ENTRIES), float("inf"), tl.float32)
    following = best
    found = tl.broadcast_to(step[None, :], (ROWS, ENTRIES))
    rows_high, rows_low = _load_rows(high, low, row, channel, N, C)
    for start in range(0, K, ENTRIES):
        entry = start + step
        large = tl.zeros((ROWS, ENTRIES), tl.float32)
        small = tl.zeros((ROWS, ENTRIES), tl.float32)
        for first in tl.static_range(0, C, CHANNELS):
            if C > CHANNELS:
                rows_high, rows_low = _load_rows(high, low, row, first + channel, N, C)
            places = entry[None, :].to(tl.int64) * C + (first + channel)[:, None]
            columns_high, columns_low = (
                tl.load(entries_high + places),
                tl.load(entries_low + places),
            )
            small = tl.dot(rows_high, columns_low, small)
            small = tl.dot(rows_low, columns_high, small)
            large = tl.dot(rows_high, columns_high, large)
        scores = tl.load(halves + entry)[None, :] + (large + small) * unit[:, None]
        best, following, found = _keep_least(scores, entry, best, following, found)
    _store_least(codes, leads, row, N, K, best, following, found)


@triton.jit
def _load_rows(high, low, row, channel, N, C: tl.constexpr):
    """Returns both parts of some channels of the rows, zeros past the last row."""
    places = row[:, None] * C + channel[None, :]
    mask = (row < N)[:, None]
    return tl.load(high + places, mask=mask, other=0.0), tl.load(low + places, mask=mask, other=0.0)


@triton.jit
def _keep_least(scores, entry, best, following, found):
    """Returns the least score of each place so far, the next least, and the entry of the least."""
    is_less = scores < best
    following = tl.where(is_less, best, tl.where(scores < following, scores, following))
    found = tl.where(is_less, tl.broadcast_to(entry[None, :], found.shape), found)
    return tl.where(is_less, scores, best), following, found


@triton.jit
def _store_least(codes, leads, row, N, K, best, following, found):
    """Compares the places of each row, once, at the end."""
    least = tl.min(best, axis=1)
    code = tl.min(tl.where(best == least[:, None], found, K - 1), axis=1)
    others = tl.where(found == code[:, None], following, best)
    tl.store(codes + row, code.to(tl.int64), mask=row < N)
    tl.store(leads + row, tl.min(others, axis=1) - least, mask=row < N)


@triton.jit
def _settle_kernel(
    z,
    row_stride,
    channel_stride,
    codebook,
    doubtful,
    codes,
    N,
    C,
    K,
    CHANNELS: tl.constexpr,
    ENTRIES: tl.constexpr,
    DOUBTS: tl.constexpr,
):
    """One program: the doubtful ones of DOUBTS rows against all K entries, one row at a time."""
    first = tl.program_id(0).to(tl.int64) * DOUBTS
    rows = first + tl.arange(0, DOUBTS)
    doubts = tl.load(doubtful + rows, mask=rows < N, other=0).to(tl.int32)
    if tl.sum(doubts, axis=0) > 0:
        for row in range(first, tl.minimum(first + DOUBTS, N)):
            if tl.load(doubtful + row).to(tl.int32) > 0:
                start = z + row * row_stride
                code = _nearest_of(start, channel_stride, codebook, C, K, CHANNELS, ENTRIES)
                tl.store(codes + row, code)


@triton.jit
def _nearest_of(z, channel_stride, codebook, C, K, CHANNELS: tl.constexpr, ENTRIES: tl.constexpr):
    """Returns the entry nearest to one row, the lowest index of several."""
    step, channel = tl.arange(0, ENTRIES), tl.arange(0, CHANNELS)
    best = tl.full((ENTRIES,), float("inf"), tl.float64)
    found = step
    for start in range(0, K, ENTRIES):
        entry = start + step
        squares = tl.zeros((ENTRIES, CHANNELS), tl.float64)
        for first in range(0, C, CHANNELS):
            place = first + channel
            mask = (entry < K)[:, None] & (place < C)[None, :]
            value = tl.load(z + place * channel_stride, mask=place < C, other=0.0).to(tl.float64)
            places = entry[:, None].to(tl.int64) * C + place[None, :]
            weight = tl.load(codebook + places, mask=mask, other=0.0).to(tl.float64)
            apart = tl.where(mask, value[None, :] - weight, 0.0)
            squares += apart * apart
        distance = tl.sum(squares, axis=1)
        is_less = (distance < best) & (entry < K)
        found = tl.where(is_less, entry, found)
        best = tl.where(is_less, distance, best)
    least = tl.min(best, axis=0)
    return tl.min(tl.where(best == least, found, K - 1), axis=0).to(tl.int64)
