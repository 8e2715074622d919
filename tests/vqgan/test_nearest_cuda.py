import pytest
import torch

from tests.benchmarks.nearest import measure_peak
from vqpipe.vqgan import nearest
from vqpipe.vqgan.nearest import find_nearest

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

SHAPES = [
    *[(5000, 16384, 4), (1000, 8192, 64), (500, 16384, 256), (77, 1, 8), (300, 1000, 1)],
    *[(300, 1000, 3), (300, 1000, 9), (300, 1000, 40), (100, 500, 512), (100, 500, 700)],
]


@pytest.fixture(params=["fused", "products"])
def search(request, monkeypatch):
    """Both ways to search on a GPU; whatever else uses it may have TF32 on."""
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", True)
    if request.param == "products":
        monkeypatch.setattr(nearest, "_load_kernels", lambda: None)
    return request.param


def find_exact(z, codebook):
    rows = torch.split(z.double(), max(1, 2**25 // codebook.numel()))
    codebook = codebook.double()
    return torch.cat([(row[:, None] - codebook).square().sum(2).argmin(1) for row in rows])


def draw(*shape):
    return torch.randn(*shape, device="cuda")


@pytest.mark.parametrize("dim", [1, 3, 4, 8, 9, 16, 64, 256, 512])
def test_kernels_of_so_many_channels_can_be_made(dim):
    pytest.importorskip("triton")
    z, codebook = draw(100, dim), draw(1000, dim)
    assert nearest._find_fused(z, codebook, nearest._make_table(codebook)) is not None
    assert not nearest._UNFIT


@pytest.mark.parametrize("dim", [4, 64])
def test_find_nearest_has_the_host_wait_for_nothing(dim):
    z, codebook = draw(1000, dim), draw(1000, dim)
    find_nearest(z, codebook)  # makes kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        codes = find_nearest(z, codebook)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(codes, find_exact(z, codebook))


@pytest.mark.parametrize("dim", [4, 256])
def test_find_nearest_where_every_row_is_in_doubt_equals_float64(dim):
    codebook = draw(500, dim)[:1].expand(500, -1)
    assert (find_nearest(draw(2000, dim), codebook) == 0).all()


@pytest.mark.usefixtures("search")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("count", "size", "dim"), SHAPES)
def test_find_nearest_equals_float64(count, size, dim, dtype):
    torch.manual_seed(0)
    z, codebook = draw(count, dim).to(dtype), draw(size, dim)
    for rows, entries in ((z, codebook), (z, torch.cat([codebook, codebook]))):
        assert torch.equal(find_nearest(rows, entries), find_exact(rows, entries))


@pytest.mark.usefixtures("search")
def test_find_nearest_near_ties_equal_float64():
    torch.manual_seed(0)
    codebook = draw(2000, 8)
    z = (codebook[torch.randint(2000, (500,))] + codebook[torch.randint(2000, (500,))]) / 2
    assert torch.equal(find_nearest(z, codebook), find_exact(z, codebook))
    z, codebook = 100 + z / 100, 100 + codebook / 100
    assert torch.equal(find_nearest(z, codebook), find_exact(z, codebook))


@pytest.mark.usefixtures("search")
@pytest.mark.parametrize("dim", [4, 256])
def test_find_nearest_large_batch_stays_within_256_mb(dim):
    z, codebook = draw(128 * 32 * 32, dim), draw(16384, dim)
    find_nearest(z[:100], codebook)
    assert measure_peak(lambda: find_nearest(z, codebook), "cuda") < 256e6
