"""LlamaGen's VQ-8 and VQ-16 in plain torch, from their published layout, and their files.

Layout and arithmetic: FoundationVision/LlamaGen, `tokenizer/tokenizer_image/vq_model.py`. Janus
has the same (deepseek-ai/Janus, `janus/models/vq_model.py`), and Hugging Face transformers has it
under other names (`models/janus/modeling_janus.py`).
"""

import functools
import json

import torch
import torch.nn.functional as F  # noqa: N812 - as everybody does
from safetensors.torch import save_file
from torch import nn

from tests.tokenizers.published.colours import GRID, NARROW, WIDE, randomise, set_by_hand
from tests.vqgan.compvis import Attn, Block, Sampled, norm, swish

PIXEL_RANGE = "signed"
# published: 256, 16384 and 8; 128 channels, 2 blocks, [1, 1, 2, 2, 4] or, VQ-8, [1, 2, 2, 4]
Z_CHANNELS, SIZE, EMBED_DIM = 16, len(GRID), 8


class Level(nn.Module):
    def __init__(self, before, width, blocks, attends):
        super().__init__()
        self.res = nn.ModuleList(Block(width if i else before, width) for i in range(blocks))
        self.attn = nn.ModuleList(Attn(width) for _ in range(blocks if attends else 0))

    def forward(self, x):
        for i, block in enumerate(self.res):
            x = block(x)
            x = self.attn[i](x) if len(self.attn) else x
        return x


def make_mid(width):
    return nn.Sequential(Block(width, width), Attn(width), Block(width, width))


class Encoder(nn.Module):
    def __init__(self, ch, widths, blocks):
        super().__init__()
        self.conv_in = nn.Conv2d(3, ch, 3, padding=1)
        self.conv_blocks = nn.ModuleList()
        for before, width in zip([ch, *widths], widths, strict=False):
            is_last = len(self.conv_blocks) == len(widths) - 1
            self.conv_blocks.append(Level(before, width, blocks, is_last))
            if not is_last:
                self.conv_blocks[-1].downsample = Sampled(width, is_down=True)
        self.mid = make_mid(width)
        self.norm_out = norm(width)
        self.conv_out = nn.Conv2d(width, Z_CHANNELS, 3, padding=1)

    def forward(self, x):
        x = self.conv_in(x)
        for level in self.conv_blocks:
            x = level(x)
            x = level.downsample(x) if hasattr(level, "downsample") else x
        return self.conv_out(swish(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    def __init__(self, widths, blocks):
        super().__init__()
        widths = widths[::-1]
        self.conv_in = nn.Conv2d(Z_CHANNELS, widths[0], 3, padding=1)
        self.mid = make_mid(widths[0])
        self.conv_blocks = nn.ModuleList()  # the first is the coarsest
        for before, width in zip([widths[0], *widths], widths, strict=False):
            is_first, is_last = (len(self.conv_blocks) == i for i in (0, len(widths) - 1))
            self.conv_blocks.append(Level(before, width, blocks + 1, is_first))
            if not is_last:
                self.conv_blocks[-1].upsample = Sampled(width, is_down=False)
        self.norm_out = norm(width)
        self.conv_out = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x):
        x = self.mid(self.conv_in(x))
        for level in self.conv_blocks:
            x = level(x)
            x = level.upsample(x) if hasattr(level, "upsample") else x
        return self.conv_out(swish(self.norm_out(x)))


class Quantize(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(SIZE, EMBED_DIM)
        self.register_buffer("codebook_used", torch.zeros(65536))  # training's; always so long

    @property
    def book(self):
        return F.normalize(self.embedding.weight, dim=-1)

    def forward(self, z):
        flat = F.normalize(z.permute(0, 2, 3, 1).flatten(0, 2), dim=-1)  # (B * h * w, C)
        distances = (flat**2).sum(1, keepdim=True) + (self.book**2).sum(1) - 2 * flat @ self.book.T
        return distances.argmin(1).view(z.shape[0], *z.shape[2:])


class Net(nn.Module):
    def __init__(self, ch, ch_mult, num_res_blocks):
        super().__init__()
        self.shape = {"base_channels": ch, "channel_multiplier": ch_mult}
        self.shape["num_res_blocks"] = num_res_blocks
        widths = [ch * multiple for multiple in ch_mult]
        self.encoder = Encoder(ch, widths, num_res_blocks)
        self.decoder = Decoder(widths, num_res_blocks)
        self.quantize = Quantize()
        self.quant_conv = nn.Conv2d(Z_CHANNELS, EMBED_DIM, 1)
        self.post_quant_conv = nn.Conv2d(EMBED_DIM, Z_CHANNELS, 1)

    def encode(self, x):
        return self.quantize(self.quant_conv(self.encoder(x)))

    def decode(self, codes):
        vectors = self.quantize.book[codes].permute(0, 3, 1, 2)
        return self.decoder(self.post_quant_conv(vectors))


@functools.cache
def make_random():
    return randomise(Net(**NARROW), seed=1)


def latents_of(colours):
    """Colours as directions; what is 4 makes them nearly proportional."""
    return torch.cat([colours, F.pad(torch.full_like(colours[..., :1], 4.0), (0, 4))], -1)


@functools.cache
def make_faithful():
    lengths = 9 * 3 ** torch.cos(torch.arange(SIZE))[:, None]  # 3 to 27 times the latents'
    directions = latents_of(GRID)
    vectors = F.normalize(directions, dim=-1)
    return set_by_hand(Net(**WIDE), 2, latents_of, directions * lengths, vectors)


def write(folder, net, ema=None):
    """LlamaGen's own; where there are averages, its scripts take those."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"model": net.state_dict(), "optimizer": {}, "steps": 3}
    if ema is not None:
        content["ema"] = ema.state_dict()
    path = folder / "vq_ds16_c2i.pt"
    torch.save(content, path)
    return str(path)


def write_janus(folder, net):
    """deepseek-ai's: the whole model, whose config says nothing of the network but a name.

    Its class takes no parameters from the config; those are of other parts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    others = {
        "vision_model.vision_tower.pos_embed": torch.ones(1, 4, 6),
        "aligner.layers.0.weight": torch.ones(6, 6),
        "gen_aligner.layers.0.weight": torch.ones(6, EMBED_DIM),
        "gen_head.output_mlp_projector.weight": torch.ones(6, 6),
        "gen_embed.weight": torch.ones(SIZE, EMBED_DIM),
        "language_model.model.embed_tokens.weight": torch.ones(9, 6),
    }
    ours = {f"gen_vision_model.{name}": tensor for name, tensor in net.state_dict().items()}
    torch.save(others | ours, folder / "pytorch_model.bin")
    params = {"image_token_size": SIZE, "n_embed": EMBED_DIM}
    config = {
        "architectures": ["MultiModalityCausalLM"],
        "model_type": "multi_modality",
        "gen_vision_config": {"cls": "VQ-16", "model_type": "gen_vision", "params": params},
        "language_config": {"model_type": "llama", "vocab_size": 9},
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def name_in_transformers(name):
    for theirs, new in {
        ".mid.0.": ".mid.block_1.",
        ".mid.1.": ".mid.attn_1.",
        ".mid.2.": ".mid.block_2.",
        "encoder.conv_blocks.": "encoder.down.",
        "decoder.conv_blocks.": "decoder.up.",  # counted from the coarsest, unlike CompVis'
        ".res.": ".block.",
    }.items():
        name = name.replace(theirs, new)
    return name


def to_transformers(state):
    return {
        name_in_transformers(name): tensor
        for name, tensor in state.items()
        if name != "quantize.codebook_used"
    }


def write_transformers(folder, net):
    """transformers' Janus; what is true of its codes is what the authors' arithmetic says.

    transformers' own look-up forgets to normalise when it encodes, though not when it decodes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    others = {
        "lm_head.weight": torch.ones(9, 6),
        "model.language_model.embed_tokens.weight": torch.ones(9, 6),
        "model.vision_model.embeddings.position_embedding.weight": torch.ones(4, 6),
        "model.aligner.fc1.weight": torch.ones(6, 6),
        "model.generation_embeddings.weight": torch.ones(SIZE, EMBED_DIM),
        "model.generation_head.proj_out.weight": torch.ones(6, 6),
    }
    ours = to_transformers(net.state_dict()).items()
    whole = others | {f"model.vqmodel.{name}": tensor for name, tensor in ours}
    save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})
    vq_config = net.shape | {
        "model_type": "janus_vqgan",
        "double_latent": False,
        "dropout": 0.0,
        "embed_dim": EMBED_DIM,
        "hidden_act": "gelu",
        "image_token_embed_dim": 2048,
        "in_channels": 3,
        "initializer_range": 0.02,
        "latent_channels": Z_CHANNELS,
        "num_embeddings": SIZE,
        "num_hidden_layers": 2,
        "num_patches": 24,
        "out_channels": 3,
        "projection_dim": 2048,
    }
    config = {
        "architectures": ["JanusForConditionalGeneration"],
        "model_type": "janus",
        "image_token_id": 100581,
        "vq_config": vq_config,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)
