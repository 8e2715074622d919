import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from pipeline.codec import Codec, CodecConfig, choose_device
from pipeline.errors import ConfigError
from pipeline.vqgan.files import WEIGHTS_FILE
from pipeline.weights import Weights
from tests.vqgan_configs import make_oracle

DEMO = Path(__file__).parents[1] / "infra" / "demo" / "checkpoint"
SCALES = {"signed": (2.0, -1.0), "unit": (1.0, 0.0)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of models by name; one is trained, one random and saved by diffusers itself."""
    folder = tmp_path_factory.mktemp("models")
    make_oracle("other_groups").save_pretrained(folder)
    return {"demo": DEMO, "random": folder}


@pytest.fixture(params=["demo", "random"])
def model(request, folders):
    return folders[request.param]


@functools.cache
def weights_of(folder):
    return Weights.load(str(folder))


def codec_of(folder, batch_size=8, kind=Codec, **how):
    return kind(weights_of(folder), CodecConfig(**how), batch_size=batch_size)


def random_images(count, height=32, width=32, seed=0):
    """Returns smooth and noisy images, dark and light ones; (N, H, W, 3) uint8."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (count, height // 8, width // 8, 3))
    smooth = small.repeat(8, 1).repeat(8, 2) * rng.uniform(0.2, 1, (count, 1, 1, 1))
    noise = rng.normal(0, 1, smooth.shape) * rng.uniform(0, 60, (count, 1, 1, 1))
    return (smooth + noise).clip(0, 255).astype(np.uint8)


@torch.no_grad()
def oracle_codes(folder, images, pixel_range="signed", dtype=torch.float32):
    """Returns what diffusers' network and quantiser make of images; the latter in float32."""
    diffusers = pytest.importorskip("diffusers")
    oracle = diffusers.VQModel.from_pretrained(str(folder)).eval()
    oracle.encoder.to(dtype)
    oracle.quant_conv.to(dtype)
    scale, shift = SCALES[pixel_range]
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 * scale + shift
    latents = oracle.encode(pixels.to(dtype).contiguous()).latents
    _, _, (_, _, codes) = oracle.quantize(latents.float())
    return codes.reshape(len(images), *latents.shape[2:]).numpy()


@pytest.mark.parametrize("pixel_range", ["signed", "unit"])
@pytest.mark.parametrize("shape", [(32, 32), (16, 48)], ids=str)
def test_codec_codes_are_those_of_diffusers(model, pixel_range, shape):
    images = random_images(8, *shape)
    codes, finite = codec_of(model, pixel_range=pixel_range).encode(images)
    assert np.array_equal(codes, oracle_codes(model, images, pixel_range))
    assert codes.dtype == np.int64
    assert finite.all()
    assert len(np.unique(codes)) > 8


def test_codec_pixel_ranges_give_other_codes(model):
    images = random_images(4)
    signed, _ = codec_of(model, pixel_range="signed").encode(images)
    unit, _ = codec_of(model, pixel_range="unit").encode(images)
    assert (signed != unit).mean() > 0.1


@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_codec_codes_are_independent_of_batch_size(model, batch_size):
    images = random_images(20)
    expected = oracle_codes(model, images)
    codes, finite = codec_of(model, batch_size).encode(images)
    assert np.array_equal(codes, expected)
    assert finite.shape == (20,)


@pytest.mark.parametrize("count", [1, 7, 8, 9])
def test_codec_codes_are_independent_of_neighbours_and_padding(model, count):
    images = random_images(12)
    codec = codec_of(model)
    codes, _ = codec.encode(images)
    order = np.random.default_rng(1).permutation(12)[:count]
    found, finite = codec.encode(images[order])
    assert np.array_equal(found, codes[order])
    assert len(finite) == count


def test_codec_encode_leaves_read_only_images_as_they_are(model):
    images = random_images(9)
    images.flags.writeable = False
    before = images.copy()
    codec_of(model).encode(images)
    assert np.array_equal(images, before)


def test_codec_on_batch_is_told_every_image_once(model):
    told = []
    codec_of(model, 8).encode(random_images(20), told.append)
    assert told == [8, 8, 4]


def save_changed(weights, folder, change):
    """Writes a model again after a change to its tensors, and returns its folder."""
    state = load(weights.files[WEIGHTS_FILE])
    change(state)
    for name, data in {**weights.files, WEIGHTS_FILE: save(state)}.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def overflowing(folders, tmp_path):
    """A model of finite weights whose latents are finite for black images only, in range [0, 1]."""
    return save_changed(
        weights_of(folders["random"]),
        tmp_path,
        lambda state: state["encoder.conv_in.weight"].fill_(3e38),
    )


@pytest.mark.parametrize("batch_size", [1, 4, 8])
def test_codec_non_finite_latents_are_flagged_image_by_image(overflowing, batch_size):
    images = np.full((6, 32, 32, 3), 200, np.uint8)
    images[[1, 4]] = 0
    codec = codec_of(overflowing, batch_size, pixel_range="unit")
    codes, finite = codec.encode(images)
    assert finite.tolist() == [False, True, False, False, True, False]
    black, is_finite = codec.encode(images[[1]])
    assert is_finite.all()
    assert np.array_equal(codes[[1, 4]], black.repeat(2, 0))
    assert np.array_equal(black, oracle_codes(overflowing, images[[1]], "unit"))


def test_codec_one_non_finite_channel_flags_the_image(model, tmp_path):
    folder = save_changed(
        weights_of(model), tmp_path, lambda state: state["quant_conv.weight"][0].fill_(3e38)
    )
    _, finite = codec_of(folder).encode(random_images(3))
    assert finite.tolist() == [False] * 3


def small_memory(limit):
    """Returns a codec class whose device holds so many images and no more."""

    class SmallMemory(Codec):
        def _encode_batch(self, images):
            if self.batch_size > limit:
                raise torch.OutOfMemoryError("out of memory")
            return super()._encode_batch(images)

    return SmallMemory


@pytest.mark.parametrize("limit", [1, 3, 16])
def test_codec_out_of_memory_halves_the_batch_and_keeps_the_codes(model, limit):
    images = random_images(20)
    codec = codec_of(model, 32, small_memory(limit))
    told = []
    codes, finite = codec.encode(images, told.append)
    assert np.array_equal(codes, oracle_codes(model, images))
    assert (len(finite), sum(told)) == (20, 20)
    assert max(told) <= codec.batch_size <= limit
    assert np.array_equal(codec.encode(images)[0], codes)  # with the smaller batch at once


def test_codec_out_of_memory_midway_repeats_and_skips_nothing(model):
    images = random_images(20)

    class RunsFull(Codec):
        calls = 0

        def _encode_batch(self, batch):
            self.calls += 1
            if self.calls in {2, 4}:
                raise torch.OutOfMemoryError("out of memory")
            return super()._encode_batch(batch)

    codec = codec_of(model, 8, RunsFull)
    assert np.array_equal(codec.encode(images)[0], oracle_codes(model, images))
    assert codec.batch_size == 2


def test_codec_single_image_out_of_memory_is_config_error(model):
    with pytest.raises(ConfigError):
        codec_of(model, 4, small_memory(0)).encode(random_images(2))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_codec_half_precision_network_looks_codes_up_in_float32(model, dtype):
    images = random_images(8)
    codes, finite = codec_of(model, dtype=dtype).encode(images)
    assert finite.all()
    assert np.array_equal(codes, oracle_codes(model, images, dtype=getattr(torch, dtype)))


def test_codec_other_dtype_leaves_shared_weights_as_they_are(model):
    images = random_images(8)
    digest = weights_of(model).sha256()
    codec_of(model, dtype="bfloat16").encode(images)
    assert weights_of(model).sha256() == digest
    assert np.array_equal(codec_of(model).encode(images)[0], oracle_codes(model, images))


def test_choose_device_cpu_is_always_there():
    assert choose_device("cpu") == "cpu"
    assert choose_device("auto") in {"cpu", "cuda"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_choose_device_cuda_without_one_is_config_error():
    with pytest.raises(ConfigError):
        choose_device("cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_codec_on_cuda_mostly_agrees_with_the_cpu(model):
    images = random_images(64)
    codec = Codec(weights_of(model), CodecConfig(), device="cuda", batch_size=32)
    codes, finite = codec.encode(images)
    assert finite.all()
    assert (codes == oracle_codes(model, images)).mean() > 0.999
    assert np.array_equal(codec.encode(images[32:])[0], codes[32:])
