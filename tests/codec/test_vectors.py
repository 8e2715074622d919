"""Latents and quantized vectors, held against diffusers', numpy's and torch's arithmetic."""

import numpy as np
import pytest
import torch

from tests.codec.test_codec import DEMO, codec_of, random_images
from tests.vqgan.configs import make_oracle
from vqpipe.codec.doctor import load_probes
from vqpipe.vector_layout import VectorLayout

BIT_OF_LAST_PLACE = {"float16": 2.0**-10, "bfloat16": 2.0**-7}
"""Of a number, by its power of two."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    make_oracle("other_groups").save_pretrained(folder)
    return {"demo": DEMO, "random": folder}


@pytest.fixture(params=["demo", "random"])
def model(request, folders):
    return folders[request.param]


def layouts(dtype):
    return [VectorLayout(name, (0, 0, 0), dtype) for name in ("latents", "quantized")]


def encode(folder, images, dtype="float32", batch_size=None):
    """Returns codes, and latents and quantized as float32."""
    codes, finite, *vectors = codec_of(folder, batch_size).encode_vectors(images, layouts(dtype))
    assert finite.all()
    return codes, *(widened(each, dtype) for each in vectors)


def widened(numbers, dtype):
    if dtype != "bfloat16":
        return numbers.astype(np.float32)
    assert numbers.dtype == np.uint16
    return torch.from_numpy(numbers.view(np.int16)).view(torch.bfloat16).float().numpy()


@torch.no_grad()
def of_diffusers(folder, images):
    """Returns latents and quantized (N, C, h, w) float32."""
    diffusers = pytest.importorskip("diffusers")
    oracle = diffusers.VQModel.from_pretrained(str(folder)).eval()
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 * 2 - 1
    latents = oracle.encode(pixels).latents
    return latents.numpy(), oracle.quantize(latents)[0].numpy()


def photos(side=32):
    return load_probes(side)[:4]


@pytest.mark.parametrize("images", [random_images(5), random_images(3, 16, 48), photos()])
def test_codec_vectors_are_those_of_diffusers(model, images):
    codes, *found = encode(model, images)
    assert np.array_equal(codes, codec_of(model).encode(images)[0])
    for mine, theirs in zip(found, of_diffusers(model, images), strict=True):
        assert mine.shape == theirs.shape
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_codec_vectors_of_16_bits_are_rounded_as_numpy_and_torch_do(model, dtype):
    images = photos()
    exact = encode(model, images)[1:]
    rounded = encode(model, images, dtype)[1:]
    for mine, whole, theirs in zip(rounded, exact, of_diffusers(model, images), strict=True):
        if dtype == "float16":
            assert np.array_equal(mine, whole.astype(np.float16).astype(np.float32))
        else:
            assert np.array_equal(mine, torch.from_numpy(whole).bfloat16().float().numpy())
        smallest = 2.0**-14  # below it, float16 has no more digits
        last = np.exp2(np.floor(np.log2(np.maximum(np.abs(theirs), smallest))))
        differ = 1e-5 * np.abs(theirs).max()  # in float32, of which numbers near 0 keep nothing
        assert (np.abs(mine - theirs) <= np.maximum(last * BIT_OF_LAST_PLACE[dtype], differ)).all()
        assert np.abs(mine - whole).max() > 0


@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_codec_vectors_are_those_of_their_images_in_any_batch(model, batch_size):
    images = random_images(7)
    codes, *found = encode(model, images, batch_size=batch_size)
    alone = [encode(model, image[np.newaxis]) for image in images]
    assert np.array_equal(codes, np.concatenate([each[0] for each in alone]))
    for i, vectors in enumerate(found, 1):
        expected = np.concatenate([each[i] for each in alone])
        np.testing.assert_allclose(vectors, expected, rtol=1e-5, atol=1e-5)


def test_codec_gives_the_vectors_that_are_asked_for_alone():
    images = random_images(2)
    codec, both = codec_of(DEMO), layouts("float16")
    assert len(codec.encode_vectors(images, [])) == 2
    *_, latents, quantized = codec.encode_vectors(images, both)
    for which, expected in zip(both, (latents, quantized), strict=True):
        assert np.array_equal(codec.encode_vectors(images, [which])[2], expected)


def test_codec_quantized_decode_to_the_pixels_of_their_codes(model):
    images = photos()
    codec = codec_of(model)
    codes, latents, quantized = encode(model, images)
    pixels, finite = codec.decode(codes)
    assert finite.all()
    assert np.array_equal(codec.decode_quantized(quantized)[0], pixels)
    assert np.array_equal(codec.decode_latents(latents)[0], pixels)


@pytest.mark.parametrize(("dtype", "levels"), [("float16", 1), ("bfloat16", 3)])
def test_codec_quantized_of_16_bits_decode_to_nearly_the_same_pixels(model, dtype, levels):
    codes, _, quantized = encode(model, photos(), dtype)
    codec = codec_of(model)
    pixels, rounded = codec.decode(codes)[0], codec.decode_quantized(quantized)[0]
    assert np.abs(pixels.astype(int) - rounded).max() <= levels


def test_codec_quantized_that_are_not_finite_give_no_finite_image():
    _, _, quantized = encode(DEMO, random_images(3))
    quantized = quantized.copy()
    quantized[1, 0, 0, 0] = np.nan
    assert codec_of(DEMO).decode_quantized(quantized)[1].tolist() == [True, False, True]
