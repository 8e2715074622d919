"""Architectures to compare with diffusers: the published ones, narrow, and the corners."""

import functools

import pytest
import torch

from tests.vqgan.published import ATTN_DOWN, ATTN_UP, attending_last, plain
from vqpipe.vqgan import VQModel


def _small(**fields):
    return {"block_out_channels": (32, 64), **plain(2), "num_vq_embeddings": 64, **fields}


CONFIGS = {
    # kandinsky-community/kandinsky-2-1 movq, 128-256-256-512
    "movq": {
        "block_out_channels": (32, 64, 64, 128),
        **attending_last(4),
        "layers_per_block": 2,
        "latent_channels": 4,
        "vq_embed_dim": 4,
        "num_vq_embeddings": 16384,
        "norm_type": "spatial",
    },
    # amused/amused-256 vqvae, 128-256-256-512-768
    "amused": {
        "block_out_channels": (32, 64, 64, 96, 128),
        **plain(5),
        "layers_per_block": 2,
        "latent_channels": 64,
        "num_vq_embeddings": 8192,
        "mid_block_add_attention": False,
        "lookup_from_codebook": True,
        "force_upcast": True,
    },
    # CompVis/ldm-celebahq-256 vqvae, 128-256-512
    "ldm_f4": {
        "block_out_channels": (32, 64, 128),
        **plain(3),
        "layers_per_block": 2,
        "num_vq_embeddings": 8192,
        "sample_size": 256,
    },
    # microsoft/vq-diffusion-ithq vqvae, 128-128-256-256-512
    "vq_diffusion": {
        "block_out_channels": (32, 32, 64, 64, 128),
        **attending_last(5),
        "layers_per_block": 2,
        "latent_channels": 256,
        "vq_embed_dim": 256,
        "num_vq_embeddings": 4096,
    },
    "defaults": {},
    "relu": _small(act_fn="relu"),
    "mish": _small(act_fn="mish"),
    "gelu": _small(act_fn="gelu"),
    "swish_in_capitals": _small(act_fn="Swish"),
    "other_embed_dim": _small(latent_channels=8, vq_embed_dim=5),
    "other_groups": _small(block_out_channels=(24, 40), norm_num_groups=8),
    "grey_to_four_channels": _small(in_channels=1, out_channels=4),
    "three_layers": _small(layers_per_block=3),
    "attention_everywhere": _small(
        down_block_types=(ATTN_DOWN,) * 2, up_block_types=(ATTN_UP,) * 2, layers_per_block=2
    ),
    "spatial_attention_everywhere": _small(
        down_block_types=(ATTN_DOWN,) * 2, up_block_types=(ATTN_UP,) * 2, norm_type="spatial"
    ),
    "spatial_without_mid_attention": _small(
        norm_type="spatial", mid_block_add_attention=False, lookup_from_codebook=True
    ),
}


def make_oracle(name):
    """A diffusers model, every weight random, so that no bias or norm is at its neutral start."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(len(name))
    return _randomise(diffusers.VQModel(**CONFIGS[name]).eval())


@functools.cache
def make_random(name):
    """One of ours, every weight random, made without diffusers; shared, so leave it as it is."""
    torch.manual_seed(len(name))
    return _randomise(VQModel(**CONFIGS[name]).eval())


@torch.no_grad()
def _randomise(model):
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.03)
    torch.nn.init.normal_(model.quantize.embedding.weight, std=0.5)
    return model


@functools.cache
def make_pair(name):
    """A diffusers model and ours with its weights; shared, so tests leave both as they are."""
    oracle = make_oracle(name)
    ours = VQModel(**CONFIGS[name]).eval()
    ours.load_state_dict(oracle.state_dict(), strict=True)
    return oracle, ours


def make_pixels(name, batch=2, height=48, width=32):
    torch.manual_seed(7)
    return torch.rand(batch, CONFIGS[name].get("in_channels", 3), height, width) * 2 - 1
