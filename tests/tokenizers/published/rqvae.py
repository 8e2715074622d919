"""RQ-VAE in plain torch, from its published layout, and its files.

Layout and arithmetic: kakaobrain/rq-vae-transformer, `rqvae/models/rqvae/rqvae.py`,
`rqvae/models/rqvae/quantizations.py` (`RQBottleneck`) and `rqvae/models/rqvae/modules.py`, whose
network is CompVis'; files: `rqvae/trainers/trainer_rqvae.py` and `configs/*/stage1`.
"""

import functools

import torch
from torch import nn

from tests.tokenizers.published import frames
from tests.tokenizers.published.colours import NARROW, WIDE
from tests.tokenizers.published.ibq import shake
from tests.vqgan.compvis import Decoder, Encoder, to_yaml

PIXEL_RANGE = "signed"
# published: 256 and 256, 128, [1, 1, 2, 2, 4, 4], 2 and [8] or, FFHQ, [16]; 16384 or 2048 entries
DDCONFIG = {
    "double_z": False,
    "z_channels": 8,
    "resolution": 32,
    "in_channels": 3,
    "out_ch": 3,
    "attn_resolutions": [8],
    "dropout": 0.0,
}
EMBED_DIM, DEPTH = 6, 4
STEPS = torch.cartesian_prod(*[torch.tensor([-0.75, -0.25, 0.25, 0.75])] * 3)
"""The middles of the 64 parts of the cube of all colours."""
SIZE = 5 * len(STEPS)


class Codebook(nn.Embedding):
    """Entries, and behind them a row of zeros that no code stands for; the rest is training's."""

    def __init__(self):
        super().__init__(SIZE + 1, EMBED_DIM, padding_idx=SIZE)
        self.register_buffer("cluster_size_ema", torch.zeros(SIZE))
        self.register_buffer("embed_ema", self.weight[:-1].detach().clone())

    def find(self, vectors):
        flat, book = vectors.flatten(0, -2), self.weight[:-1]
        distances = (flat**2).sum(1, keepdim=True) + (book**2).sum(1) - 2 * flat @ book.T
        return distances.argmin(1).view(vectors.shape[:-1])


class Quantizer(nn.Module):
    def __init__(self):
        super().__init__()
        self.codebooks = nn.ModuleList([Codebook()] * DEPTH)  # one, by four names

    def forward(self, rest):
        codes = []
        for book in self.codebooks:
            codes.append(book.find(rest))
            rest = rest - book(codes[-1])
        return torch.stack(codes, -1)


class Net(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.ddconfig = DDCONFIG | shape
        self.encoder, self.decoder = Encoder(self.ddconfig), Decoder(self.ddconfig)
        self.quantizer = Quantizer()
        self.quant_conv = nn.Conv2d(DDCONFIG["z_channels"], EMBED_DIM, 1)
        self.post_quant_conv = nn.Conv2d(EMBED_DIM, DDCONFIG["z_channels"], 1)

    def encode(self, x):
        """The codes (B, h, w, 4), in the order in which they correct each other."""
        return self.quantizer(self.quant_conv(self.encoder(x)).permute(0, 2, 3, 1))

    def decode(self, codes):
        books = zip(self.quantizer.codebooks, codes.unbind(-1), strict=True)
        vectors = sum(book(each) for book, each in books).permute(0, 3, 1, 2)
        return self.decoder(self.post_quant_conv(vectors))


@torch.no_grad()
def fill(book, entries, seed):
    """Puts entries in, in any order, and beside them what training would have left."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(SIZE, generator=generator)
    book.weight.copy_(torch.cat([entries[order], torch.zeros(1, EMBED_DIM)]))
    book.cluster_size_ema.copy_(1 + 9 * torch.rand(SIZE, generator=generator))
    book.embed_ema.copy_(book.weight[:-1] * book.cluster_size_ema[:, None])


@functools.cache
@torch.no_grad()
def make_random(attn_resolution=8):
    """Small residuals have no entry as near as the row of zeros is: whoever takes that is wrong."""
    net = frames.randomise(Net(NARROW | {"attn_resolutions": [attn_resolution]}), seed=20)
    book = net.quantizer.codebooks[0]
    fill(book, book.weight[:-1] * torch.logspace(-0.5, 0.5, SIZE)[:, None], seed=21)
    return net


@functools.cache
@torch.no_grad()
def make_faithful():
    """Each code corrects the colour that those before it give, by a step of a third the length."""
    net = frames.randomise(Net(WIDE), seed=22)
    frames.carry_through(net)
    encoder, decoder, book = net.encoder, net.decoder, net.quantizer.codebooks[0]
    generator = torch.Generator().manual_seed(23)
    turn = nn.init.orthogonal_(torch.empty(EMBED_DIM, 3), generator=generator)
    entries = torch.cat([STEPS / 3**i for i in range(5)]) @ turn.T
    noise = book.weight[:-1] * entries.norm(dim=1, keepdim=True)
    fill(book, entries + 0.02 * noise, seed=24)

    frames.enter(encoder.conv_in, torch.eye(3), torch.zeros(3))
    back = torch.linalg.pinv(net.quant_conv.weight.flatten(1))
    frames.leave(encoder.norm_out, encoder.conv_out, back @ turn, -back @ net.quant_conv.bias)
    back = torch.linalg.pinv(net.post_quant_conv.weight.flatten(1) @ turn)
    frames.enter(decoder.conv_in, back, -back @ net.post_quant_conv.bias)
    frames.leave(decoder.norm_out, decoder.conv_out, torch.eye(3), torch.zeros(3))
    return net


def write(folder, net, has_averages=False):
    """kakaobrain's first stage, as training leaves it; its scripts take no averages of that."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "epoch": 10,
        "state_dict": net.state_dict(),
        "discriminator": {"main.0.weight": torch.ones(4, 3, 4, 4), "main.0.bias": torch.ones(4)},
        "optimizer": {"state": {}, "param_groups": []},
        "scheduler": {"last_epoch": 9},
    }
    if has_averages:
        averages = content["state_dict_ema"] = shake(net).state_dict()
        averages["quantizer.codebooks.0.weight"][-1] = 0  # by four names
    path = folder / "model.pt"
    torch.save(content, path)
    side = net.ddconfig["resolution"] // 2 ** (len(net.ddconfig["ch_mult"]) - 1)
    hparams = {
        "bottleneck_type": "rq",
        "embed_dim": EMBED_DIM,
        "n_embed": SIZE,
        "latent_shape": [side, side, EMBED_DIM],
        "code_shape": [side, side, DEPTH],
        "shared_codebook": True,
        "decay": 0.99,
        "restart_unused_codes": True,
        "loss_type": "mse",
        "latent_loss_weight": 0.25,
    }
    arch = {"type": "rq-vae", "code_hier": 1, "hparams": hparams, "ddconfig": net.ddconfig}
    arch |= {"checkpointing": True} | ({"ema": 0.9999} if has_averages else {})
    config = {
        "dataset": {"type": "imagenet", "transforms": {"type": "imagenet256x256"}},
        "arch": arch,
        "optimizer": {"type": "adam", "init_lr": 4e-5, "betas": [0.5, 0.9]},
        "experiment": {"batch_size": 32, "epochs": 10},
        "gan": {"disc": {"arch": {"in_channels": 3, "num_layers": 2, "ndf": 64}}},
    }
    (folder / "config.yaml").write_bytes(to_yaml(config))
    return str(path)
