"""The codec on a GPU. What a CPU can do runs there too, small, so that no test is new to a GPU.

The oracle is the codec on the CPU, which other tests hold against diffusers.
"""

import gc
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.codec.test_codec import DEMO, random_images, weights_of
from tests.vqgan.configs import make_random
from tests.vqgan.published import PUBLISHED
from vqpipe.codec.codec import Codec
from vqpipe.codec.config import CodecConfig
from vqpipe.codec.weights import Weights
from vqpipe.metrics import mean_psnr
from vqpipe.stages.latents import to_float32
from vqpipe.vector_layout import VectorLayout
from vqpipe.vqgan import VQModel
from vqpipe.vqgan.checkpoint import write_state

ON_CUDA = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
NARROW = {
    "MoVQ f8": "movq",
    "aMUSEd f16": "amused",
    "LDM f4": "ldm_f4",
    "taming f16": "vq_diffusion",
}
on_cuda = [pytest.param("cuda", marks=ON_CUDA)]
on_both = pytest.mark.parametrize("device", ["cpu", *on_cuda])
both_ways = pytest.mark.parametrize("how", ["eager", "compiled"])


@pytest.fixture(scope="module", params=["demo", "random"])
def weights(request):
    """One that is trained, and one that is random and of other groups."""
    if request.param == "demo":
        return weights_of(DEMO)
    return weights_of_model(make_random("other_groups"))


def weights_of_model(model):
    return Weights(write_state(model.config, model.state_dict()), "random")


def make_wide(name):
    """Returns weights of a published architecture, random, with entries far from each other."""
    torch.manual_seed(0)
    model = VQModel(**PUBLISHED[name]).eval()
    torch.nn.init.normal_(model.quantize.embedding.weight)
    return weights_of_model(model)


def codec_on(device, weights, batch_size, how="eager", kind=Codec, dtype="float32"):
    """Returns a codec of so many images a batch; on a CPU too, where it would take one."""
    config = CodecConfig(dtype=dtype, eager=how == "eager")
    codec = kind(weights, config, device=device, batch_size=batch_size)
    codec.batch_size = batch_size
    return codec


def random_codes(weights, count, grid):
    rng = np.random.default_rng(0)
    return rng.integers(0, weights.description.codebook_size, (count, *grid))


@on_both
@both_ways
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_codec_on_a_device_gives_the_vectors_of_the_cpu(weights, device, how, dtype):
    images = random_images(12)
    wanted = [VectorLayout(name, (0, 0, 0), dtype) for name in ("latents", "quantized")]
    codec = codec_on(device, weights, 5, how)
    codes, _, *found = codec.encode_vectors(images, wanted)
    expected, _, *known = Codec(weights, CodecConfig()).encode_vectors(images, wanted)
    assert np.array_equal(codes, codec.encode(images)[0])
    same = (codes == expected)[:, None]
    for mine, theirs in zip(found, known, strict=True):
        a, b = to_float32(mine, dtype), to_float32(theirs, dtype)
        np.testing.assert_allclose(a * same, b * same, rtol=2**-7, atol=1e-3 * np.abs(b).max())
    pixels, _ = codec.decode(codes)
    decoded, _ = codec.decode_quantized(to_float32(found[1], dtype))
    assert np.abs(decoded.astype(int) - pixels).max() <= 4


@on_both
def test_codec_on_a_device_mostly_agrees_with_the_cpu(weights, device):
    images = random_images(64)
    codec = codec_on(device, weights, 32)
    codes, finite = codec.encode(images)
    expected, _ = Codec(weights, CodecConfig()).encode(images)
    assert finite.all()
    assert (codes == expected).mean() > 0.999
    assert np.array_equal(codec.encode(images[32:])[0], codes[32:])


@pytest.mark.parametrize("device", on_cuda)
@pytest.mark.parametrize("dtype", ["float32", "tf32", "bfloat16", "float16"])
@both_ways
def test_codec_on_a_device_codes_are_equal_for_any_neighbours(dtype, how, device):
    assert_neighbours_change_nothing(codec_on(device, weights_of(DEMO), 16, how, dtype=dtype), 64)


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize(
    ("device", "how"),
    [
        ("cpu", "eager"),
        pytest.param("cuda", "eager", marks=ON_CUDA),
        pytest.param("cuda", "compiled", marks=[*ON_CUDA, pytest.mark.slow]),
    ],
)
def test_codec_codes_at_published_widths_are_equal_for_any_neighbours(name, device, how):
    if device == "cpu":  # no wider than it can bear
        codec = codec_on(device, weights_of_model(make_random(NARROW[name])), 4, how)
        return assert_neighbours_change_nothing(codec, 32)
    codec = codec_on(device, make_wide(name), 64, how, dtype="bfloat16")
    return assert_neighbours_change_nothing(codec, 256)


def assert_neighbours_change_nothing(codec, side):
    """Two and a half batches, in another order, and some alone at the first place of theirs."""
    count = codec.batch_size * 5 // 2
    images = random_images(count, side, side)
    codes, finite = codec.encode(images)
    order = np.random.default_rng(3).permutation(count)
    assert finite.all()
    assert len(np.unique(codes)) > 8
    assert np.array_equal(codec.encode(images[order])[0], codes[order])
    for i in (0, codec.batch_size - 1, count - 1):
        assert np.array_equal(codec.encode(images[i : i + 1])[0], codes[i : i + 1])


@on_both
@both_ways
def test_codec_on_a_device_decodes_as_the_cpu_does(how, device):
    weights = weights_of(DEMO)
    codes = random_codes(weights, 20, (8, 6))
    expected = Codec(weights, CodecConfig()).decode(codes)[0].astype(int)
    images, _ = codec_on(device, weights, 8, how).decode(codes)
    assert np.abs(images.astype(int) - expected).max() <= 1


class Synchronous(Codec):
    """One that copies before it computes, and waits in between."""

    def _send(self, batch):
        sent = self._pad(batch).to(self.device)
        if sent.is_cuda:
            torch.cuda.synchronize()
        return sent


@on_both
@both_ways
def test_codec_fifty_batches_in_flight_equal_those_that_wait_for_each_other(how, device):
    """Copies large beside the arithmetic, so that one too early would be seen."""
    batch, side = (16, 256) if device == "cuda" else (1, 16)
    weights = weights_of(DEMO)
    images = random_images(50 * batch, side, side)
    flying = codec_on(device, weights, batch, how)
    waiting = codec_on(device, weights, batch, how, Synchronous)
    parts = range(0, len(images), batch)
    expected = np.concatenate([waiting.encode(images[i : i + batch])[0] for i in parts])
    assert np.array_equal(flying.encode(images)[0], expected)
    back = np.concatenate([waiting.decode(expected[i : i + batch])[0] for i in parts])
    assert np.array_equal(flying.decode(expected)[0], back)


@pytest.fixture
def limited():
    """Gives this process so many bytes of the device and no more, while a test runs."""
    total = torch.cuda.get_device_properties(0).total_memory
    yield lambda limit: torch.cuda.set_per_process_memory_fraction(limit / total)
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.fault(9)
@pytest.mark.parametrize("device", on_cuda)
@both_ways
def test_codec_on_a_device_that_is_full_halves_the_batch(how, device, limited):
    """Compiled, kernels of every size are made while the device is full."""
    weights, images = weights_of(DEMO), random_images(64, 256, 256)
    gc.collect()  # codecs of other tests
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    expected, _ = codec_on(device, weights, 8).encode(images)
    peak = torch.cuda.max_memory_reserved()
    torch.cuda.empty_cache()
    limited(peak * 5 // 4)
    codec = codec_on(device, weights, 64, how)
    codes, finite = codec.encode(images)
    assert finite.all()
    assert 2 <= codec.batch_size <= 16
    assert (codes == expected).mean() > 0.999


@pytest.mark.fault(27)
@pytest.mark.parametrize("device", on_cuda)
@pytest.mark.parametrize("stray", ["access", "assertion"])
def test_codec_that_loses_its_device_is_a_device_error_ever_after(stray, device):  # noqa: ARG001
    command = [sys.executable, "-m", "tests.codec.stray", stray]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert ran.stdout.split() == ["DeviceError"] * 3, ran.stderr


@on_both
@pytest.mark.parametrize("how", ["eager", pytest.param("compiled", marks=pytest.mark.slow)])
def test_codec_decodes_batches_of_more_than_two_to_the_31_elements(how, device):
    """The widest layers have 128 and more channels of 512 x 512 an image: 2.4e9 numbers for 72.

    Random weights round as they will, hence the tolerance; an index that wraps mixes up images.
    """
    if device == "cpu":
        weights, count, grid = weights_of_model(make_random("movq")), 4, (4, 4)
    else:
        weights, count, grid = make_wide("MoVQ f8"), 72, (64, 64)
    codes = random_codes(weights, count, grid)
    few = codec_on(device, weights, count // 4, dtype="bfloat16")
    expected, _ = few.decode(codes)
    many = codec_on(device, weights, count, how, dtype="bfloat16")
    images, finite = many.decode(codes)
    assert finite.all()
    assert many.batch_size == count
    for found, wanted in zip(images, expected, strict=True):
        assert mean_psnr(found[None], wanted[None]) > 30
    assert mean_psnr(expected[1:], expected[:-1]) < 25  # they are unlike each other
