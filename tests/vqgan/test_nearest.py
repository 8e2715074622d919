import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vqpipe.vqgan import VQModel, nearest
from vqpipe.vqgan.nearest import find_nearest

DEMO = Path(__file__).parents[2] / "infra/demo/checkpoint"


def draw(count, dim, seed=0):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def find_exact(z, codebook):
    """The definition, in float64: squared differences, summed; argmin takes the first least."""
    rows = torch.split(z.double(), max(1, 2**21 // codebook.numel()))
    codebook = codebook.double()
    return torch.cat([(row[:, None] - codebook).square().sum(2).argmin(1) for row in rows])


def draw_midpoints(z, codebook):
    """Rows halfway between two entries, as far as float32 can say: either may be nearer."""
    pick = torch.randint(len(codebook), (2, len(z)), generator=torch.Generator().manual_seed(2))
    return codebook[pick].mean(0), codebook


KINDS = {
    "gaussian": lambda z, codebook: (z, codebook),
    "on_entries": lambda z, codebook: (codebook[torch.arange(len(z)) % len(codebook)], codebook),
    "near_entries": lambda z, codebook: (
        codebook[torch.arange(len(z)) % len(codebook)] + 1e-6 * z,
        codebook,
    ),
    "midpoints": draw_midpoints,
    "far_from_zero": lambda z, codebook: (100 + 0.01 * z, 100 + 0.01 * codebook),
    "rows_far_away": lambda z, codebook: (1e5 * z, codebook),
    "fresh_codebook": lambda z, codebook: (z, codebook / 1e4),
    "one_huge_entry": lambda z, codebook: (z, torch.cat([codebook, codebook[:1] * 1e4])),
    "huge": lambda z, codebook: (1e30 * z, 1e30 * codebook),
    "tiny": lambda z, codebook: (1e-30 * z, 1e-30 * codebook),
    "denormal": lambda z, codebook: (1e-40 * z, 1e-40 * codebook),
    "on_a_grid": lambda z, codebook: (z.round(), codebook.round()),
    "two_copies": lambda z, codebook: (z, torch.cat([codebook, codebook])),
    "all_zero": lambda z, codebook: (1000 * z, 0 * codebook),
    "all_equal": lambda z, codebook: (z, codebook[:1].expand(len(codebook), -1)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("count", "size", "dim"),
    [(300, 500, 1), (300, 1000, 4), (200, 257, 8), (100, 128, 64), (60, 300, 256), (50, 1, 3)],
)
def test_find_nearest_equals_float64(kind, count, size, dim):
    z, codebook = KINDS[kind](draw(count, dim), draw(size, dim, seed=1))
    assert torch.equal(find_nearest(z, codebook), find_exact(z, codebook))


@pytest.mark.parametrize(("count", "size", "dim"), [(1000, 16384, 4), (300, 8192, 64)])
def test_find_nearest_large_codebook_equals_float64(count, size, dim):
    z, codebook = draw(count, dim), draw(size, dim, seed=1)
    assert torch.equal(find_nearest(z, codebook), find_exact(z, codebook))


def test_find_nearest_trained_codebook_equals_float64():
    model = VQModel.from_pretrained(DEMO)
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3)) * 2 - 1
    with torch.inference_mode():
        z = model.encode(pixels).latents.permute(0, 2, 3, 1).flatten(0, 2)
        codebook = model.quantize.embedding.weight
        assert torch.equal(find_nearest(z, codebook), find_exact(z, codebook))


@pytest.mark.parametrize("kind", ["gaussian", "midpoints", "far_from_zero", "one_huge_entry"])
@pytest.mark.parametrize("dim", [1, 4, 64, 256])
def test_bound_error_holds_for_float32_scores(kind, dim):
    z, codebook = KINDS[kind](draw(200, dim), draw(500, dim, seed=1))
    table = nearest._make_table(codebook)
    scores, lengths = table.score(z)
    rows, entries = (
        (x.double() - table.centre.double()) * table.scale.double() for x in (z, codebook)
    )
    exact = entries.square().sum(1)[:, None] / 2 - entries @ rows.T
    error = (scores[: len(codebook)].double() - exact).abs()
    assert (error <= table.bound_error(lengths)).all()


@pytest.mark.parametrize("scores", [1, 5000, 10**7])
@pytest.mark.parametrize("kind", ["gaussian", "midpoints"])
def test_find_nearest_any_chunk_gives_same_codes(monkeypatch, scores, kind):
    z, codebook = KINDS[kind](draw(300, 8), draw(256, 8, seed=1))
    whole = find_nearest(z, codebook)
    monkeypatch.setitem(nearest.SCORES_AT_ONCE, "cpu", scores)
    assert torch.equal(find_nearest(z, codebook), whole)


def test_find_nearest_tie_takes_lower_index():
    codebook = torch.tensor([[9.0, 9.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])
    z = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 5.0], [-1.0, 0.0]])
    assert find_nearest(z, codebook).tolist() == [1, 1, 1, 2]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_find_nearest_reduced_precision_is_taken_as_it_is(dtype):
    z, codebook = draw(300, 4).to(dtype), draw(500, 4, seed=1).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(find_nearest(z, codebook), find_exact(z, codebook))
        assert torch.equal(find_nearest(z, codebook.float()), find_exact(z, codebook))


def test_find_nearest_float64_is_measured_in_float64():
    codebook = torch.tensor([[1.0], [1.0 + 1e-12]], dtype=torch.float64)
    assert find_nearest(codebook.flip(0), codebook).tolist() == [1, 0]
    assert find_nearest(codebook.flip(0), torch.ones(2, 1)).tolist() == [0, 0]


def test_find_nearest_strided_input_equals_contiguous():
    z, codebook = draw(4, 300).T, draw(8, 200, seed=1).T[:, ::2]
    assert torch.equal(find_nearest(z, codebook), find_nearest(z.contiguous(), codebook.clone()))


def test_find_nearest_no_latents_gives_no_codes():
    codes = find_nearest(torch.zeros(0, 4), draw(10, 4))
    assert codes.shape == (0,)
    assert codes.dtype == torch.int64


@pytest.mark.parametrize("size", [1, 10, 64])
def test_find_nearest_row_not_finite_leaves_others_alone(size):
    z, codebook = draw(200, 4), draw(size, 4, seed=1)
    broken = z.clone()
    broken[3] = torch.nan
    broken[50, 2] = torch.inf
    broken[51] = -torch.inf
    broken[52] = 3e38
    codes, whole = find_nearest(broken, codebook), (broken == z).all(1)
    assert torch.equal(codes[whole], find_exact(z, codebook)[whole])
    assert 0 <= codes.min() <= codes.max() < size


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_find_nearest_keeps_precision_flags_and_ignores_them(precision):
    z, codebook = draw(200, 64), draw(500, 64, seed=1)
    torch.set_float32_matmul_precision(precision)
    try:
        assert torch.equal(find_nearest(z, codebook), find_exact(z, codebook))
        assert torch.get_float32_matmul_precision() == precision
        assert torch.backends.cuda.matmul.allow_tf32 == (precision != "highest")
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
def test_find_nearest_large_batch_stays_within_256_mb():
    script = """
import torch
from vqpipe.vqgan.nearest import find_nearest
from tests.benchmarks.nearest import measure_peak
torch.manual_seed(0)
find_nearest(torch.randn(8, 4), torch.randn(8, 4))
z, codebook = torch.randn(128 * 32 * 32, 4), torch.randn(16384, 4)
print(measure_peak(lambda: find_nearest(z, codebook), "cpu"))
"""
    command = [sys.executable, "-c", script]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    assert int(ran.stdout) < 256e6


class Kernels:
    """Stands for the module of kernels; finds what the products find, or raises."""

    FEW_CHANNELS = 8

    def __init__(self, error=None):
        self.error, self.calls = error, 0

    def search(self, z, weights, centre, scale):
        self.calls += 1
        if self.error:
            raise self.error
        return nearest._search(z, nearest._Table(weights, centre, scale, weights.new_ones(())))

    def settle(self, z, codebook, doubtful, codes):
        codes[doubtful] = find_exact(z[doubtful], codebook)


@pytest.fixture
def kernels(monkeypatch):
    found = Kernels()
    monkeypatch.setattr(nearest, "_load_kernels", lambda: found)
    monkeypatch.setattr(nearest, "_UNFIT", set())
    return found


def find_fused(z, codebook):
    return nearest._find_fused(z, codebook, nearest._make_table(codebook))


def test_find_fused_settles_what_the_kernels_doubt(kernels):
    z, codebook = draw_midpoints(draw(300, 4), draw(500, 4, seed=1))
    assert torch.equal(find_fused(z, codebook), find_exact(z, codebook))
    assert kernels.calls == 1


class OutOfResources(Exception):  # noqa: N818 - triton's name for it, which is no RuntimeError
    pass


@pytest.mark.parametrize("error", [OutOfResources("shared memory"), RuntimeError("no compiler")])
def test_find_fused_kernel_that_cannot_be_made_is_told_once_and_not_tried_again(
    kernels, caplog, error
):
    kernels.error = error
    z, codebook = draw(10, 4), draw(20, 4, seed=1)
    assert find_fused(z, codebook) is None
    assert find_fused(z, codebook) is None
    assert (kernels.calls, len(caplog.records)) == (1, 1)
    assert str(error) in caplog.text
    kernels.error = None
    assert find_fused(draw(10, 5), draw(20, 5)) is not None  # a kernel of its own


def test_find_fused_want_of_memory_is_no_reason_to_give_the_kernel_up(kernels):
    kernels.error = RuntimeError("Triton Error [CUDA]: out of memory")
    z, codebook = draw(10, 4), draw(20, 4, seed=1)
    with pytest.raises(RuntimeError, match="out of memory"):
        find_fused(z, codebook)
    kernels.error = None
    assert torch.equal(find_fused(z, codebook), find_exact(z, codebook))


@pytest.mark.parametrize("dim", [4, 64])
def test_find_fused_asks_for_no_number_of_the_device(monkeypatch, dim):
    """A tensor without numbers raises where the host would have to wait for one."""

    class OnMeta(Kernels):
        def search(self, z, weights, *_):
            return z.new_empty(len(z), dtype=torch.int64), *weights.new_empty(2, len(z))

        def settle(self, *_):
            pass

    monkeypatch.setattr(nearest, "_load_kernels", OnMeta)
    monkeypatch.setattr(nearest, "_check_sums", lambda *_: None)  # it asks, the first time
    monkeypatch.setattr(nearest, "_UNFIT", set())
    z, codebook = (torch.empty(count, dim, device="meta") for count in (100, 300))
    assert find_fused(z, codebook).shape == (100,)
    with pytest.raises((NotImplementedError, RuntimeError)):
        (z > 0).nonzero()


@pytest.mark.parametrize(("bits", "is_found"), [(24, True), (14, False)])
def test_find_fused_of_tensor_cores_that_add_too_coarsely_is_left_to_products(
    kernels, monkeypatch, caplog, bits, is_found
):
    def search(z, *table):
        codes, leads, lengths = Kernels.search(kernels, z, *table)
        mantissa, exponent = torch.frexp(lengths)  # sums cut off at so many bits
        unit = torch.ldexp(torch.ones_like(mantissa), exponent - bits)
        return codes, (leads / unit).trunc() * unit, lengths

    monkeypatch.setattr(kernels, "search", search)
    z, codebook = draw(40, 64), draw(100, 64, seed=1)
    assert (find_fused(z, codebook) is not None) == is_found
    assert ("round more" in caplog.text) != is_found
