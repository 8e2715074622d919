"""The forms that only inference in one graph on CUDA has, there, at published widths."""

import copy

import pytest
import torch
from torch.nn import functional

from tests.vqgan.published import PUBLISHED
from tests.vqgan.test_group_norm import (
    DATA,
    assert_within,
    make_spatial,
    normalise_exactly,
    silu_exactly,
)
from vqpipe.vqgan import VQModel
from vqpipe.vqgan.attention import attend_by_products, can_multiply
from vqpipe.vqgan.fusion import fuse
from vqpipe.vqgan.layers import Attention, GroupNorm, SpatialNorm

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def compile_whole(run):
    return torch.compile(run, dynamic=False, fullgraph=True)


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def build(name, dtype=torch.float32):
    torch.manual_seed(0)
    model = VQModel(**PUBLISHED[name]).eval().requires_grad_(False)
    return model.to("cuda", dtype).to(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("dtype", DTYPES)
def test_fuse_gives_every_norm_of_published_networks_the_kernels(name, dtype):
    pytest.importorskip("triton")
    model = build(name, dtype)
    keys = list(model.state_dict())
    fuse(model)
    norms = [layer for layer in model.modules() if isinstance(layer, GroupNorm | SpatialNorm)]
    assert {norm.form for norm in norms} == {"kernel"}
    attentions = [layer for layer in model.modules() if isinstance(layer, Attention)]
    assert all(layer.multiplies == can_multiply(model.device) for layer in attentions)
    assert list(model.state_dict()) == keys


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize(("channels", "side"), [(128, 64), (256, 31), (512, 8), (768, 9)])
def test_compiled_kernels_equal_float64_within_rounding(channels, side, data, dtype):
    pytest.importorskip("triton")
    from vqpipe.vqgan.group_norm_triton import normalise, normalise_spatially

    torch.manual_seed(0)
    x = DATA[data](torch.randn(2, channels, side, side)).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    weight, bias, before = torch.randn(3, channels).to(dtype)
    scale, shift = make_spatial(x, 1 if side % 4 else 4)
    exact, error = normalise_exactly(x, weight, bias, before, 32)
    on_cuda = [each.cuda() for each in (x, weight, bias, before)]
    plain = compile_whole(lambda *each: normalise(*each, 32, 1e-6, False))(*on_cuda)
    assert_within(plain.cpu(), exact, error)
    active = compile_whole(lambda *each: normalise(*each, 32, 1e-6, True))(*on_cuda)
    assert_within(active.cpu(), *silu_exactly(exact, error))
    moved = compile_whole(lambda *each: normalise_spatially(*each, 32, 1e-6, True))(
        *on_cuda, scale.cuda(), shift.cuda()
    )
    scale, shift = (
        functional.interpolate(each.double(), size=x.shape[2:]) for each in (scale, shift)
    )
    moved_exactly = exact * scale + shift
    error = error * scale.abs() + 2.0**-23 * (moved_exactly.abs() + (exact * scale).abs())
    assert_within(moved.cpu(), *silu_exactly(moved_exactly, error))


def test_kernels_past_two_to_the_31_numbers_equal_those_of_each_image():
    pytest.importorskip("triton")
    from vqpipe.vqgan.group_norm_triton import normalise

    x = torch.randn(3, 128, 2048, 4096, device="cuda", dtype=torch.bfloat16)  # 3 * 2^30
    x = x.to(memory_format=torch.channels_last)
    weight, bias = torch.randn(2, 128, device="cuda", dtype=torch.bfloat16)
    whole = normalise(x, weight, bias, None, 32, 1e-6, True)
    last = normalise(x[2:], weight, bias, None, 32, 1e-6, True)
    assert torch.equal(whole[2:], last)


def errors_of(plain, run):
    """Root mean square errors of the fused, compiled form and of the plain one, against float64."""
    fused = copy.deepcopy(plain)
    fuse(fused)
    with torch.inference_mode():
        exact = run(copy.deepcopy(plain).double())
        compiled = compile_whole(lambda: run(fused))
        return [(each.double() - exact).square().mean().sqrt() for each in (compiled(), run(plain))]


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("dtype", DTYPES)
def test_compiled_network_is_no_further_from_float64_than_the_eager_one(name, dtype):
    """Fused forms round less often; twice the error leaves room for chance."""
    model = build(name, dtype)
    pixels = torch.rand(2, 3, 128, 128, device="cuda").to(memory_format=torch.channels_last)
    codes = torch.randint(model.config.num_vq_embeddings, (2, 16, 16), device="cuda")

    def latents_of(model):
        return model.encode(pixels.to(model.dtype)).latents

    def pixels_of(model):
        vectors = model.quantize.embedding(codes).permute(0, 3, 1, 2)
        return model.decode_quantized(vectors)

    for run in (latents_of, pixels_of):
        fused, eager = errors_of(model, run)
        assert fused <= 2 * eager


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("places", [256, 1024, 4096])
def test_products_equal_float64_within_rounding(places, dtype):
    if not can_multiply(torch.device("cuda")):
        pytest.skip("torch's own attention is kept on this GPU")
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, places, 512, device="cuda").to(dtype)
    exact = (q.double() @ k.double().mT / 512**0.5).softmax(2) @ v.double()
    weights = (q.double() @ k.double().mT / 512**0.5).softmax(2)
    found = compile_whole(attend_by_products)(q, k, v).double()
    # Weights are rounded, u each, and the result; sums in float32 are far below that.
    unit = torch.finfo(dtype).eps / 2
    limit = unit * (weights @ v.double().abs() + exact.abs()) * 1.1 + torch.finfo(dtype).tiny
    assert ((found - exact).abs() <= limit).all()
