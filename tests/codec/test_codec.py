import functools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from tests.vqgan.configs import make_oracle
from vqpipe.codec.codec import Codec
from vqpipe.codec.config import CodecConfig
from vqpipe.codec.device import choose_device
from vqpipe.codec.doctor import load_probes
from vqpipe.codec.weights import Weights
from vqpipe.errors import ConfigError, DeviceError
from vqpipe.vqgan.files import WEIGHTS_FILE

DEMO = Path(__file__).parents[2] / "infra" / "demo" / "checkpoint"
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


def codec_of(folder, batch_size=None, kind=Codec, **how):
    """Returns a codec; with a batch size, one that takes as many at a time, as on a GPU."""
    codec = kind(weights_of(folder), CodecConfig(**how))
    codec.batch_size = batch_size or codec.batch_size
    return codec


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
    # In half precision a code depends on kernel and layout, and on a CPU on its image's place.
    layout = torch.contiguous_format if dtype == torch.float32 else torch.channels_last
    size = len(pixels) if dtype == torch.float32 else 1
    pixels = pixels.to(dtype).contiguous(memory_format=layout)
    latents = torch.cat([oracle.encode(part).latents for part in pixels.split(size)])
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
        def _encode_batch(self, images, vectors=()):
            if len(images) > limit:
                raise torch.OutOfMemoryError("out of memory")
            return super()._encode_batch(images, vectors)

    return SmallMemory


@pytest.mark.fault(9)
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


@pytest.mark.fault(9)
def test_codec_out_of_memory_midway_repeats_and_skips_nothing(model):
    images = random_images(20)

    class RunsFull(Codec):
        calls = 0

        def _encode_batch(self, batch, vectors=()):
            self.calls += 1
            if self.calls in {2, 4}:
                raise torch.OutOfMemoryError("out of memory")
            return super()._encode_batch(batch, vectors)

    codec = codec_of(model, 8, RunsFull)
    assert np.array_equal(codec.encode(images)[0], oracle_codes(model, images))
    assert codec.batch_size == 2


@pytest.mark.fault(9)
def test_codec_single_image_out_of_memory_is_config_error(model):
    with pytest.raises(ConfigError):
        codec_of(model, 4, small_memory(0)).encode(random_images(2))


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_codec_work_that_is_begun_has_the_results_of_work_that_is_done(model, batch_size):
    images = random_images(6)
    codec = codec_of(model, batch_size)
    codes, finite = codec.encode(images)
    waits = codec.begin_encode(images), codec.begin_decode(codes)
    for wait, expected in zip(waits, ((codes, finite), codec.decode(codes)), strict=True):
        for found, wanted in zip(wait(), expected, strict=True):
            assert np.array_equal(found, wanted)


@pytest.mark.fault(9)
def test_codec_work_that_is_begun_halves_its_batch_too(model):
    images = random_images(6)
    codec = codec_of(model, 4, small_memory(1))
    assert np.array_equal(codec.begin_encode(images)()[0], codec_of(model).encode(images)[0])
    with pytest.raises(ConfigError):
        codec_of(model, 4, small_memory(0)).begin_encode(images)


class Watched:
    """Stands for a batch on a device: says when it is begun and when it is waited for."""

    def __init__(self, said, number):
        self.said, self.size, self.number = said, 1, number
        said.append(f"begin {number}")

    def collect(self):
        self.said.append(f"wait {self.number}")
        return [np.array([self.number]), np.array([True])]


def test_codec_begins_a_batch_before_it_waits_for_the_one_before(monkeypatch):
    said = []
    codec = codec_of(DEMO, 1)
    monkeypatch.setattr(codec, "_launch", lambda _, batch: Watched(said, int(batch[0])))
    codec._run(None, np.arange(4), lambda _: None)
    order = ["begin 0", "begin 1", "wait 0", "begin 2", "wait 1", "begin 3", "wait 2", "wait 3"]
    assert said == order


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("eager", [False, True])
def test_codec_on_cuda_waits_for_nothing_between_launch_and_collect(eager):
    images = random_images(16)
    how = CodecConfig(dtype="bfloat16", eager=eager)
    codec = Codec(weights_of(DEMO), how, device="cuda", batch_size=16)
    codes, _ = codec.encode(images)  # makes kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        wait = codec.begin_encode(images)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert np.array_equal(wait()[0], codes)


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


@torch.no_grad()
def oracle_pixels(folder, codes):
    """Returns what diffusers decodes codes (N, h, w) to, float32 (N, 3, H, W), not clamped."""
    diffusers = pytest.importorskip("diffusers")
    oracle = diffusers.VQModel.from_pretrained(str(folder)).eval()
    shape = (*codes.shape, oracle.quantize.vq_embed_dim)
    vectors = oracle.quantize.get_codebook_entry(torch.from_numpy(codes), shape)
    if oracle.config.lookup_from_codebook:
        return oracle.decode(torch.from_numpy(codes), True, shape=shape).sample
    return oracle.decode(vectors, force_not_quantize=True).sample


def random_codes(folder, count, grid=(8, 6), seed=0):
    size = weights_of(folder).description.codebook_size
    return np.random.default_rng(seed).integers(0, size, (count, *grid))


@pytest.fixture(
    scope="module",
    params=[
        "demo",
        pytest.param("random", marks=pytest.mark.soak),
        "spatial",
        pytest.param("looks_up", marks=pytest.mark.soak),
    ],
)
def decoder(request, folders, tmp_path_factory):
    """Folders of models with every kind of decoder."""
    names = {"spatial": "spatial_attention_everywhere", "looks_up": "spatial_without_mid_attention"}
    if request.param not in names:
        return folders[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    make_oracle(names[request.param]).save_pretrained(folder)
    return folder


def test_codec_decode_equals_diffusers_before_rounding(decoder):
    codes = random_codes(decoder, 5)
    codec = codec_of(decoder, 5)
    with torch.inference_mode():
        pixels = codec._to_pixels(torch.from_numpy(codes))
    torch.testing.assert_close(pixels, oracle_pixels(decoder, codes), rtol=0, atol=1e-5)


@pytest.mark.parametrize("pixel_range", ["signed", "unit"])
def test_codec_decode_rounds_to_the_nearest_level(decoder, pixel_range):
    codes = random_codes(decoder, 5)
    images, _ = codec_of(decoder, 4, pixel_range=pixel_range).decode(codes)
    scale, shift = SCALES[pixel_range]
    levels = (oracle_pixels(decoder, codes).double().numpy() - shift) / scale * 255
    expected = levels.clip(0, 255).transpose(0, 2, 3, 1)
    assert (images.dtype, images.shape) == (np.uint8, expected.shape)
    assert np.abs(images - expected).max() < 0.5 + 255 * 1e-5
    assert len(np.unique(images)) > 20


@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_codec_decode_is_independent_of_batch_size_and_neighbours(decoder, batch_size):
    codes = random_codes(decoder, 9)
    expected = codec_of(decoder, 9).decode(codes)[0].astype(int)
    order = np.random.default_rng(2).permutation(9)
    images = codec_of(decoder, batch_size).decode(codes[order])[0].astype(int)
    assert np.abs(images - expected[order]).max() <= 1  # a half may round either way
    assert (images != expected[order]).mean() < 1e-4


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.int64])
def test_codec_decode_takes_codes_as_they_are_stored(model, kind):
    codes = random_codes(model, 3)
    stored = codes.astype(kind)
    stored.flags.writeable = False
    assert np.array_equal(codec_of(model).decode(stored)[0], codec_of(model).decode(codes)[0])


@pytest.mark.parametrize("bad", [-1, "size"])
def test_codec_decode_code_out_of_range_is_value_error(model, bad):
    size = weights_of(model).description.codebook_size
    codes = random_codes(model, 3)
    codes[1, 2, 3] = size if bad == "size" else bad
    with pytest.raises(ValueError, match=str(codes[1, 2, 3])):
        codec_of(model).decode(codes)


def test_codec_decode_out_of_memory_halves_the_batch_and_keeps_the_images(model):
    class SmallMemory(Codec):
        def _decode_batch(self, codes):
            if len(codes) > 3:
                raise torch.OutOfMemoryError("out of memory")
            return super()._decode_batch(codes)

    codes = random_codes(model, 9)
    codec, told = codec_of(model, 8, SmallMemory), []
    images, _ = codec.decode(codes, told.append)
    assert np.array_equal(images, codec_of(model, 2).decode(codes)[0])
    assert (codec.batch_size, sum(told)) == (2, 9)


def test_codec_decode_of_encode_looks_like_the_photo():
    metrics = pytest.importorskip("skimage.metrics")
    photos = load_probes(128)
    codec = codec_of(DEMO)
    back, _ = codec.decode(codec.encode(photos)[0])
    for photo, image in zip(photos, back, strict=True):
        assert metrics.peak_signal_noise_ratio(photo, image) > 22


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("batch_size", [None, 3, 8])
def test_codec_half_precision_codes_are_equal_for_any_neighbours(model, dtype, batch_size):
    images = random_images(10, 64, 64)
    codec = Codec(weights_of(model), CodecConfig(dtype=dtype), batch_size=batch_size)
    codes, _ = codec.encode(images)
    order = np.random.default_rng(3).permutation(10)
    assert np.array_equal(codec.encode(images[order])[0], codes[order])
    for i in range(4):  # alone, at the first place of a batch
        assert np.array_equal(codec.encode(images[i : i + 1])[0], codes[i : i + 1])


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.soak)])
def test_codec_network_compiles_to_one_graph_with_equal_results(decoder, dtype):
    """As on a GPU, but for the last step, which would make its kernels."""
    torch._dynamo.reset()  # it gives up after eight models in one process
    images, codes = random_images(3), random_codes(decoder, 3)
    codec, compiled = codec_of(decoder, 2, dtype=dtype), codec_of(decoder, 2, dtype=dtype)
    for name in ("latents", "pixels"):
        plain = getattr(compiled, f"_to_{name}")
        fused = torch.compile(plain, backend="aot_eager", dynamic=False, fullgraph=True)
        setattr(compiled, f"_{name}_of", fused)
    assert np.array_equal(compiled.encode(images)[0], codec.encode(images)[0])
    assert np.array_equal(compiled.decode(codes)[0], codec.decode(codes)[0])


def codec_with_backend(model, backend, batch_size=None):
    """Returns a codec whose network goes through torch's compiler to a backend of ours."""
    torch._dynamo.reset()
    codec = codec_of(model, batch_size)
    codec._latents_of = torch.compile(codec._to_latents, backend=backend, dynamic=False)
    return codec


def raise_in_backend(error):
    def backend(*_):
        raise error

    return backend


def test_codec_kernels_that_cannot_be_made_are_a_config_error(model):
    codec = codec_with_backend(model, raise_in_backend(OSError("no space left")))
    with pytest.raises(ConfigError, match=r"no space left.*--eager") as caught:
        codec.encode(random_images(2))
    assert "C compiler" not in caught.value.message


@pytest.mark.parametrize(
    "said",
    [
        "Failed to find C compiler. Please specify via CC environment variable",
        "No working C++ compiler found in torch._inductor.config.cpp.cxx: (None, 'g++')",
    ],
)
def test_codec_without_a_compiler_says_that_it_needs_one(model, said):
    codec = codec_with_backend(model, raise_in_backend(RuntimeError(said)))
    with pytest.raises(ConfigError, match=r"needs a C compiler.*--eager"):
        codec.encode(random_images(2))


@pytest.mark.fault(9)
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        pytest.param(RuntimeError("CUDA driver error: out of memory"), marks=pytest.mark.soak),
    ],
    ids=str,
)
def test_codec_out_of_memory_while_compiling_halves_the_batch(model, error):
    def backend(graph, _):
        if graph_rows(graph) > 2:
            raise error
        return graph.forward

    def graph_rows(graph):
        (images,) = (node for node in graph.graph.nodes if node.name == "l_images_")
        return images.meta["example_value"].shape[0]

    images = random_images(7)
    codec = codec_with_backend(model, backend, 8)
    assert np.array_equal(codec.encode(images)[0], codec_of(model).encode(images)[0])
    assert codec.batch_size == 2


@pytest.mark.parametrize(
    "said",
    [
        "CUDA error: an illegal memory access was encountered",
        "Triton Error [CUDA]: misaligned address",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
    ],
)
def test_codec_device_that_fails_while_compiling_is_a_device_error(model, said):
    codec = codec_with_backend(model, raise_in_backend(RuntimeError(said)))
    with pytest.raises(DeviceError):
        codec.encode(random_images(2))


def test_codec_kernels_that_do_not_fit_the_device_are_a_config_error(model):
    said = "Triton Error [CUDA]: device kernel image is invalid"
    codec = codec_with_backend(model, raise_in_backend(RuntimeError(said)))
    with pytest.raises(ConfigError, match="image is invalid"):
        codec.encode(random_images(2))


@pytest.mark.parametrize(
    "before",
    [
        pytest.param("cuda.matmul.fp32_precision = 'tf32'", marks=pytest.mark.soak),
        pytest.param("cudnn.conv.fp32_precision = 'ieee'", marks=pytest.mark.soak),
        "fp32_precision = 'tf32'",
        "cuda.matmul.allow_tf32 = True",
        pytest.param("cudnn.allow_tf32 = False", marks=pytest.mark.soak),
    ],
)
def test_codec_works_whichever_switches_the_process_has_used(before):
    script = f"""
import numpy as np
import torch
from tests.codec.test_codec import DEMO, codec_of, random_images
images = random_images(2)
codes = codec_of(DEMO).encode(images)[0]
torch.backends.{before}
for dtype in ("float32", "tf32"):
    assert np.array_equal(codec_of(DEMO, dtype=dtype).encode(images)[0], codes)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)


def test_codec_tf32_is_float32_where_there_is_none_and_leaves_the_switches(model):
    images = random_images(4)
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in switches]
    codes, _ = codec_of(model, dtype="tf32").encode(images)
    assert np.array_equal(codes, codec_of(model).encode(images)[0])
    assert [switch.allow_tf32 for switch in switches] == before


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate`"),
    ],
)
def test_codec_device_that_fails_is_a_device_error(model, error):
    class Sick(Codec):
        def _encode_batch(self, *_, **__):
            raise error

    with pytest.raises(DeviceError) as caught:
        codec_of(model, 2, Sick).encode(random_images(3))
    assert caught.value.exit_code == 5
    assert str(error)[:20] in caught.value.message


@pytest.mark.fault(9)
def test_codec_out_of_memory_as_the_driver_calls_it_halves_the_batch(model):
    class SmallMemory(Codec):
        def _encode_batch(self, images, vectors=()):
            if len(images) > 1:
                raise RuntimeError("CUDA error: out of memory")
            return super()._encode_batch(images, vectors)

    images = random_images(5)
    codec = codec_of(model, 4, SmallMemory)
    assert np.array_equal(codec.encode(images)[0], codec_of(model).encode(images)[0])
    assert codec.batch_size == 1


def test_codec_errors_that_are_none_of_the_device_stay_as_they_are(model):
    with pytest.raises(RuntimeError, match="channels") as caught:
        codec_of(model, 2).encode(np.zeros((3, 32, 32, 5), np.uint8))
    assert not isinstance(caught.value, DeviceError)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_choose_device_promised_gpu_that_a_cuda_build_cannot_see_is_no_reason_for_the_cpu(
    monkeypatch,
):
    monkeypatch.setattr(torch.version, "cuda", None)
    assert choose_device("auto", promised=True) == "cpu"
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    assert choose_device("auto") == "cpu"
    with pytest.raises(DeviceError):
        choose_device("auto", promised=True)


def test_choose_device_cpu_is_always_there():
    assert choose_device("cpu") == "cpu"
    assert choose_device("auto") in {"cpu", "cuda"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_choose_device_cuda_without_one_is_config_error():
    with pytest.raises(ConfigError):
        choose_device("cuda")
