import copy

import pytest
import torch

from tests.vqgan.configs import CONFIGS, make_oracle, make_pair, make_pixels
from tests.vqgan.published import plain
from vqpipe.vqgan import DecoderOutput, VQConfig, VQEncoderOutput, VQModel
from vqpipe.vqgan.layers import SpatialNorm

every_config = pytest.mark.parametrize("name", CONFIGS)


def oracle_codes(oracle, pixels):
    return oracle.quantize(oracle.encode(pixels).latents)[2][2]


def assert_close(ours, theirs, atol=1e-5):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


@every_config
@torch.no_grad()
def test_encode_to_codes_equals_diffusers(name):
    oracle, ours = make_pair(name)
    pixels = make_pixels(name)
    codes = ours.encode_to_codes(pixels)
    factor = ours.downsample_factor
    assert codes.dtype == torch.int64
    assert codes.shape == (2, 48 // factor, 32 // factor)
    assert len(codes.unique()) > 1
    assert torch.equal(codes.flatten(), oracle_codes(oracle, pixels))


@every_config
@torch.no_grad()
def test_forward_equals_diffusers(name):
    oracle, ours = make_pair(name)
    pixels = make_pixels(name)
    theirs, mine = oracle(pixels), ours(pixels)
    assert_close(ours.encode(pixels).latents, oracle.encode(pixels).latents)
    assert_close(mine.sample, theirs.sample)
    assert_close(mine.commit_loss, theirs.commit_loss)


@every_config
def test_gradients_equal_diffusers(name):
    oracle, ours = make_pair(name)
    pixels = make_pixels(name, batch=1, height=32)
    parameters = [dict(model.named_parameters()) for model in (oracle, ours)]
    theirs, mine = (
        torch.autograd.grad(output.sample.square().mean() + output.commit_loss, weights.values())
        for output, weights in zip((oracle(pixels), ours(pixels)), parameters, strict=True)
    )
    theirs = dict(zip(parameters[0], theirs, strict=True))
    mine = dict(zip(parameters[1], mine, strict=True))
    assert mine.keys() == theirs.keys()
    for key, gradient in mine.items():
        assert_close(gradient, theirs[key], atol=1e-4)


@every_config
@torch.no_grad()
def test_decode_codes_equals_diffusers(name):
    oracle, ours = make_pair(name)
    codes = ours.encode_to_codes(make_pixels(name))
    shape = (*codes.shape, ours.config.embed_dim)
    looks_up = oracle.config.lookup_from_codebook
    given = codes if looks_up else oracle.quantize.get_codebook_entry(codes, shape)
    theirs = oracle.decode(given, force_not_quantize=True, shape=shape)
    assert_close(ours.decode_codes(codes), theirs.sample)


@every_config
def test_state_dict_loads_into_diffusers(name):
    oracle, ours = make_oracle(name), VQModel(**CONFIGS[name])
    result = oracle.load_state_dict(ours.state_dict(), strict=True)
    assert not result.missing_keys
    assert not result.unexpected_keys


@pytest.mark.parametrize(
    ("name", "block_out_channels"),
    [
        ("movq", (128, 256, 256, 512)),
        ("amused", (128, 256, 256, 512, 768)),
        ("ldm_f4", (128, 256, 512)),
        ("vq_diffusion", (128, 128, 256, 256, 512)),
    ],
)
def test_state_dict_published_widths_equals_diffusers(name, block_out_channels):
    diffusers = pytest.importorskip("diffusers")
    fields = CONFIGS[name] | {"block_out_channels": block_out_channels}
    with torch.device("meta"):
        theirs, mine = (cls(**fields).state_dict() for cls in (diffusers.VQModel, VQModel))
    assert {k: v.shape for k, v in mine.items()} == {k: v.shape for k, v in theirs.items()}


@pytest.mark.parametrize("size", [(33, 47), (50, 39), (16, 81)])
@pytest.mark.parametrize("name", ["movq", "ldm_f4", "spatial_attention_everywhere"])
@torch.no_grad()
def test_forward_odd_sizes_equals_diffusers(name, size):
    oracle, ours = make_pair(name)
    pixels = make_pixels(name, 1, *size)
    assert torch.equal(ours.encode_to_codes(pixels).flatten(), oracle_codes(oracle, pixels))
    assert_close(ours(pixels).sample, oracle(pixels).sample)


@pytest.mark.parametrize("name", ["movq", "vq_diffusion"])
@torch.no_grad()
def test_forward_channels_last_equals_diffusers(name):
    oracle, ours = make_pair(name)
    pixels = make_pixels(name).contiguous(memory_format=torch.channels_last)
    assert torch.equal(ours.encode_to_codes(pixels).flatten(), oracle_codes(oracle, pixels))
    assert_close(ours(pixels).sample, oracle(pixels).sample)


def quantize_noise(model, grid, dtype):
    """Quantized vectors (2, C_q, h, w) as the pipeline has them: of entries, channels-last."""
    torch.manual_seed(5)
    codes = torch.randint(model.config.num_vq_embeddings, (2, *grid))
    return model.quantize.embedding(codes).permute(0, 3, 1, 2).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("grid", [(4, 4), (6, 4), (5, 7), (16, 16)])
@pytest.mark.parametrize("name", ["movq", "spatial_attention_everywhere"])
@torch.no_grad()
def test_decode_spatial_norm_after_small_convolutions_equals_diffusers_to_the_bit(
    name, grid, dtype
):
    oracle, ours = (
        copy.deepcopy(model).to(dtype=dtype, memory_format=torch.channels_last)
        for model in make_pair(name)
    )
    quantized = quantize_noise(ours, grid, dtype)
    theirs = oracle.decoder(oracle.post_quant_conv(quantized), quantized)
    assert torch.equal(ours.decode_quantized(quantized), theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("factor", [1, 2, 8])
@pytest.mark.parametrize("channels", [128, 256, 512])
@torch.no_grad()
def test_spatial_norm_published_widths_equals_convolutions_of_repeated_places(
    channels, factor, dtype
):
    torch.manual_seed(0)
    norm = SpatialNorm(channels, 4).to(dtype=dtype, memory_format=torch.channels_last)
    x, quantized = (
        torch.randn(1, c, side, side, dtype=dtype).contiguous(memory_format=torch.channels_last)
        for c, side in ((channels, 8 * factor), (4, 8))
    )
    repeated = quantized.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    repeated = repeated.contiguous(memory_format=torch.channels_last)
    expected = norm.norm_layer(x) * norm.conv_y(repeated) + norm.conv_b(repeated)
    assert torch.equal(norm(x, quantized), expected)


@pytest.mark.parametrize("name", ["amused", "spatial_without_mid_attention"])
@torch.no_grad()
def test_decode_lookup_from_codebook_equals_diffusers(name):
    oracle, ours = make_pair(name)
    codes = ours.encode_to_codes(make_pixels(name))
    shape = (*codes.shape, ours.config.embed_dim)
    theirs = oracle.decode(codes, force_not_quantize=True, shape=shape)
    mine = ours.decode(codes, force_not_quantize=True, shape=shape)
    assert_close(mine.sample, theirs.sample)
    assert torch.equal(mine.commit_loss, theirs.commit_loss)
    assert_close(mine.sample, ours.decode_codes(codes))


@pytest.mark.parametrize("name", ["movq", "other_embed_dim"])
@torch.no_grad()
def test_decode_force_not_quantize_equals_diffusers(name):
    oracle, ours = make_pair(name)
    quantized = oracle.quantize(oracle.encode(make_pixels(name)).latents)[0]
    theirs = oracle.decode(quantized, force_not_quantize=True)
    mine = ours.decode(quantized, force_not_quantize=True)
    assert_close(mine.sample, theirs.sample)
    assert torch.equal(mine.commit_loss, theirs.commit_loss)


def test_outputs_serve_as_tuples_and_by_name():
    _, ours = make_pair("defaults")
    pixels = make_pixels("defaults", 1, 8, 8)
    (latents,) = ours.encode(pixels, return_dict=False)
    sample, commit_loss = ours.decode(latents, return_dict=False)
    assert isinstance(ours.encode(pixels), VQEncoderOutput)
    assert isinstance(ours(pixels), DecoderOutput)
    assert torch.equal(sample, ours(pixels).sample)
    assert torch.equal(commit_loss, ours(pixels, return_dict=False)[1])


def test_config_has_diffusers_fields_and_defaults():
    oracle, ours = make_pair("defaults")
    theirs = {key: value for key, value in oracle.config.items() if not key.startswith("_")}
    mine = {key: getattr(ours.config, key) for key in theirs}
    assert mine == theirs
    assert ours.config.keys() == theirs.keys()


def test_from_config_keeps_config():
    config = VQConfig(**CONFIGS["movq"])
    assert VQModel.from_config(config).config == config


def test_constructor_unknown_argument_raises():
    with pytest.raises(TypeError, match="latent_chanels"):
        VQModel(latent_chanels=4)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
@torch.no_grad()
def test_decode_codes_any_integer_dtype_gives_same_pixels(dtype):
    _, ours = make_pair("relu")
    codes = torch.arange(24).reshape(1, 4, 6)
    assert torch.equal(ours.decode_codes(codes.to(dtype)), ours.decode_codes(codes))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bool])
def test_decode_codes_not_integers_raises(dtype):
    _, ours = make_pair("relu")
    with pytest.raises(TypeError, match="integers"):
        ours.decode_codes(torch.zeros(1, 4, 4, dtype=dtype))


@pytest.mark.parametrize("shape", [(16,), (4, 4), (1, 3, 4, 4)])
def test_decode_codes_wrong_rank_raises(shape):
    _, ours = make_pair("relu")
    with pytest.raises(ValueError, match=r"\(B, h, w\)"):
        ours.decode_codes(torch.zeros(shape, dtype=torch.int64))


@pytest.mark.parametrize("code", [-1, 64])
def test_decode_codes_out_of_range_raises(code):
    _, ours = make_pair("relu")
    codes = torch.zeros(1, 4, 4, dtype=torch.int64)
    codes[0, 1, 2] = code
    with pytest.raises(ValueError, match=r"\[0, 64\)"):
        ours.decode_codes(codes)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
@pytest.mark.parametrize("force_not_quantize", [False, True])
def test_decode_integers_for_latents_raises(dtype, force_not_quantize):
    _, ours = make_pair("relu")
    with pytest.raises(TypeError, match="decode_codes"):
        ours.decode(torch.zeros(1, 3, 4, 4, dtype=dtype), force_not_quantize=force_not_quantize)


def test_decode_integers_without_force_on_lookup_model_raises():
    _, ours = make_pair("amused")
    with pytest.raises(TypeError, match="decode_codes"):
        ours.decode(torch.zeros(1, 4, 4, dtype=torch.int64))


def test_decode_latents_where_codes_belong_raises():
    _, ours = make_pair("amused")
    with pytest.raises(TypeError, match="takes codes"):
        ours.decode(torch.zeros(1, 64, 2, 2), force_not_quantize=True)


def test_encode_to_codes_uint8_pixels_raises():
    _, ours = make_pair("relu")
    with pytest.raises(TypeError, match="uint8"):
        ours.encode_to_codes(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 8, 8), (1, 8, 8, 3)])
def test_encode_to_codes_wrong_shape_raises(shape):
    _, ours = make_pair("relu")
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\)"):
        ours.encode_to_codes(torch.zeros(shape))


def test_model_decoder_has_the_widths_and_counts_of_its_own(tmp_path):
    fields = {"block_out_channels": (32, 64), **plain(2), "num_vq_embeddings": 16}
    own = {"decoder_block_out_channels": (96, 32), "decoder_layers_per_block": 3}
    model = VQModel(**fields, **own)
    plain_decoder = VQModel(**{**fields, "block_out_channels": (96, 32), "layers_per_block": 3})
    shapes = {name: tensor.shape for name, tensor in model.decoder.state_dict().items()}
    assert shapes == {n: t.shape for n, t in plain_decoder.decoder.state_dict().items()}
    encoder = VQModel(**fields).encoder.state_dict()
    assert {n: t.shape for n, t in model.encoder.state_dict().items()} == {
        n: t.shape for n, t in encoder.items()
    }
    model.save_pretrained(tmp_path)
    again = VQModel.from_pretrained(tmp_path)
    assert again.config == model.config
    codes = torch.arange(16).view(1, 4, 4)
    assert torch.equal(again.decode_codes(codes), model.eval().decode_codes(codes))
