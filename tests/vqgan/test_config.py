import dataclasses

import pytest

from vqpipe.vqgan import VQConfig


def test_config_lists_become_tuples():
    config = VQConfig(
        down_block_types=["DownEncoderBlock2D"],
        up_block_types=["UpDecoderBlock2D"],
        block_out_channels=[64],
    )
    assert config == VQConfig()


def test_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        VQConfig().latent_channels = 4


def test_config_embed_dim_defaults_to_latent_channels():
    assert VQConfig(latent_channels=5).embed_dim == 5
    assert VQConfig(latent_channels=5, vq_embed_dim=2).embed_dim == 2


@pytest.mark.parametrize(
    ("field", "value", "bound"),
    [
        ("in_channels", 0, ">= 1"),
        ("out_channels", 3.0, ">= 1"),
        ("layers_per_block", True, ">= 1"),
        ("num_vq_embeddings", "256", ">= 1"),
        ("norm_num_groups", -32, ">= 1"),
        ("sample_size", None, ">= 1"),
        ("vq_embed_dim", 0, "null or an integer >= 1"),
        ("scaling_factor", float("nan"), "finite"),
        ("scaling_factor", "1", "finite"),
        ("act_fn", "tanh", "silu"),
        ("act_fn", None, "silu"),
        ("norm_type", "layer", "spatial"),
        ("mid_block_add_attention", 1, "true or false"),
        ("lookup_from_codebook", "yes", "true or false"),
        ("block_out_channels", (), "non-empty"),
        ("block_out_channels", 64, "non-empty"),
        ("block_out_channels", (64.0,), "non-empty"),
        ("block_out_channels", (48,), "norm_num_groups = 32"),
        ("down_block_types", ("DownBlock2D",), "AttnDownEncoderBlock2D"),
        ("up_block_types", "UpDecoderBlock2D", "AttnUpDecoderBlock2D"),
        ("up_block_types", ("UpDecoderBlock2D",) * 2, "as long as block_out_channels"),
        ("decoder_block_out_channels", (32, 64), "as long as block_out_channels"),
        ("decoder_block_out_channels", (48,), "norm_num_groups = 32"),
        ("decoder_block_out_channels", (), "non-empty"),
        ("decoder_layers_per_block", 0, "null or an integer >= 1"),
    ],
)
def test_config_bad_field_raises_with_field_value_and_bound(field, value, bound):
    with pytest.raises(ValueError, match=field) as caught:
        VQConfig(**{field: value})
    assert repr(value) in str(caught.value)
    assert bound in str(caught.value)


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("vq_embed_dim", {"latent_channels": 4, "vq_embed_dim": 8}),
        ("block_out_channels", {"block_out_channels": (48,), "norm_num_groups": 16}),
    ],
)
def test_config_spatial_norm_that_cannot_decode_raises(field, fields):
    VQConfig(**fields)
    with pytest.raises(ValueError, match=field):
        VQConfig(norm_type="spatial", **fields)


def test_config_shows_what_only_we_have_where_it_is_there():
    ours = {"decoder_block_out_channels", "decoder_layers_per_block"}
    assert not ours & set(VQConfig())
    config = VQConfig(decoder_block_out_channels=[96], decoder_layers_per_block=3)
    assert ours <= set(config)
    assert len(config) == len(VQConfig()) + 2
    assert VQConfig(**config) == config


def test_config_spatial_norm_looks_at_the_channels_of_the_decoder():
    fields = {"norm_num_groups": 16, "norm_type": "spatial", "decoder_block_out_channels": (64,)}
    VQConfig(block_out_channels=(48,), **fields)
    with pytest.raises(ValueError, match="decoder_block_out_channels"):
        VQConfig(block_out_channels=(64,), **{**fields, "decoder_block_out_channels": (48,)})
