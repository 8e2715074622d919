"""The nearest codebook entry of each latent, without a matrix of all distances.

The nearest entry has the least score s_k = |e_k|^2 / 2 - z.e_k, half the squared distance less what
is the same for all entries. Scores come in float32 from one matrix product a chunk, or from one
fused kernel on CUDA. An answer stands if it leads by more than rounding can explain; the rest are
decided by distances in float64: between the few entries that may be the nearest, or on CUDA by a
second kernel between all, which spares the host from asking how many there are.

Rounding, with u the unit round-off and gamma_n = n u / (1 - n u) (Higham, Accuracy and Stability of
Numerical Algorithms, 2nd edition, section 3.1): z and e are centred by one subtraction, u each;
scaling by a power of two is exact; |e|^2 / 2 is the square of the root of a sum of C products,
gamma_(C+5); the score is a sum of
C + 1 products in any order, gamma_(C+1) of the sum of their absolute values, which Cauchy-Schwarz
bounds by |e|^2 / 2 + |z||e|. Adding up, and with one u for the norms and one for the comparison,

    |computed - exact| <= gamma_(2C+10) m^2 / 2 + gamma_(C+5) |z| m,    m = max |e_k|.

`_Table.bound_error` takes 2C + 12, C + 8 and a hundredth more, and adds what underflow may lose.

On CUDA, more than a few channels are multiplied on tensor cores, each number as the sum of two of
float16, x = x' + x'' (`nearest_triton.split`). A row is scaled by a power of two so that its
largest coordinate is in [1/2, 1), as that of the codebook is. x' is within 2^-11 |x| of x or, where
float16 is denormal, 2^-25, and x' + x'' within 2^-22 |x| + 2^-24. What the product of the low parts
and the rest would have added is at most 2^-20 |z||e|, and 2^-22 sqrt(C) |z| (1 + |e|) where numbers
were denormal. Products of float16 are exact. Tensor cores add them in groups of four or more to
what they have, all cut off at the 24th bit of the largest, and cut the sum off again (Fasi, Higham,
Mikaitis, Pranesh, Numerical behavior of NVIDIA tensor cores, PeerJ CS 7:e330, 2021): g + 2 times 2u
of the sum of absolute values for each g channels, at most 3C u of it. The low products, which
are summed by themselves, are 2^-10 of that. With scaling back and two additions,

    |computed - exact| <= gamma_(2C+12) m^2 / 2 + (gamma_(4C+16) + 2^-20) |z| m
                          + 2^-22 sqrt(C) |z| (1 + m),

where C is rounded up to 16, 32, and so on. `_check_sums` tries each device, since how it adds is
written down nowhere.
"""

import functools
import importlib
import importlib.util
import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vqpipe.vqgan.precision import float32_products

BLOCK = 64
"""Entries whose least score is taken before the least of all is searched."""
SCORES_AT_ONCE = {"cpu": 2**21, "cuda": 2**22}
"""Scores held at once. On a CPU they should stay in its caches; a GPU wants larger products."""
SMALLEST_RANGE = 2.0**-30
"""Codebooks within this of their centre are not scaled up to 1, lest ordinary rows overflow."""

Found = tuple[Tensor, Tensor, Tensor]
"""By row, each (N,): codes int64; lead of the best score, and length of the row, as computed."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Table:
    """A codebook made ready for scores. Numbers are float32, or float64 for input in float64."""

    weights: Tensor
    """(K', C + 1): -e_k centred and scaled, then |e_k|^2 / 2; K up to a multiple of `BLOCK`."""
    centre: Tensor
    """(C,), subtracted from entries and rows: far from zero, products would cancel."""
    scale: Tensor
    """(), a power of two; no coordinate of an entry is larger than 1 after it."""
    length: Tensor
    """(), the largest |e_k|."""

    def score(self, z: Tensor, buffer: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns scores (K', N), in the buffer where there is one, and lengths (N,) of the rows.

        Args:
            z: (N, C), floating.
            buffer: At least K' * N numbers.
        """
        rows = self.weights.new_ones(len(z), self.weights.shape[1])  # (N, C + 1)
        centred = (z.to(rows.dtype) - self.centre).mul_(self.scale)
        rows[:, :-1] = centred
        shape = (len(self.weights), len(z))
        out = None if buffer is None else buffer[: shape[0] * shape[1]].view(shape)
        return torch.mm(self.weights, rows.T, out=out), torch.linalg.vector_norm(centred, dim=1)

    def bound_error(self, lengths: Tensor, *, is_split: bool = False) -> Tensor:
        """Returns (N,): no score of a row of this length is further than this from the exact one.

        Args:
            lengths: (N,), of the rows.
            is_split: Whether products are those of pairs of float16 on tensor cores.

        Underflow may cost 2^-126 in a difference, which is scaled by up to 2^29, as much in each
        product, and 2^-63 sqrt(C) in a length; 2^-75 C (1 + |z| + m) is more than all that.
        """
        dim, m = len(self.centre), self.length
        unit = torch.finfo(lengths.dtype).eps / 2
        terms = 4 * (-(-dim // 16) * 16) + 16 if is_split else dim + 8
        of_square, of_product = (n * unit / (1 - n * unit) for n in (2 * dim + 12, terms))
        bound = of_square * m * m / 2 + of_product * lengths * m
        if is_split:
            bound += 2.0**-20 * lengths * m + 2.0**-22 * dim**0.5 * lengths * (1 + m)
        underflow = 2.0**-75 * dim * (1 + lengths + m)
        return 1.01 * (bound + underflow)

    def doubt(self, found: Found, *, is_split: bool = False) -> Tensor:
        """Returns (N,): which codes do not lead by more than rounding can explain."""
        _, leads, lengths = found
        limit = 2 * self.bound_error(lengths, is_split=is_split)
        return ~(leads > limit) & limit.isfinite()


def _make_table(codebook: Tensor) -> _Table:
    size, dim = codebook.shape
    weights = codebook.new_zeros(-(-size // BLOCK) * BLOCK, dim + 1)
    entries, halves = weights[:size, :-1], weights[:size, -1]
    centre = codebook.mean(dim=0).nan_to_num(0, 0, 0)  # any centre is right, so overflow is none
    torch.sub(centre, codebook, out=entries)
    largest = torch.stack(entries.aminmax()).abs().amax().clamp(min=SMALLEST_RANGE)
    scale = torch.frexp(largest).mantissa / largest
    entries *= scale
    lengths = torch.linalg.vector_norm(entries, dim=1)  # (K,)
    torch.square(lengths, out=halves).div_(2)
    weights[size:, -1] = torch.inf
    return _Table(weights, centre, scale, lengths.amax())


def find_nearest(z: Tensor, codebook: Tensor) -> Tensor:
    """Return codes (N,), int64: the entry at least Euclidean distance, the lower index on a tie.

    They are the codes of distances in float64, whatever autocast and the flags for TF32 say. Values
    in reduced precision are taken as they are. A row that is not finite, or 10^19 times as long as
    the codebook is wide, where distances in float64 are all equal, gets some valid code.
    Peak memory is a few times `SCORES_AT_ONCE` and the codebook. On CUDA the host waits for nothing
    unless kernels cannot be made or numbers are float64: then it counts the rows in doubt.
    `torch.compile` takes the whole for one operator.

    Args:
        z: Latents (N, C), floating.
        codebook: Entries (K, C), floating, finite, below 2^126; K and C at least 1.
    """
    return _find_nearest(z.detach(), codebook.detach())


@torch.library.custom_op("vqpipe::find_nearest", mutates_args=())
def _find_nearest(z: Tensor, codebook: Tensor) -> Tensor:
    if not len(z):
        return torch.zeros(0, dtype=torch.int64, device=z.device)
    is_double = torch.float64 in (z.dtype, codebook.dtype)
    with torch.autocast(z.device.type, enabled=False), float32_products("ieee"):
        table = _make_table(codebook.to(torch.float64 if is_double else torch.float32))
        if z.is_cuda and not is_double:
            codes = _find_fused(z, codebook, table)
            if codes is not None:
                return codes
        codes, *_ = found = _search(z, table)
        codes.clamp_(max=len(codebook) - 1)  # beyond only in rows that are not finite
        doubtful = table.doubt(found).nonzero()[:, 0]
        for rows in torch.split(doubtful, _rows_at_once(table)):
            codes[rows] = _settle(z[rows], codebook, table)
    return codes


@_find_nearest.register_fake
def _(z: Tensor, _: Tensor) -> Tensor:
    """Returns what a compiler wants to know of the result: its shape, dtype and device."""
    return z.new_empty(len(z), dtype=torch.int64)


def _rows_at_once(table: _Table) -> int:
    return max(1, SCORES_AT_ONCE[table.weights.device.type] // max(table.weights.shape))


def _search(z: Tensor, table: _Table) -> Found:
    rows = _rows_at_once(table)
    buffer = table.weights.new_empty(min(rows, len(z)) * len(table.weights))
    parts = [_search_chunk(chunk, table, buffer) for chunk in torch.split(z, rows)]
    codes, leads, lengths = (torch.cat(part) for part in zip(*parts, strict=True))
    return codes, leads, lengths


def _search_chunk(z: Tensor, table: _Table, buffer: Tensor) -> Found:
    """Returns what was found for one chunk.

    `argmin` over all entries takes twice as long as scores of 4 channels: it is not vectorised,
    while `amin` over blocks is, and leaves little to search. Rows are the last axis for its sake.
    """
    scores, lengths = table.score(z, buffer)
    blocks = scores.view(-1, BLOCK, len(z))  # (K' / BLOCK, BLOCK, N)
    block, _, next_block = _take_least(blocks.amin(dim=1))
    winners = blocks.gather(0, block[None, None].expand(1, BLOCK, -1))[0]  # (BLOCK, N)
    within, best, next_within = _take_least(winners)
    return block * BLOCK + within, torch.minimum(next_block, next_within) - best, lengths


def _take_least(scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns place and score of each column's least, and the next score; overwrites the least."""
    best, place = scores.min(dim=0)
    scores.scatter_(0, place[None], torch.inf)
    return place, best, scores.amin(dim=0)


def _settle(z: Tensor, codebook: Tensor, table: _Table) -> Tensor:
    """Returns codes (N,): by float64 distance, among the entries that rounding leaves possible."""
    scores, lengths = table.score(z)
    scores = scores[: len(codebook)]
    limit = scores.amin(dim=0) + 2 * table.bound_error(lengths)
    rows, entries = (scores <= limit).T.nonzero(as_tuple=True)
    distances = torch.full((len(z), len(codebook)), torch.inf, dtype=torch.float64, device=z.device)
    pairs = max(1, SCORES_AT_ONCE[z.device.type] // z.shape[1])
    for row, entry in zip(torch.split(rows, pairs), torch.split(entries, pairs), strict=True):
        apart = z[row].double() - codebook[entry].double()  # (pairs, C)
        distances[row, entry] = apart.square_().sum(dim=1)
    return distances.argmin(dim=1)


_UNFIT: set[int] = set()
"""Numbers of channels for which no kernel could be made in this process."""


def _find_fused(z: Tensor, codebook: Tensor, table: _Table) -> Tensor | None:
    """Returns codes (N,) by triton's kernels, all of them launched; None where they cannot run.

    Kernels are made on the first call with so many channels. Whatever stops that (no C compiler, or
    Python's headers missing, which triton's launcher takes; a device with too little memory on
    chip; a triton of another version), products still work. Want of memory may pass.
    """
    kernels, dim = _load_kernels(), z.shape[1]
    if kernels is None or dim in _UNFIT:
        return None
    is_split = dim > kernels.FEW_CHANNELS
    try:
        if is_split:
            _check_sums(kernels, dim, z.device)
        found = kernels.search(z, table.weights, table.centre, table.scale)
        doubtful = table.doubt(found, is_split=is_split)
        codes = found[0].clamp_(max=len(codebook) - 1)  # beyond only in rows that are not finite
        kernels.settle(z, codebook, doubtful, codes)
    except Exception as error:
        if "out of memory" in str(error):
            raise
        _UNFIT.add(dim)
        logger.warning("the quantiser works without its fused kernel, more slowly: %s", error)
        return None
    return codes


@functools.cache
def _check_sums(kernels: Any, dim: int, device: torch.device) -> None:  # noqa: ANN401 - a module
    """Holds sums of a device's tensor cores against float64, once: how they add no one promises.

    Raises:
        ArithmeticError: If they add in another way than the bound on their error supposes.
    """
    draw = torch.Generator().manual_seed(0)
    z, codebook = (torch.randn(size, dim, generator=draw).to(device) for size in (64, 128))
    z, codebook = z.sign() + z / 1000, codebook.abs()  # terms that cancel out
    table = _make_table(codebook)
    codes, leads, lengths = kernels.search(z, table.weights, table.centre, table.scale)
    centre, scale = table.centre.double(), table.scale.double()
    rows, entries = ((x.double() - centre) * scale for x in (z, codebook))
    scores = entries.square().sum(1) / 2 - rows @ entries.T  # (N, K)
    best = scores.gather(1, codes[:, None])
    exact = scores.scatter(1, codes[:, None], torch.inf).amin(1) - best[:, 0]
    limit = 2 * table.bound_error(lengths, is_split=True)
    if not bool(((leads - exact).abs() <= limit).all()):
        raise ArithmeticError("tensor cores of this device round more than was supposed")


@functools.cache
def _load_kernels() -> Any:  # noqa: ANN401 - a module that triton's absence makes impossible
    """Returns the module of kernels, or None where there is no triton."""
    if importlib.util.find_spec("triton") is None:
        return None
    return importlib.import_module("vqpipe.vqgan.nearest_triton")
