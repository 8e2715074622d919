"""Group norms of sums a channel at a time, and the kernels, the latter in triton's interpreter."""

import copy
import functools
import os
import re
import subprocess
import sys

import pytest
import torch
from torch.nn import functional

from tests.vqgan.configs import make_pair, make_pixels
from tests.vqgan.interpreter import needs_triton, run_interpreted, takes_this_numpy
from vqpipe.vqgan import fusion
from vqpipe.vqgan.fusion import fuse
from vqpipe.vqgan.group_norm import normalise_by_channel
from vqpipe.vqgan.layers import GroupNorm, SpatialNorm

SHAPES = {
    "published_128": (1, 128, 16, 32, 32),
    "published_512": (2, 512, 4, 4, 32),
    "published_768": (1, 768, 4, 4, 32),
    "odd_grid": (2, 96, 9, 7, 8),
    "one_place": (1, 64, 1, 1, 32),
    "many_parts": (1, 256, 31, 33, 32),
}


def ordinary(x):
    return x


def far_from_zero(x):
    return x + 1000


def channels_far_apart(x):
    apart = torch.linspace(-1000, 1000, x.shape[1])
    return x + apart[:, None, None]


def odd_corner(x):
    """Padding makes corners unlike the rest: thirty deviations off, in the first place of all."""
    x[:, :, 0, 0] += 30
    return x


def dark_border(x):
    """A third of the image has one value, from the first place on."""
    x[:, :, : -(-x.shape[2] // 3)] = -20
    return x


DATA = {
    f.__name__: f for f in (ordinary, far_from_zero, channels_far_apart, odd_corner, dark_border)
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def make_case(shape, data, dtype):
    *size, groups = SHAPES[shape]
    draw = torch.Generator().manual_seed(len(shape) + len(data))
    x = DATA[data](torch.randn(*size, generator=draw))
    before, weight, bias = torch.randn(3, size[1], generator=draw)
    tensors = (x.contiguous(memory_format=torch.channels_last), weight, bias, before)
    return (*(tensor.to(DTYPES[dtype]) for tensor in tensors), groups)


def normalise_exactly(x, weight, bias, before, groups):
    """Returns the norm, in float64, and how far float32 may be from it.

    With u = 2^-24. A mean errs by a few u of itself, and so does its product with the factor, from
    which a value far from zero is subtracted: 8 u times the largest value in standard deviations.
    A factor errs by half of what a variance does, whose bound in `group_norm_triton` is 4 (n + 2)
    (1 + k^2) u; n is 16 in all shapes here, and k, the distance of first values in standard
    deviations, such that 1 + k^2 is below 8. The sums of `group_norm` have shorter chains.
    """
    x = x.double() + before.double()[:, None, None]
    weight, bias = weight.double(), bias.double()
    exact = functional.group_norm(x, groups, weight, bias, 1e-6)
    parts = x.reshape(x.shape[0], groups, -1)
    spread = (parts.var(2, correction=0) + 1e-6).sqrt()
    ratio = (parts.abs().amax(2) / spread).repeat_interleave(x.shape[1] // groups, 1)
    weight, bias = weight.abs()[:, None, None], bias[:, None, None]
    of_mean, of_factor = 8 * ratio[:, :, None, None] * weight, 2 * 18 * 8 * (exact - bias).abs()
    return exact, 2.0**-24 * (of_mean + of_factor + 2 * bias.abs())


def rounding_of(dtype, exact):
    """Half a place of the last digit of a result in this dtype, and of its least numbers."""
    info = torch.finfo(dtype)
    return exact.abs() * info.eps / 2 + info.smallest_normal * info.eps


def assert_within(actual, exact, error, *, is_cut=False):
    """Asserts an error; a result that is cut off instead of rounded may be twice as far away."""
    error = error + rounding_of(actual.dtype, exact) * (2 if is_cut else 1)
    worst = ((actual.double() - exact).abs() / error).max()
    assert worst <= 1, f"{worst:.2f} of what rounding explains"


def silu_exactly(exact, error):
    """SiLU in float64 and its error: its slope is at most 1.1; exp(-v) errs by |v| u and 4 u."""
    own = 2.0**-24 * (exact.abs() + 8) * functional.silu(exact).abs()
    return functional.silu(exact), 1.1 * error + own


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("shape", SHAPES)
def test_normalise_by_channel_equals_float64_within_rounding(shape, data, dtype):
    x, weight, bias, before, groups = make_case(shape, data, dtype)
    norm = torch.nn.GroupNorm(groups, len(weight), eps=1e-6)
    norm.weight.data, norm.bias.data = weight, bias
    with torch.no_grad():
        found = normalise_by_channel(x, norm, before)
    assert (found.dtype, found.shape) == (x.dtype, x.shape)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert_within(found, *normalise_exactly(x, weight, bias, before, groups))


SCRIPT = """
import sys
import torch
from vqpipe.vqgan.group_norm_triton import normalise, normalise_spatially

found = {}
for name, (x, weight, bias, before, spatial, groups) in torch.load(sys.argv[1]).items():
    plain = normalise(x, weight, bias, before, groups, 1e-6, False)
    active = normalise(x, weight, bias, before, groups, 1e-6, True)
    moved = None
    if spatial is not None:
        moved = normalise_spatially(x, weight, bias, before, *spatial, groups, 1e-6, True)
    found[name] = (plain, active, moved)
torch.save(found, sys.argv[2])
"""


def make_spatial(x, factor):
    draw = torch.Generator().manual_seed(factor)
    shape = (*x.shape[:2], x.shape[2] // factor, x.shape[3] // factor)
    return tuple(torch.randn(*shape, generator=draw).to(x.dtype) for _ in range(2))


def make_kernel_cases():
    """All shapes and data, in one dtype or the other; spatial where the grid can be halved."""
    cases = {}
    for i, (shape, data) in enumerate((shape, data) for shape in SHAPES for data in DATA):
        x, weight, bias, before, groups = make_case(shape, data, list(DTYPES)[i % 3])
        factor = 4 if x.shape[2] % 4 == 0 else 1
        before = None if i % 4 == 3 else before
        cases[f"{shape}-{data}"] = (x, weight, bias, before, make_spatial(x, factor), groups)
    return cases


CASES = make_kernel_cases()
FEW = {case for number, case in enumerate(CASES) if number % 8 in (0, 3)}
"""All shapes, data and dtypes, and the hardest data of many parts; the interpreter is slow."""


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory):
    """Returns what the kernels give of the few cases, or of all others."""

    @functools.cache
    def run(are_few):
        cases = {name: case for name, case in CASES.items() if (name in FEW) == are_few}
        return run_interpreted(SCRIPT, cases, tmp_path_factory.mktemp("interpreted"))

    return run


@needs_triton
@takes_this_numpy
@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.soak] * (case not in FEW)) for case in CASES]
)
def test_kernels_equal_float64_within_rounding(interpreted, case):
    x, weight, bias, before, (scale, shift), groups = CASES[case]
    plain, active, moved = interpreted(case in FEW)[case]
    for each in (plain, active, moved):
        assert (each.dtype, each.shape) == (x.dtype, x.shape)
        assert each.is_contiguous(memory_format=torch.channels_last)
    before = torch.zeros_like(bias) if before is None else before
    exact, error = normalise_exactly(x, weight, bias, before, groups)
    is_cut = x.dtype == torch.bfloat16  # by triton's interpreter (3.7); a GPU rounds (F2FP.BF16)
    assert_within(plain, exact, error, is_cut=is_cut)
    assert_within(active, *silu_exactly(exact, error), is_cut=is_cut)
    size = x.shape[2:]
    scale, shift = (functional.interpolate(each.double(), size=size) for each in (scale, shift))
    moved_exactly = exact * scale + shift
    error = error * scale.abs() + 2.0**-23 * (moved_exactly.abs() + (exact * scale).abs())
    assert_within(moved, *silu_exactly(moved_exactly, error), is_cut=is_cut)


def make_plain(name):
    """A network that lies channels-last, as the codec's; of that alone, convolutions round anew."""
    return copy.deepcopy(make_pair(name)[1]).to(memory_format=torch.channels_last)


def set_form(model, form):
    model = copy.deepcopy(model)
    for layer in model.modules():
        if isinstance(layer, GroupNorm | SpatialNorm):
            layer.form = form
    return model


def assert_as_exact(found, plain, run):
    """Asserts that float32 errs, root mean square, by no more than twice what torch's form does."""
    exact = run(copy.deepcopy(plain).double())
    errors = [(each.double() - exact).square().mean().sqrt() for each in (found, run(plain))]
    assert errors[0] <= 2 * errors[1]


@pytest.mark.parametrize("name", ["movq", "vq_diffusion", "gelu", "other_groups", "amused"])
@torch.no_grad()
def test_network_of_norms_by_channel_gives_codes_and_pixels_of_the_plain_one(name):
    plain, pixels = make_plain(name), make_pixels(name)
    ours = set_form(plain, "by_channel")
    codes = plain.encode_to_codes(pixels)
    assert torch.equal(ours.encode_to_codes(pixels), codes)
    assert_as_exact(ours.decode_codes(codes), plain, lambda model: model.decode_codes(codes))


def test_network_with_gradients_keeps_the_plain_form():
    plain = make_pair("spatial_attention_everywhere")[1]
    ours, pixels = set_form(plain, "by_channel"), make_pixels("movq", 1, 16, 16)
    losses = [model(pixels).sample.square().mean() for model in (plain, ours)]
    assert torch.equal(*losses)
    gradients = (
        torch.autograd.grad(loss, model.encoder.conv_in.weight)[0]
        for loss, model in zip(losses, (plain, ours), strict=True)
    )
    assert torch.equal(*gradients)


def test_fuse_on_a_cpu_changes_nothing():
    model = copy.deepcopy(make_pair("movq")[1])
    fuse(model)
    assert {layer.form for layer in model.modules() if hasattr(layer, "form")} == {"torch"}
    assert not any(getattr(layer, "multiplies", False) for layer in model.modules())
    assert list(model.state_dict()) == list(make_pair("movq")[1].state_dict())


class OutOfResourcesError(Exception):
    """What triton raises of a GPU that is too small is no RuntimeError."""


@needs_triton
@pytest.mark.parametrize("error", [OutOfResourcesError, RuntimeError, TypeError])
def test_kernels_that_do_not_run_leave_norms_to_torchs_operators(error, monkeypatch):
    monkeypatch.setattr(fusion, "normalise", raising(error))
    asked = (torch.device("cpu"), torch.bfloat16, (128, 32), True)
    assert not fusion._try_kernels.__wrapped__(*asked)


@needs_triton
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError, "on purpose"),
        (RuntimeError, "Triton Error [CUDA]: out of memory"),
    ],
)
def test_memory_that_is_short_says_nothing_of_kernels(monkeypatch, error, message):
    monkeypatch.setattr(fusion, "normalise", raising(error, message))
    with pytest.raises(error, match=re.escape(message)):
        fusion._try_kernels.__wrapped__(torch.device("cpu"), torch.float32, (128, 32), False)


def raising(error, message="on purpose"):
    def run(*_):
        raise error(message)

    return run


SCRIPT_OF_NETWORK = """
import sys
import torch
from vqpipe.vqgan import VQModel

fields, state, pixels, codes = torch.load(sys.argv[1])
model = VQModel(**fields).eval()
model.load_state_dict(state)
model.to(memory_format=torch.channels_last)
for layer in model.modules():
    if hasattr(layer, "form"):
        layer.form = "kernel"
with torch.no_grad():
    torch.save((model.encode(pixels).latents, model.decode_codes(codes)), sys.argv[2])
"""


@needs_triton
@takes_this_numpy
@pytest.mark.soak
@pytest.mark.parametrize("name", ["spatial_attention_everywhere", "mish"])
@torch.no_grad()
def test_network_of_kernels_gives_latents_and_pixels_of_the_plain_one(name, tmp_path):
    plain, pixels = make_plain(name), make_pixels(name, 1, 16, 16)
    codes = plain.encode_to_codes(pixels)
    torch.save((dict(plain.config), plain.state_dict(), pixels, codes), tmp_path / "in.pt")
    command = [sys.executable, "-c", SCRIPT_OF_NETWORK, tmp_path / "in.pt", tmp_path / "out.pt"]
    subprocess.run(command, check=True, env=os.environ | {"TRITON_INTERPRET": "1"})
    latents, decoded = torch.load(tmp_path / "out.pt")
    assert_as_exact(latents, plain, lambda model: model.encode(pixels.to(model.dtype)).latents)
    assert_as_exact(decoded, plain, lambda model: model.decode_codes(codes))
