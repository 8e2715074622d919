"""The fused kernels, run by triton's interpreter on the CPU, in a process of its own."""

import pytest
import torch

from tests.vqgan.interpreter import needs_triton, run_interpreted, takes_this_numpy
from tests.vqgan.test_nearest import KINDS
from vqpipe.vqgan.nearest import _make_table

pytestmark = [needs_triton, takes_this_numpy]

SCRIPT = """
import sys
import torch
from vqpipe.vqgan import nearest, nearest_triton
from vqpipe.vqgan.nearest_triton import search, settle

nearest_triton.NUMBERS_AT_ONCE = 1  # as few rows at once as a program has
found = {}
for name, (z, codebook) in torch.load(sys.argv[1], weights_only=True).items():
    table = nearest._make_table(codebook)
    codes, leads, lengths = search(z, table.weights, table.centre, table.scale)
    settled = nearest._find_fused(z, codebook, table)
    every = torch.full_like(codes, -1)
    settle(z[::9], codebook, torch.ones(len(z[::9]), dtype=torch.bool), every)
    found[name] = codes, leads, lengths, settled, every
assert not nearest._UNFIT
torch.save(found, sys.argv[2])
"""

SHAPES = [
    *[(1, k, c) for k in (1, 2) for c in (1, 4, 20)],
    *[(70, 300, c) for c in (1, 4, 8, 20, 64, 256)],
]


def make_cases():
    draw = torch.Generator().manual_seed(0)
    cases = {}
    for n, k, c in SHAPES:
        z, codebook = torch.randn(n, c, generator=draw), torch.randn(k, c, generator=draw)
        cases[f"{n}x{k}x{c}"] = (z, codebook)
    z, codebook = cases["70x300x8"]
    for dim in (8, 20):
        z, codebook = cases[f"70x300x{dim}"]
        cases[f"bfloat16 {dim}"] = (z.bfloat16(), codebook)
        cases[f"far_from_zero {dim}"] = (z / 100 + 100, codebook / 100 + 100)
        cases[f"strided {dim}"] = (z.T.contiguous().T, codebook)
        cases[f"midpoints {dim}"] = ((codebook[:70] + codebook[100:170]) / 2, codebook)
        cases[f"fresh_codebook {dim}"] = (z, codebook / 1e4)
        cases[f"one_huge_entry {dim}"] = (z, torch.cat([codebook, codebook[:1] * 1e4]))
        cases[f"two_copies {dim}"] = (z, torch.cat([codebook, codebook]))
        row = torch.full((1, dim), torch.nan)
        cases[f"not_finite {dim}"] = (torch.cat([z, row]), codebook)
    return cases


CASES = make_cases()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return run_interpreted(SCRIPT, CASES, tmp_path_factory.mktemp("interpreted"))


def measure_exactly(table, z, codebook):
    """Lengths (N,) and scores (N, K), more by |z|^2 / 2, in float64."""
    centre, scale = table.centre.double(), table.scale.double()
    rows, entries = (z.double() - centre) * scale, (codebook.double() - centre) * scale
    return rows.norm(dim=1), (rows[:, None] - entries).square().sum(2) / 2


@pytest.mark.parametrize("case", CASES)
def test_kernel_equals_float64_within_bound(found, case):
    z, codebook = (x[:70] if x is CASES[case][0] else x for x in CASES[case])
    codes, leads, lengths, *_ = (x[:70] for x in found[case])
    table = _make_table(codebook)
    exact_lengths, scores = measure_exactly(table, z, codebook)
    torch.testing.assert_close(lengths.double(), exact_lengths, rtol=1e-5, atol=1e-12)
    limit = 2 * table.bound_error(lengths, is_split=z.shape[1] > 8)
    least = scores.amin(1)
    assert (scores.gather(1, codes[:, None])[:, 0] - least <= limit).all()
    others = scores.scatter(1, codes[:, None], torch.inf).amin(1)
    assert ((others - least).sub(leads).nan_to_num(0).abs() <= limit).all()


@pytest.mark.parametrize("case", [name for name in CASES if name.endswith(("x20", "x64", "x256"))])
def test_kernel_is_sure_of_most_rows(found, case):
    z, codebook = CASES[case]
    codes, leads, lengths, *_ = found[case]
    table = _make_table(codebook)
    sure = ~table.doubt((codes, leads, lengths), is_split=True)
    assert sure.float().mean() > 0.9
    exact = measure_exactly(table, z, codebook)[1].argmin(1)
    assert torch.equal(codes[sure], exact[sure])


def find_exact(z, codebook):
    return (z.double()[:, None] - codebook.double()).square().sum(2).argmin(1)


@pytest.mark.parametrize("case", [name for name in CASES if not name.startswith("not_finite")])
def test_kernels_together_equal_float64(found, case):
    z, codebook = CASES[case]
    *_, settled, every = found[case]
    exact = find_exact(z, codebook)
    assert torch.equal(settled, exact)
    some = exact[::9]
    assert torch.equal(every[: len(some)], some)
    assert (every[len(some) :] == -1).all()


@pytest.mark.parametrize("dim", [8, 20])
def test_kernel_tie_takes_lower_index_and_leads_by_nothing(found, dim):
    codes, leads, *_ = found[f"two_copies {dim}"]
    assert torch.equal(codes, found[f"70x300x{dim}"][0])
    assert (leads == 0).all()


@pytest.mark.parametrize("dim", [8, 20])
def test_kernel_row_not_finite_leaves_others_alone(found, dim):
    codes, leads, lengths, settled, _ = found[f"not_finite {dim}"]
    assert torch.equal(codes[:70], found[f"70x300x{dim}"][0])
    assert torch.equal(settled[:70], found[f"70x300x{dim}"][3])
    assert 0 <= settled[70] < 300
    assert lengths[70].isnan()
    assert leads[:70].isfinite().all()


def truncate(values, unit):
    return (values / unit).trunc() * unit


def unit_of(values):
    """Returns the value of the last of 24 bits of each number; 1 for zero."""
    exponent = torch.frexp(values).exponent
    return torch.where(values == 0, 1.0, torch.ldexp(torch.ones_like(values), exponent - 24))


def add_as_tensor_cores(terms, group):
    """Returns sums over the last axis, as they are cut off on V100, T4 and A100 (Fasi et al. 2021).

    Each group of exact products and what has been summed so far lose what is below the 24th bit of
    the largest of them, and their sum what is below its own. Exact in float64.
    """
    total = torch.zeros(terms.shape[:-1], dtype=torch.float64)
    for part in terms.split(group, dim=-1):
        addends = torch.cat([total[..., None], part], -1)
        unit = unit_of(addends.abs().amax(-1))
        total = truncate(addends, unit[..., None]).sum(-1)
        total = truncate(total, unit_of(total))
    return total


def score_in_pairs(z, table, group):
    """Returns scores (N, K') as the kernel for many channels has them, and lengths of the rows."""
    from vqpipe.vqgan.nearest_triton import split

    rows = (z - table.centre) * table.scale
    largest = rows.abs().amax(1, keepdim=True).clamp(min=2.0**-100)
    factor = torch.frexp(largest).mantissa / largest
    high, low = (part.double()[:, None] for part in split(rows * factor))
    entries_high, entries_low = (part.double()[None] for part in split(table.weights[:, :-1]))
    large = add_as_tensor_cores(high * entries_high, group)
    low_terms = torch.cat([high * entries_low, low * entries_high], -1)
    small = add_as_tensor_cores(low_terms, group)
    products = (large + small).float() / factor
    return table.weights[:, -1] + products, rows.norm(dim=1)


SPREAD = {
    **KINDS,
    "cancelling": lambda z, codebook: (z.sign() + 1e-3 * z, codebook.abs()),
    "many_magnitudes": lambda z, codebook: (z * z.abs() ** 6, codebook * codebook.abs() ** 6),
}


@pytest.mark.parametrize("kind", [k for k in SPREAD if k not in {"huge", "denormal", "all_zero"}])
@pytest.mark.parametrize(("dim", "group"), [(9, 4), (64, 4), (64, 16), (256, 8)])
def test_bound_error_holds_for_products_of_pairs(kind, dim, group):
    draw = torch.Generator().manual_seed(0)
    z, codebook = (torch.randn(count, dim, generator=draw) for count in (40, 100))
    z, codebook = SPREAD[kind](z, codebook)
    table = _make_table(codebook)
    scores, lengths = score_in_pairs(z, table, group)
    centre, scale = table.centre.double(), table.scale.double()
    rows, entries = (z.double() - centre) * scale, (codebook.double() - centre) * scale
    exact = entries.square().sum(1)[None] / 2 - rows @ entries.T
    error = (scores[:, : len(codebook)].double() - exact).abs()
    assert (error <= table.bound_error(lengths, is_split=True)[:, None]).all()
