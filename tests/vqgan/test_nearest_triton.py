"""The fused kernel, run by triton's interpreter on the CPU, in a process of its own."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from tests.vqgan.interpreter import takes_this_numpy
from vqpipe.vqgan.nearest import _make_table

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("triton") is None,
        reason="needs triton, which has no build for here",
    ),
    takes_this_numpy,
]

SCRIPT = """
import sys
import torch
from vqpipe.vqgan.nearest import _make_table
from vqpipe.vqgan.nearest_triton import search

found = {}
for name, (z, codebook) in torch.load(sys.argv[1], weights_only=True).items():
    table = _make_table(codebook)
    found[name] = search(z, table.weights, table.centre, table.scale)
torch.save(found, sys.argv[2])
"""

SHAPES = [(n, k, c) for n in (1, 70) for k in (1, 2, 256, 1000) for c in (1, 4, 8, 64, 256)]


def make_cases():
    draw = torch.Generator().manual_seed(0)
    cases = {}
    for n, k, c in SHAPES:
        z, codebook = torch.randn(n, c, generator=draw), torch.randn(k, c, generator=draw)
        cases[f"{n}x{k}x{c}"] = (z, codebook)
    z, codebook = cases["70x256x8"]
    cases["bfloat16"] = (z.bfloat16(), codebook)
    cases["far_from_zero"] = (z / 100 + 100, codebook / 100 + 100)
    cases["strided"] = (z.T.contiguous().T, codebook)
    cases["two_copies"] = (z, torch.cat([codebook, codebook]))
    cases["not_finite"] = (torch.cat([z, torch.full((1, 8), torch.nan)]), codebook)
    return cases


CASES = make_cases()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interpreted")
    torch.save(CASES, folder / "cases.pt")
    command = [sys.executable, "-c", SCRIPT, folder / "cases.pt", folder / "found.pt"]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment)
    return torch.load(folder / "found.pt", weights_only=True)


def measure_exactly(table, z, codebook):
    """Lengths (N,) and scores (N, K), more by |z|^2 / 2, in float64."""
    centre, scale = table.centre.double(), table.scale.double()
    rows, entries = (z.double() - centre) * scale, (codebook.double() - centre) * scale
    return rows.norm(dim=1), (rows[:, None] - entries).square().sum(2) / 2


@pytest.mark.parametrize("case", CASES)
def test_kernel_equals_float64_within_bound(found, case):
    z, codebook = (x[:70] if x is CASES[case][0] else x for x in CASES[case])
    codes, leads, lengths = (x[:70] for x in found[case])
    table = _make_table(codebook)
    exact_lengths, scores = measure_exactly(table, z, codebook)
    torch.testing.assert_close(lengths.double(), exact_lengths, rtol=1e-5, atol=1e-12)
    limit = 2 * table.bound_error(lengths)
    least = scores.amin(1)
    assert (scores.gather(1, codes[:, None])[:, 0] - least <= limit).all()
    others = scores.scatter(1, codes[:, None], torch.inf).amin(1)
    assert ((others - least).sub(leads).nan_to_num(0).abs() <= limit).all()


@pytest.mark.parametrize("case", [name for name in CASES if name.endswith(("x64", "x256"))])
def test_kernel_is_sure_of_most_rows(found, case):
    z, codebook = CASES[case]
    codes, leads, lengths = found[case]
    table = _make_table(codebook)
    sure = leads > 2 * table.bound_error(lengths)
    assert sure.float().mean() > 0.9
    exact = measure_exactly(table, z, codebook)[1].argmin(1)
    assert torch.equal(codes[sure], exact[sure])


def test_kernel_tie_takes_lower_index_and_leads_by_nothing(found):
    codes, leads, _ = found["two_copies"]
    assert torch.equal(codes, found["70x256x8"][0])
    assert (leads == 0).all()


def test_kernel_row_not_finite_leaves_others_alone(found):
    codes, leads, lengths = found["not_finite"]
    assert torch.equal(codes[:70], found["70x256x8"][0])
    assert 0 <= codes[70] < 256
    assert lengths[70].isnan()
    assert leads[:70].isfinite().all()
