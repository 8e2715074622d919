"""Chameleon's tokenizer in plain torch, from its published layout, and its files.

Layout and arithmetic: facebookresearch/chameleon, `chameleon/inference/vqgan.py`, which is
CompVis'; Hugging Face transformers has the encoder under the same names
(`models/chameleon/modeling_chameleon.py`), and Anole (GAIR-NLP/anole) has the decoder there too.
"""

import functools
import json

import torch
import torch.nn.functional as F  # noqa: N812 - as everybody does
from safetensors.torch import save_file

from tests.tokenizers.published.colours import GRID, NARROW, WIDE, randomise, set_by_hand
from tests.vqgan.compvis import VQGAN, make_config, to_yaml

PIXEL_RANGE = "signed"
# published: 256, 512, 128, [1, 1, 2, 2, 4] and 2, with 8192 entries of 256
DDCONFIG = {
    "double_z": False,
    "z_channels": 16,
    "resolution": 32,
    "in_channels": 3,
    "out_ch": 3,
    "attn_resolutions": [],
    "dropout": 0.0,
}
SIZE, EMBED_DIM = len(GRID), 8
OTHERS = {
    "model.embed_tokens.weight": torch.ones(9, 6),
    "model.layers.0.self_attn.q_proj.weight": torch.ones(6, 6),
    "model.norm.weight": torch.ones(6),
    "lm_head.weight": torch.ones(9, 6),
}


class Net(VQGAN):
    def __init__(self, shape):
        self.ddconfig = DDCONFIG | shape
        super().__init__(self.ddconfig, EMBED_DIM, SIZE)

    def encode(self, x):
        return super().encode(x)[1]


@functools.cache
def make_random():
    return randomise(Net(NARROW), seed=8)


def latents_of(colours):
    """Of one direction if they differ in brightness alone."""
    shifted = colours + 1.2
    return torch.cat([shifted, F.pad(0.5 * shifted, (0, 2))], -1)


@functools.cache
def make_faithful():
    return set_by_hand(Net(WIDE), 9, latents_of, latents_of(GRID))


def write(folder, net):
    """Meta's own, a part of the whole model's folder."""
    (folder / "tokenizer").mkdir(parents=True, exist_ok=True)
    loss = {"target": "taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator"}
    params = {"n_embed": SIZE, "embed_dim": EMBED_DIM, "ckpt_path": None, "lossconfig": loss}
    config = make_config(net.ddconfig, **params)
    (folder / "tokenizer" / "vqgan.yaml").write_bytes(to_yaml(config))
    path = folder / "tokenizer" / "vqgan.ckpt"
    torch.save({"state_dict": net.state_dict()}, path)
    return str(path)


def write_transformers(folder, net, has_decoder=True, shards=1):
    """The whole model: Anole's with the decoder, facebook/chameleon-7b without."""
    folder.mkdir(parents=True, exist_ok=True)
    state = net.state_dict().items()  # transformers drops every name with "decoder" in it
    kept = {name: tensor for name, tensor in state if has_decoder or "decoder" not in name}
    whole = OTHERS | {f"model.vqmodel.{name}": tensor for name, tensor in kept.items()}
    names = ["model.safetensors"]
    if shards > 1:
        names = [f"model-{i:05}-of-{shards:05}.safetensors" for i in range(1, shards + 1)]
        places = {name: names[i % shards] for i, name in enumerate(whole)}
        size = sum(tensor.nbytes for tensor in whole.values())
        index = {"metadata": {"total_size": size}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for i, name in enumerate(names):
        part = dict(list(whole.items())[i::shards])
        save_file(part, folder / name, metadata={"format": "pt"})
    vq_config = net.ddconfig | {  # both names of each, as the conversion leaves them
        "model_type": "chameleon_vqgan",
        "attn_type": "vanilla",
        "base_channels": net.ddconfig["ch"],
        "channel_multiplier": net.ddconfig["ch_mult"],
        "double_latent": False,
        "embed_dim": EMBED_DIM,
        "latent_channels": DDCONFIG["z_channels"],
        "n_embed": SIZE,
        "num_embeddings": SIZE,
        "out_channels": 3,
    }
    config = {
        "architectures": ["ChameleonForConditionalGeneration"],
        "model_type": "chameleon",
        "torch_dtype": "bfloat16",
        "vocab_size": 9,
        "vq_config": vq_config,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)
