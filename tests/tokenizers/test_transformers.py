"""The networks that Hugging Face transformers has too, read by it from the same files.

The tests at large do without it: `make soak` fetches it.
"""

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.tokenizers.published import chameleon, llamagen
from vqpipe.codec.weights import Weights

pytestmark = pytest.mark.soak
transformers = pytest.importorskip("transformers")
PREFIX = "model.vqmodel."


def read(kind, config_of, folder):
    """Returns the tokenizer in a model's folder as transformers has it, with all its tensors."""
    config = json.loads((folder / "config.json").read_bytes())["vq_config"]
    model = kind(config_of(**config)).double().eval()
    state = load_file(folder / "model.safetensors")
    names = model.state_dict().keys()  # Chameleon's has no decoder
    model.load_state_dict({name: state[PREFIX + name] for name in names})
    return model


def read_ours(folder):
    return Weights.load(str(folder)).build(torch.device("cpu"), torch.float64)


def make_pixels():
    generator = torch.Generator().manual_seed(1)
    return torch.rand(3, 3, 64, 48, generator=generator).double() * 2 - 1


@torch.no_grad()
def test_chameleon_has_the_codes_that_transformers_has(tmp_path):
    chameleon.write_transformers(tmp_path, chameleon.make_random())
    theirs = read(transformers.ChameleonVQVAE, transformers.ChameleonVQVAEConfig, tmp_path)
    ours, pixels = read_ours(tmp_path), make_pixels()
    expected = theirs.encode(pixels).image_tokens
    assert expected.unique().numel() >= 8
    assert torch.equal(ours.codes_of(ours.latents_of(pixels)).flatten(), expected.flatten())


@torch.no_grad()
def test_janus_computes_what_transformers_computes_on_both_sides_of_the_codes(tmp_path):
    """Not the codes: transformers forgets to normalise the codebook, unlike the authors."""
    llamagen.write_transformers(tmp_path, llamagen.make_random())
    janus = transformers.models.janus
    theirs = read(janus.JanusVQVAE, janus.JanusVQVAEConfig, tmp_path)
    ours, pixels = read_ours(tmp_path), make_pixels()
    latents, expected = ours.latents_of(pixels), theirs.quant_conv(theirs.encoder(pixels)).float()
    torch.testing.assert_close(latents, expected, rtol=0, atol=1e-6)
    codes = ours.codes_of(latents)
    assert codes.unique().numel() >= 8
    theirs.quantize.quant_state_dims = codes.shape[1:]
    decoded = theirs.decode(codes.flatten(1)).float()
    torch.testing.assert_close(ours.pixels_of(codes), decoded, rtol=0, atol=1e-6)
