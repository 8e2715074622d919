"""Networks that are no VQ model, in the codec: arithmetic that numpy repeats in a line."""

from types import MappingProxyType

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.codec.test_codec import DEMO, random_images, weights_of
from vqpipe.code_layout import CodeLayout
from vqpipe.codec.codec import Codec
from vqpipe.codec.config import CodecConfig
from vqpipe.codec.doctor import diagnose
from vqpipe.stages.latents import are_finite, to_float32
from vqpipe.tokenizers.tokenizer import Description
from vqpipe.vector_layout import VectorLayout

PATCH, LEVELS = 4, 16


class Levels:
    """A grid of codes: the mean of each patch, in so many levels of the range [-1, 1]."""

    description = Description(codebook_size=LEVELS, multiple=PATCH, latent_channels=1)

    def __init__(self, dtype):
        self.dtype = dtype
        self.shapes = set()

    def latents_of(self, pixels):
        self.shapes.add(tuple(pixels.shape))
        return functional.avg_pool2d(pixels.to(self.dtype).mean(1, keepdim=True), PATCH).float()

    def codes_of(self, latents):
        levels = (latents[:, 0].nan_to_num() + 1) / 2 * (LEVELS - 1)
        return levels.round().clamp(0, LEVELS - 1).long()

    def quantized_of(self, codes):
        return codes[:, None].float() / (LEVELS - 1) * 2 - 1

    def decode(self, quantized):
        return functional.interpolate(quantized, scale_factor=PATCH).expand(-1, 3, -1, -1)

    def pixels_of(self, codes):
        return self.decode(self.quantized_of(codes))


class Lines(Levels):
    """A sequence of codes, of two codebooks one after the other: one code a line of patches."""

    def latents_of(self, pixels):
        return super().latents_of(pixels).mean(3)[:, 0]  # (B, h)

    def codes_of(self, latents):
        coarse = super().codes_of(latents[:, None])
        return torch.stack([coarse, LEVELS - 1 - coarse], 2)  # (B, h, 2)

    def pixels_of(self, codes):
        height = codes.shape[1]
        return super().pixels_of(codes[..., :1].expand(-1, -1, height))


class Loud(Levels):
    """The same with latents that are a hundred thousand times as large."""

    def latents_of(self, pixels):
        return super().latents_of(pixels) * 1e5

    def codes_of(self, latents):
        return super().codes_of(latents / 1e5)


class Built:
    """A checkpoint of one of these."""

    description = Levels.description
    provenance = MappingProxyType({})

    def __init__(self, kind):
        self.kind = kind

    def build(self, device, dtype):
        assert device == torch.device("cpu")
        self.tokenizer = self.kind(dtype)
        return self.tokenizer


def codec_of(kind, batch_size=3, **how):
    """Returns a codec and the tokenizer in it."""
    built = Built(kind)
    codec = Codec(built, CodecConfig(**how))
    codec.batch_size = batch_size
    return codec, built.tokenizer


def patches(images):
    """Returns the mean of each patch (N, h, w), 0 to 255."""
    count, height, width, _ = images.shape
    cut = images.reshape(count, height // PATCH, PATCH, width // PATCH, PATCH, 3)
    return cut.mean((2, 4, 5))


@pytest.mark.parametrize("pixel_range", ["signed", "unit"])
def test_codec_of_another_tokenizer_gives_its_codes_and_pixels(pixel_range):
    images, told = random_images(7, 16, 24), []
    codec, tokenizer = codec_of(Levels, pixel_range=pixel_range)
    codes, finite = codec.encode(images, told.append)
    level = patches(images) / 255  # of [0, 1]; the network takes whatever range for [-1, 1]
    level = level if pixel_range == "signed" else (level + 1) / 2
    assert np.abs(codes - level * (LEVELS - 1)).max() < 0.5 + 1e-4
    assert (codes.shape, codes.dtype, finite.all()) == ((7, 4, 6), np.int64, True)
    assert tokenizer.shapes == {(3, 3, 16, 24)}  # one shape: the last batch is padded
    assert told == [3, 3, 1]
    back, finite = codec.decode(codes)
    shown = codes if pixel_range == "signed" else np.maximum(2 * codes - (LEVELS - 1), 0)
    expected = (shown * (255 / (LEVELS - 1))).round().repeat(PATCH, 1).repeat(PATCH, 2)
    assert (back == expected[..., None]).all()
    assert finite.all()


def test_codec_of_another_tokenizer_decodes_latents_by_way_of_its_codes():
    codec, _ = codec_of(Levels)
    latents = np.random.default_rng(0).uniform(-1, 1, (5, 1, 4, 4)).astype(np.float32)
    latents[2, 0, 1, 1] = np.nan
    images, finite = codec.decode_latents(latents)
    codes = np.rint((np.nan_to_num(latents[:, 0]) + 1) / 2 * (LEVELS - 1)).astype(np.int64)
    assert np.array_equal(images, codec.decode(codes)[0])
    assert finite.tolist() == [True, True, False, True, True]


def test_codec_checks_codes_against_the_codebook_of_its_tokenizer():
    codec, _ = codec_of(Levels)
    with pytest.raises(ValueError, match="16"):
        codec.decode(np.full((1, 2, 2), LEVELS))


def test_codec_gives_the_network_its_dtype_and_float32_to_all_else():
    codec, tokenizer = codec_of(Levels, dtype="bfloat16")
    codec.encode(random_images(2, 8, 8))
    assert tokenizer.dtype == torch.bfloat16


def test_codec_takes_codes_that_are_no_grid():
    images = random_images(5, 16, 16)
    codec, _ = codec_of(Lines)
    codes, finite = codec.encode(images)
    assert codes.shape == (5, 4, 2)
    assert (codes.sum(2) == LEVELS - 1).all()
    assert finite.all()
    back, _ = codec.decode(codes)
    assert np.array_equal(back[:, ::PATCH, 0, 0], (codes[..., 0] * 17).astype(np.uint8))


@pytest.mark.parametrize(
    ("dtype", "is_held"), [("float16", False), ("bfloat16", True), ("float32", True)]
)
def test_codec_latents_too_large_for_their_type_are_infinite_in_it_alone(dtype, is_held):
    images = random_images(4, 16, 24)
    codec, _ = codec_of(Loud)
    wanted = [VectorLayout(name, (1, 4, 6), dtype) for name in ("quantized", "latents")]
    codes, finite, quantized, latents = codec.encode_vectors(images, wanted)
    assert finite.all()
    assert are_finite(quantized, dtype).all()
    level = (patches(images) / 255 * 2 - 1)[:, None] * 1e5
    fits = is_held | (np.abs(level) < 65_520).all((1, 2, 3))  # what is halfway to 2 ** 16
    assert are_finite(latents, dtype).tolist() == fits.tolist()
    assert is_held == fits.all()
    assert np.array_equal(codes, codec.encode(images)[0])
    stored = to_float32(latents, dtype)[fits]
    np.testing.assert_allclose(stored, level[fits], rtol=2**-8, atol=1)
    np.testing.assert_allclose(
        to_float32(quantized, dtype)[:, 0], codes / (LEVELS - 1) * 2 - 1, rtol=2**-8
    )


@pytest.mark.parametrize("kind", [Levels, Lines])
def test_codec_compiles_another_tokenizer_to_one_graph_with_equal_results(kind):
    torch._dynamo.reset()
    images = random_images(4, 16, 16)
    (codec, _), (compiled, _) = codec_of(kind), codec_of(kind)
    for name in ("latents", "pixels"):
        plain = getattr(compiled, f"_to_{name}")
        fused = torch.compile(plain, backend="aot_eager", dynamic=False, fullgraph=True)
        setattr(compiled, f"_{name}_of", fused)
    codes, _ = codec.encode(images)
    assert np.array_equal(compiled.encode(images)[0], codes)
    assert np.array_equal(compiled.decode(codes)[0], codec.decode(codes)[0])


def test_doctor_asks_the_tokenizer_alone():
    found = diagnose(Built(Levels), 64, "signed")
    assert (found.layout.shape, found.again) == ((16, 16), 1.0)
    assert 1 < found.codes_used <= LEVELS
    assert all(each.is_safe for each in found.precisions)


def test_description_of_a_vq_model_is_what_its_config_says():
    found = weights_of(DEMO).description
    assert (found.codebook_size, found.multiple, found.channels) == (1024, 4, 3)
    codes = found.layout_of(64, 32)
    assert codes == CodeLayout.grid(16, 8, 1024)
    assert found.size_of(codes) == (64, 32)
    shape = found.latent_shape_of(codes)
    assert shape == (found.config["latent_channels"], 16, 8)
    assert found.unsafe == {}
