"""CompVis' VQGAN in plain torch, from its published layout, and the files that it comes in.

Layout and arithmetic: CompVis/taming-transformers, `taming/modules/diffusionmodules/model.py` and
`taming/modules/vqvae/quantize.py` (`VectorQuantizer2`); CompVis/latent-diffusion has the same.
"""

import functools
import io
import math
import sys
import types

import torch
import torch.nn.functional as F  # noqa: N812 - as everybody does
import yaml
from torch import nn

# taming's vqgan_imagenet_f16_1024 (128-128-256-256-512, attention at 16 of 256), narrow and lower
TAMING = {
    "double_z": False,
    "z_channels": 24,
    "resolution": 64,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 32,
    "ch_mult": [1, 1, 2, 2, 4],
    "num_res_blocks": 2,
    "attn_resolutions": [4],
    "dropout": 0.0,
}
# latent-diffusion's vq-f4 (128-256-512), narrow
LDM_F4 = TAMING | {"z_channels": 3, "ch_mult": [1, 2, 4], "attn_resolutions": []}
DDCONFIGS = {
    "taming": TAMING,
    "ldm_f4": LDM_F4,
    "ldm_f4_noattn": LDM_F4 | {"attn_type": "none"},
    "attention_at_two_levels": LDM_F4
    | {"attn_resolutions": [32, 16], "num_res_blocks": 1, "tanh_out": False},
    "odd_resolution": LDM_F4 | {"resolution": 51, "attn_resolutions": [25, 24], "out_ch": 4},
}


def make_config(dd, target="taming.models.vqgan.VQModel", **params):
    lossconfig = {"target": "taming.modules.losses.vqperceptual.DummyLoss"}
    defaults = {"embed_dim": 6, "n_embed": 96, "monitor": "val/rec_loss", "lossconfig": lossconfig}
    model = {"target": target, "params": defaults | {"ddconfig": dd} | params}
    return {"model": {"base_learning_rate": 4.5e-06, **model}, "data": {"target": "main.Data"}}


def to_yaml(config):
    return yaml.safe_dump(config).encode()


def save(content, **options):
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def norm(channels):
    return nn.GroupNorm(32, channels, eps=1e-6)


def swish(x):
    return x * torch.sigmoid(x)


class Block(nn.Module):
    def __init__(self, a, b):
        super().__init__()
        self.norm1, self.conv1 = norm(a), nn.Conv2d(a, b, 3, padding=1)
        self.norm2, self.conv2 = norm(b), nn.Conv2d(b, b, 3, padding=1)
        if a != b:
            self.nin_shortcut = nn.Conv2d(a, b, 1)

    def forward(self, x):
        h = self.conv1(swish(self.norm1(x)))
        h = self.conv2(swish(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class Attn(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.norm = norm(c)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(c, c, 1) for _ in range(4))

    def forward(self, x):
        h = self.norm(x)
        q, k, v = (part(h).flatten(2) for part in (self.q, self.k, self.v))  # (B, C, H*W)
        weights = torch.softmax(torch.einsum("bci,bcj->bij", q, k) / math.sqrt(x.shape[1]), 2)
        return x + self.proj_out(torch.einsum("bij,bcj->bci", weights, v).reshape(x.shape))


def make_attn(channels, dd):
    return nn.Identity() if dd.get("attn_type") == "none" else Attn(channels)


class Sampled(nn.Module):
    def __init__(self, channels, is_down):
        super().__init__()
        self.is_down = is_down
        self.conv = nn.Conv2d(channels, channels, 3, 2 if is_down else 1, 0 if is_down else 1)

    def forward(self, x):
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.is_down else F.interpolate(x, None, 2.0))


def make_mid(channels, dd):
    mid = nn.Module()
    mid.block_1 = Block(channels, channels)
    mid.attn_1 = make_attn(channels, dd)
    mid.block_2 = Block(channels, channels)
    return mid


def run_level(level, x):
    for i, block in enumerate(level.block):
        x = block(x)
        x = level.attn[i](x) if len(level.attn) else x
    return x


class Encoder(nn.Module):
    def __init__(self, dd):
        super().__init__()
        widths, side = [dd["ch"] * m for m in dd["ch_mult"]], dd["resolution"]
        self.conv_in = nn.Conv2d(dd["in_channels"], dd["ch"], 3, padding=1)
        self.down = nn.ModuleList()
        before = dd["ch"]
        for i, width in enumerate(widths):
            level = nn.Module()
            level.block, level.attn = nn.ModuleList(), nn.ModuleList()
            for _ in range(dd["num_res_blocks"]):
                level.block.append(Block(before, width))
                before = width
                if side in dd["attn_resolutions"]:
                    level.attn.append(make_attn(width, dd))
            if i < len(widths) - 1:
                level.downsample = Sampled(width, is_down=True)
                side //= 2
            self.down.append(level)
        self.mid = make_mid(before, dd)
        self.norm_out = norm(before)
        self.conv_out = nn.Conv2d(before, dd["z_channels"], 3, padding=1)

    def forward(self, x):
        x = self.conv_in(x)
        for level in self.down:
            x = run_level(level, x)
            x = level.downsample(x) if hasattr(level, "downsample") else x
        x = self.mid.block_2(self.mid.attn_1(self.mid.block_1(x)))
        return self.conv_out(swish(self.norm_out(x)))


class Decoder(nn.Module):
    def __init__(self, dd):
        super().__init__()
        widths = [dd["ch"] * m for m in dd["ch_mult"]]
        side = dd["resolution"] // 2 ** (len(widths) - 1)
        before = widths[-1]
        self.conv_in = nn.Conv2d(dd["z_channels"], before, 3, padding=1)
        self.mid = make_mid(before, dd)
        levels = {}
        for i in reversed(range(len(widths))):
            level = levels[i] = nn.Module()
            level.block, level.attn = nn.ModuleList(), nn.ModuleList()
            for _ in range(dd["num_res_blocks"] + 1):
                level.block.append(Block(before, widths[i]))
                before = widths[i]
                if side in dd["attn_resolutions"]:
                    level.attn.append(make_attn(before, dd))
            if i > 0:
                level.upsample = Sampled(before, is_down=False)
                side *= 2
        self.up = nn.ModuleList(levels[i] for i in range(len(widths)))
        self.norm_out = norm(before)
        self.conv_out = nn.Conv2d(before, dd["out_ch"], 3, padding=1)

    def forward(self, x):
        x = self.conv_in(x)
        x = self.mid.block_2(self.mid.attn_1(self.mid.block_1(x)))
        for level in reversed(self.up):
            x = run_level(level, x)
            x = level.upsample(x) if hasattr(level, "upsample") else x
        return self.conv_out(swish(self.norm_out(x)))


class Quantize(nn.Module):
    def __init__(self, size, channels):
        super().__init__()
        self.embedding = nn.Embedding(size, channels)

    def forward(self, z):
        flat = z.permute(0, 2, 3, 1).flatten(0, 2)  # (B * h * w, C)
        book = self.embedding.weight
        distances = (flat**2).sum(1, keepdim=True) + (book**2).sum(1) - 2 * flat @ book.T
        return distances.argmin(1).view(z.shape[0], *z.shape[2:])


class VQGAN(nn.Module):
    def __init__(self, dd, embed_dim, n_embed, **_):
        super().__init__()
        self.encoder, self.decoder = Encoder(dd), Decoder(dd)
        self.quantize = Quantize(n_embed, embed_dim)
        self.quant_conv = nn.Conv2d(dd["z_channels"], embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, dd["z_channels"], 1)

    def encode(self, x):
        """Latents (B, C, h, w) and codes (B, h, w)."""
        latents = self.quant_conv(self.encoder(x))
        return latents, self.quantize(latents)

    def decode(self, codes):
        vectors = self.quantize.embedding(codes).permute(0, 3, 1, 2)
        return self.decoder(self.post_quant_conv(vectors))


@functools.cache
def make_vqgan(name):
    """A model with every weight random; shared, so tests leave it as it is."""
    torch.manual_seed(len(name))
    params = make_config(DDCONFIGS[name])["model"]["params"]
    model = VQGAN(params["ddconfig"], params["embed_dim"], params["n_embed"]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.03)
        nn.init.normal_(model.quantize.embedding.weight, std=0.3)
    return model


def write_taming(folder):
    """Writes a checkpoint and its config as taming-transformers leaves them; returns the first."""
    for name in ("checkpoints", "configs"):
        (folder / name).mkdir(parents=True)
    (folder / "configs" / "model.yaml").write_bytes(to_yaml(make_config(DDCONFIGS["taming"])))
    path = folder / "checkpoints" / "last.ckpt"
    path.write_bytes(save({"epoch": 1, "state_dict": make_vqgan("taming").state_dict()}))
    return path


def make_objects(monkeypatch, **classes):
    """Returns classes under names such as `pytorch_lightning.callbacks.X`, to be pickled only."""
    made = {}
    for name, (module, bases) in classes.items():
        parts = module.split(".")
        for parent in (".".join(parts[: i + 1]) for i in range(len(parts))):
            if parent not in sys.modules:
                monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
        made[name] = type(name, bases, {"__module__": module, "__qualname__": name})
        setattr(sys.modules[module], name, made[name])
    return made
