"""TiTok in plain torch, from its published layout, and its files.

Layout and arithmetic: bytedance/1d-tokenizer, `modeling/titok.py`, `modeling/modules/blocks.py`
(`TiTokEncoder`, `TiTokDecoder`) and `modeling/quantizer/quantizer.py`. The legacy ones end in
MaskGIT's decoder.
"""

import functools
import json
from collections import OrderedDict

import torch
import torch.nn.functional as F  # noqa: N812 - as everybody does
from safetensors.torch import save_file
from torch import nn

from tests.tokenizers.published import frames, maskgit
from tests.vqgan.compvis import to_yaml

PIXEL_RANGE = "unit"
SIDE, PATCH, SIZE = 64, 16, 256
WIDTH, LAYERS = 64, 2  # published: 512, 768, 1024 and 8, 12, 24, by the name of the size
# published, of MaskGIT's decoder: 128, [1, 1, 2, 2, 4], 2, 1024 and 256
CH, CH_MULT, NUM_RES_BLOCKS, PIXEL_SIZE, PIXEL_CHANNELS = 32, [1, 1, 1, 1, 1], 1, 96, 24
LEGACY = {
    "codebook_size": SIZE,
    "token_size": 12,
    "use_l2_norm": True,
    "commitment_cost": 0.25,
    "vit_enc_model_size": "large",
    "vit_dec_model_size": "large",
    "vit_enc_patch_size": PATCH,
    "vit_dec_patch_size": PATCH,
    "num_latent_tokens": 16,
    "finetune_decoder": True,
}
LATER = LEGACY | {
    "use_l2_norm": False,
    "vit_enc_model_size": "base",
    "finetune_decoder": False,
    "is_legacy": False,
}


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn = nn.MultiheadAttention(WIDTH, WIDTH // 64, batch_first=True)
        layers = {"c_fc": nn.Linear(WIDTH, 4 * WIDTH), "gelu": nn.GELU()}
        self.mlp = nn.Sequential(OrderedDict(layers, c_proj=nn.Linear(4 * WIDTH, WIDTH)))

    def forward(self, x):
        h = self.ln_1(x)
        x = x + self.attn(h, h, h, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """What encoder and decoder share: a class token, the image's tokens and the latent ones."""

    def __init__(self, tokens, patches):
        super().__init__()
        self.class_embedding = nn.Parameter(torch.empty(1, WIDTH))
        self.positional_embedding = nn.Parameter(torch.empty(patches + 1, WIDTH))
        self.latent_token_positional_embedding = nn.Parameter(torch.empty(tokens, WIDTH))
        self.ln_pre, self.ln_post = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.transformer = nn.Sequential(*(Layer() for _ in range(LAYERS)))

    def run(self, patches, latents):
        first = self.class_embedding.expand(len(patches), 1, -1)
        image = torch.cat([first, patches], 1) + self.positional_embedding
        latents = latents + self.latent_token_positional_embedding
        return self.transformer(self.ln_pre(torch.cat([image, latents], 1)))


class Encoder(Transformer):
    def __init__(self, tokens, token_size, is_legacy):
        super().__init__(tokens, (SIDE // PATCH) ** 2)
        self.is_legacy = is_legacy
        self.patch_embed = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.conv_out = nn.Conv2d(WIDTH, token_size, 1)

    def forward(self, x, latent_tokens):
        patches = self.patch_embed(x).flatten(2).mT
        latents = latent_tokens.expand(len(x), -1, -1)
        found = self.ln_post(self.run(patches, latents)[:, -len(latent_tokens) :])
        # the legacy ones take numbers in the order of tokens for numbers in that of channels
        found = found.reshape(found.mT.shape) if self.is_legacy else found.mT
        return self.conv_out(found[..., None])  # (B, C, n, 1)


class Decoder(Transformer):
    def __init__(self, tokens, token_size, is_legacy):
        super().__init__(tokens, (SIDE // PATCH) ** 2)
        self.is_legacy = is_legacy
        self.decoder_embed = nn.Linear(token_size, WIDTH)
        self.mask_token = nn.Parameter(torch.empty(1, 1, WIDTH))
        if is_legacy:
            first, last = nn.Conv2d(WIDTH, 2 * WIDTH, 1), nn.Conv2d(2 * WIDTH, PIXEL_SIZE, 1)
            self.ffn = nn.Sequential(first, nn.Tanh(), last)
        else:
            self.ffn = nn.Sequential(nn.Conv2d(WIDTH, 3 * PATCH**2, 1))
            self.conv_out = nn.Conv2d(3, 3, 3, padding=1)

    def see(self, vectors):
        """What it knows of each patch, (B, C, h, w)."""
        side = SIDE // PATCH
        masks = self.mask_token.expand(len(vectors), side * side, -1)
        found = self.run(masks, self.decoder_embed(vectors))[:, 1 : 1 + side * side]
        return self.ln_post(found).mT.unflatten(2, (side, side))

    def forward(self, vectors):
        x = self.ffn(self.see(vectors))
        if self.is_legacy:
            return x
        x = x.unflatten(1, (PATCH, PATCH, 3)).permute(0, 3, 4, 1, 5, 2)  # (B, 3, h, P, w, P)
        return self.conv_out(x.flatten(4).flatten(2, 3))


class Net(nn.Module):
    def __init__(self, legacy, ch=CH):
        super().__init__()
        model = LEGACY if legacy else LATER
        shape = model["num_latent_tokens"], model["token_size"], legacy
        self.encoder, self.decoder = Encoder(*shape), Decoder(*shape)
        self.latent_tokens = nn.Parameter(torch.empty(model["num_latent_tokens"], WIDTH))
        self.quantize = maskgit.Quantize(model["codebook_size"], model["token_size"])
        self.normalises = model["use_l2_norm"]
        if legacy:
            self.pixel_quantize = maskgit.Quantize(PIXEL_SIZE, PIXEL_CHANNELS)
            self.pixel_decoder = maskgit.Decoder(ch, CH_MULT, NUM_RES_BLOCKS, PIXEL_CHANNELS)

    def normalise(self, vectors):
        return F.normalize(vectors, dim=-1) if self.normalises else vectors

    def encode(self, x):
        found = self.normalise(self.encoder(x, self.latent_tokens)[..., 0].mT)
        book = self.normalise(self.quantize.embedding.weight)
        return (found.square().sum(2, True) - 2 * found @ book.T + book.square().sum(1)).argmin(2)

    def decode(self, codes):
        x = self.decoder(self.normalise(self.quantize.embedding(codes)))
        if not hasattr(self, "pixel_decoder"):
            return x
        weights = x.softmax(1)
        book = self.pixel_quantize.embedding.weight
        return self.pixel_decoder(torch.einsum("bnhw,nc->bchw", weights, book))


@torch.no_grad()
def make(legacy, seed, ch=CH):
    net = frames.randomise(Net(legacy, ch), seed)
    net.quantize.embedding.weight.mul_(LEGACY["token_size"] ** 0.5)
    if legacy:
        net.quantize.embedding.weight.mul_(torch.linspace(-1, 1, SIZE)[:, None].exp())
        net.pixel_quantize.embedding.weight.mul_(PIXEL_CHANNELS**0.5)
    return net


@functools.cache
def make_random(legacy):
    return make(legacy, 18)


@functools.cache
@torch.no_grad()
def make_faithful(legacy):
    """It has the photos by heart: their latents are in the codebook, with 192 that are not."""
    net = make(legacy, 19, frames.CH)
    for layer in net.decoder.transformer:  # sharper attention, so that photos differ more
        layer.attn.in_proj_weight[: 2 * WIDTH] *= 2
    photos = frames.load_photos(SIDE, PIXEL_RANGE)
    latents = net.encoder(photos, net.latent_tokens)[..., 0].mT.flatten(0, 1)
    book = net.quantize.embedding.weight
    at = torch.randperm(SIZE, generator=torch.Generator().manual_seed(20))[: len(latents)]
    book[at] = latents * torch.linspace(0.5, 1.5, len(at))[:, None] if legacy else latents
    seen = net.decoder.see(net.normalise(book[at]).unflatten(0, (len(photos), -1)))
    last = net.decoder.ffn[-1]
    if legacy:
        seen = net.decoder.ffn[:-1](seen)
        grid = torch.arange(len(photos) * (SIDE // PATCH) ** 2).view(-1, *seen.shape[2:])
        wanted = 20 * F.one_hot(grid, PIXEL_SIZE).permute(0, 3, 1, 2).float()
        vectors = net.pixel_quantize.embedding(grid).permute(0, 3, 1, 2)
        draw_photos(net.pixel_decoder, photos, vectors)
    else:
        blocks = photos.unflatten(2, (-1, PATCH)).unflatten(4, (-1, PATCH))  # (B, 3, h, P, w, P)
        wanted = blocks.permute(0, 3, 5, 1, 2, 4).flatten(1, 3)
        net.decoder.conv_out.weight.mul_(0.03)[range(3), range(3), 1, 1] = 1
        net.decoder.conv_out.bias.mul_(0.03)
    last.weight[:], last.bias[:] = fit(last, seen, wanted, 1e-5)
    return net


def draw_photos(decoder, photos, vectors):
    """Makes MaskGIT's decoder draw photos of vectors (B, C, h, w), level by level."""
    frames.carry_through(decoder)
    for level, size in zip((4, 3, 2), (8, 16, 32), strict=True):
        conv, seen = decoder.up[level].upsample_conv, []
        hook = conv.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0]))
        decoder(vectors)
        hook.remove()
        weight, bias = fit(conv, seen[0], F.adaptive_avg_pool2d(photos, size), 1e-4)
        for to, w, b in zip(frames.starts(frames.CH), weight, bias, strict=True):
            conv.weight[to : to + 3] = frames.GAIN * frames.SHAPE[:, None, None, None] * w
            conv.bias[to : to + 3] = frames.GAIN * frames.SHAPE * b + frames.CONSTANTS
    frames.leave(decoder.norm_out, decoder.conv_out, torch.eye(3), torch.zeros(3))


def fit(conv, x, wanted, ridge):
    """Returns the weight and the bias with which a convolution makes of x about what is wanted."""
    x = F.unfold(x, conv.kernel_size, padding=conv.padding).mT.flatten(0, 1)
    x, wanted = F.pad(x, (0, 1), value=1), wanted.flatten(2).mT.flatten(0, 1)
    squares = (x.T @ x).double()
    squares.diagonal().add_(ridge * squares.diagonal().mean())
    found = torch.linalg.solve(squares, (x.T @ wanted).double()).float().T
    return found[:, :-1].unflatten(1, conv.weight.shape[1:]), found[:, -1]


def make_config(legacy):
    config = {
        "experiment": {"tokenizer_checkpoint": "tokenizer_titok_bl64_vq8k.bin"},
        "model": {"vq_model": LEGACY if legacy else LATER},
        "dataset": {"preprocessing": {"crop_size": SIDE}},
    }
    if legacy:
        tokens = "${model.vq_model.num_latent_tokens}"  # omegaconf's, which is written as it is
        config["experiment"]["tokenizer_checkpoint"] = "tokenizer_titok_l32.bin"
        config["model"]["generator"] = {"model_type": "ViT", "image_seq_len": tokens}
    return config


def write(folder, net):
    """Hugging Face's."""
    config = make_config(hasattr(net, "pixel_decoder"))
    (folder / "config.json").write_text(json.dumps(config, indent=4))
    save_file(net.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


def write_bin(folder, net):
    """The authors' own."""
    config = make_config(hasattr(net, "pixel_decoder"))
    path = folder / config["experiment"]["tokenizer_checkpoint"]
    torch.save(net.state_dict(), path)
    (folder / path.stem.replace("tokenizer_", "")).with_suffix(".yaml").write_bytes(to_yaml(config))
    return str(path)
