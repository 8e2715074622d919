"""TiTok's tokenizer: an image as a short sequence of codes, each of which is about all of it.

Names and arithmetic of bytedance/1d-tokenizer (`modeling/titok.py`, `modeling/modules/blocks.py`,
`modeling/quantizer/quantizer.py`). A transformer sees the patches of an image and a few latent
tokens, which become codes; another one sees their vectors and as many masks as there are patches.
There are two kinds, which its files tell apart by their tensors:

    legacy  the decoder says for each patch how likely each of MaskGIT's codes is, whose vectors,
            so mixed, MaskGIT's decoder turns into pixels; and the encoder takes numbers that are in
            the order of tokens for numbers in that of channels, as it was trained to
    later   the decoder gives the pixels of each patch
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqpipe.code_layout import CodeLayout
from vqpipe.errors import CheckpointError
from vqpipe.tokenizers import stored_network
from vqpipe.tokenizers.architecture import shape_of
from vqpipe.tokenizers.coding_network import CodingCheckpoint, CodingNetwork
from vqpipe.tokenizers.family import Family, Part
from vqpipe.tokenizers.family import Network as Converted
from vqpipe.tokenizers.llamagen import NORMALISED, normalise
from vqpipe.tokenizers.maskgit import convert_decoder
from vqpipe.tokenizers.naming import ADVICE, State
from vqpipe.tokenizers.stored_network import check_counts
from vqpipe.tokenizers.tokenizer import Description
from vqpipe.vqgan.config import VQConfig
from vqpipe.vqgan.layers import Decoder
from vqpipe.vqgan.nearest import find_nearest
from vqpipe.vqgan.tensors import check_tensors

NAME = "TiTok"
"""Of its class, in `config.json`."""
HEAD = 64
"""Channels of an attention head, in all sizes."""


@dataclass(frozen=True, kw_only=True)
class TiTokConfig:
    """The architecture."""

    side: int
    """Of the images, in pixels."""
    patch: int
    """Side of a patch, in pixels."""
    tokens: int
    """Codes of an image."""
    codebook_size: int
    token_size: int
    """Length of a codebook vector."""
    encoder_width: int
    encoder_layers: int
    decoder_width: int
    decoder_layers: int
    pixels: Mapping[str, Any] | None = None
    """Architecture of MaskGIT's decoder (`VQConfig`) where there is one: then it is the legacy
    kind; of its codebook, `num_vq_embeddings` and `latent_channels`."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: One cannot be.
        """
        counts = asdict(self)
        pixels = counts.pop("pixels")
        check_counts(**counts)
        if self.side % self.patch:
            raise ValueError(f"side is {self.side}, no multiple of patch, {self.patch}")
        for name in ("encoder_width", "decoder_width"):
            if counts[name] % HEAD:
                raise ValueError(f"{name} is {counts[name]}, no multiple of {HEAD}")
        if pixels is not None and not isinstance(pixels, Mapping):
            raise ValueError(f"pixels is {pixels!r}, and has to be an architecture")

    @property
    def patches(self) -> int:
        """Along a side."""
        return self.side // self.patch


class Attention(nn.Module):
    """What tokens take from each other; named as torch's `nn.MultiheadAttention`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, N, width), as x is."""
        B, N, width = x.shape
        projected = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = projected.view(B, N, 3, width // HEAD, HEAD).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)  # (B, heads, N, HEAD)
        return self.out_proj(mixed.transpose(1, 2).reshape(B, N, width))


class Layer(nn.Module):
    """Attention and two linear layers, each around a skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = Attention(width)
        self.mlp = nn.ModuleDict(
            {"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)}
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens (B, N, width)."""
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x))))


class Transformer(nn.Module):
    """What sees an image's tokens and latent ones: a class token before, norms around."""

    def __init__(self, width: int, layers: int, patches: int, tokens: int) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.empty(1, width))
        self.positional_embedding = nn.Parameter(torch.empty(patches + 1, width))
        self.latent_token_positional_embedding = nn.Parameter(torch.empty(tokens, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = nn.ModuleList(Layer(width) for _ in range(layers))

    def see(self, image: Tensor, latent: Tensor) -> Tensor:
        """Return all tokens (B, 1 + patches + tokens, width), not yet normalised."""
        first = self.class_embedding.expand(len(image), 1, -1)
        image = torch.cat([first, image], 1) + self.positional_embedding
        x = self.ln_pre(torch.cat([image, latent + self.latent_token_positional_embedding], 1))
        for layer in self.transformer:
            x = layer(x)
        return x


class Encoder(Transformer):
    """Pixels to vectors of latent tokens."""

    def __init__(self, config: TiTokConfig) -> None:
        width = config.encoder_width
        super().__init__(width, config.encoder_layers, config.patches**2, config.tokens)
        self.is_legacy = config.pixels is not None
        self.patch_embed = nn.Conv2d(3, width, config.patch, config.patch)
        self.conv_out = nn.Conv2d(width, config.token_size, 1)

    def forward(self, pixels: Tensor, latent_tokens: Tensor) -> Tensor:
        """Return (B, token size, tokens)."""
        image = self.patch_embed(pixels).flatten(2).transpose(1, 2)
        latent = latent_tokens.expand(len(pixels), -1, -1)
        x = self.ln_post(self.see(image, latent)[:, -len(latent_tokens) :])  # (B, n, width)
        B, n, width = x.shape
        x = x.reshape(B, width, n) if self.is_legacy else x.transpose(1, 2)
        return self.conv_out(x[..., None])[..., 0]


class TokenDecoder(Transformer):
    """Vectors of latent tokens to what each patch is: pixels, or logits of MaskGIT's codes."""

    def __init__(self, config: TiTokConfig) -> None:
        width = config.decoder_width
        super().__init__(width, config.decoder_layers, config.patches**2, config.tokens)
        self.patch, self.patches = config.patch, config.patches
        self.is_legacy = config.pixels is not None
        self.decoder_embed = nn.Linear(config.token_size, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        if config.pixels is not None:
            last = nn.Conv2d(2 * width, config.pixels["num_vq_embeddings"], 1)
            self.ffn = nn.Sequential(nn.Conv2d(width, 2 * width, 1), nn.Tanh(), last)
        else:
            self.ffn = nn.Sequential(nn.Conv2d(width, 3 * config.patch**2, 1))
            self.conv_out = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, vectors: Tensor) -> Tensor:
        """Return (B, 3, H, W), or (B, codes, h, w), of vectors (B, tokens, token size)."""
        side, patch = self.patches, self.patch
        masks = self.mask_token.expand(len(vectors), side * side, -1)
        x = self.see(masks, self.decoder_embed(vectors))[:, 1 : 1 + side * side]
        x = self.ln_post(x).transpose(1, 2).reshape(len(x), -1, side, side)
        x = self.ffn(x)
        if self.is_legacy:
            return x
        x = x.view(len(x), patch, patch, 3, side, side)  # the channels of a pixel side by side
        x = x.permute(0, 3, 4, 1, 5, 2).reshape(len(x), 3, side * patch, side * patch)
        return self.conv_out(x)


class TiTokNetwork(CodingNetwork):
    """Latents of pixels, and pixels of codes."""

    def __init__(self, config: TiTokConfig) -> None:
        super().__init__()
        self.latent_tokens = nn.Parameter(torch.empty(config.tokens, config.encoder_width))
        self.encoder, self.decoder = Encoder(config), TokenDecoder(config)
        self.quantize = _codebook(config.codebook_size, config.token_size)
        self.is_legacy = config.pixels is not None
        if config.pixels is not None:
            pixels = VQConfig(**config.pixels)
            self.pixel_quantize = _codebook(pixels.num_vq_embeddings, pixels.latent_channels)
            self.pixel_decoder = Decoder(pixels)

    def encode(self, pixels: Tensor) -> Tensor:
        """Return latents (B, token size, tokens)."""
        return self.encoder(pixels, self.latent_tokens)

    def look_up(self, latents: Tensor) -> Tensor:
        """Return codes (B, tokens), int64, of latents (B, token size, tokens) float32."""
        vectors = latents.transpose(1, 2)
        codebook: Tensor = self.quantize["embedding"].weight  # type: ignore[assignment]
        return find_nearest(vectors.flatten(0, 1), codebook).view(vectors.shape[:2])

    def quantized(self, codes: Tensor) -> Tensor:
        """Return entries (B, token size, tokens) of codes (B, tokens)."""
        return self.quantize["embedding"](codes).transpose(1, 2)

    def decode(self, quantized: Tensor) -> Tensor:
        """Return pixels (B, 3, H, W) of entries (B, token size, tokens)."""
        x = self.decoder(quantized.transpose(1, 2))
        if not self.is_legacy:
            return x
        codebook = self.pixel_quantize["embedding"].weight
        return self.pixel_decoder(torch.einsum("bnhw,nc->bchw", x.softmax(1), codebook))


def _codebook(size: int, length: int) -> nn.ModuleDict:
    return nn.ModuleDict({"embedding": nn.Embedding(size, length)})


class TiTokCheckpoint(CodingCheckpoint):
    """Architecture and weights, checked against each other."""

    config: TiTokConfig
    Network = TiTokNetwork
    read_config = TiTokConfig
    exact = ("quantize.",)

    @functools.cached_property
    def description(self) -> Description:
        """What the tokenizer takes and gives."""
        config = self.config
        codes = CodeLayout("sequence", ((config.tokens,),), (config.codebook_size,))
        return Description(
            codebook_size=config.codebook_size,
            multiple=config.patch,
            fixed={(config.side, config.side): codes},
            latent_channels=config.token_size,
            network=f"transformers of {config.encoder_layers} and {config.decoder_layers} layers",
            config=asdict(config),
        )


CODEBOOK = "quantize.embedding.weight"
_PIXEL_CODEBOOK = "pixel_quantize.embedding.weight"
_PIXELS = "pixel_decoder."


def convert(part: Part) -> Converted:
    """Return the same, MaskGIT's decoder as that of a VQModel."""
    said = _find_config(part)
    own = {name: each for name, each in part.state.items() if not name.startswith(_PIXELS)}
    pixels, decoder = _convert_pixels(part)
    config = _read_shapes(part, pixels)
    _check_against(config, said, part)
    state = {**own, **decoder}
    expected = stored_network.expected_of(lambda: TiTokNetwork(config))
    check_tensors(expected, state, part.source, ADVICE)
    did: tuple[str, ...] = ()
    if said["use_l2_norm"]:
        state[CODEBOOK], did = normalise(state[CODEBOOK]), (NORMALISED,)
    return Converted(NAME, asdict(config), state, did)


def _find_config(part: Part) -> Mapping[str, Any]:
    """Return what the config says of the tokenizer; one thing is not in the weights."""
    model = (part.config or {}).get("model")
    said = model.get("vq_model") if isinstance(model, Mapping) else None
    if not isinstance(said, Mapping) or type(said.get("use_l2_norm")) is not bool:
        raise CheckpointError(
            f"{part.source} is a TiTok, and nothing says whether the vectors of its codebook are "
            "normalised: name its config with --model-config, in which use_l2_norm of "
            "model.vq_model does"
        )
    if said.get("quantize_mode", "vq") != "vq":
        raise CheckpointError(
            f"{part.config_source}: quantize_mode is {said['quantize_mode']!r}; a TiTok without "
            "codes is no tokenizer that can be encoded with"
        )
    return said


def _convert_pixels(part: Part) -> tuple[dict[str, Any] | None, dict[str, Tensor]]:
    """Return architecture and weights of MaskGIT's decoder, if there is one."""
    own = {
        f"decoder.{name.removeprefix(_PIXELS)}": each
        for name, each in part.state.items()
        if name.startswith(_PIXELS)
    }
    if not own:
        if "decoder.ffn.2.weight" in part.state:
            raise CheckpointError(
                f"{part.source} is a TiTok of its first stage, which gives codes of MaskGIT and no "
                "pixels; take the second stage"
            )
        return None, {}
    config, state = convert_decoder(own, part.source)
    size, channels = _shape(part, _PIXEL_CODEBOOK, 2)
    pixels = {**config, "num_vq_embeddings": size, "latent_channels": channels}
    named = {f"pixel_{name}": each for name, each in state.items()}
    return pixels, named


def _read_shapes(part: Part, pixels: Mapping[str, Any] | None) -> TiTokConfig:
    """Return the architecture that the shapes of weights show."""
    patch = _shape(part, "encoder.patch_embed.weight", 4)
    patches = math.isqrt(_shape(part, "encoder.positional_embedding", 2)[0] - 1)
    codebook_size, token_size = _shape(part, CODEBOOK, 2)
    return TiTokConfig(
        side=patches * patch[-1],
        patch=patch[-1],
        tokens=_shape(part, "latent_tokens", 2)[0],
        codebook_size=codebook_size,
        token_size=token_size,
        encoder_width=patch[0],
        encoder_layers=_count(part.state, "encoder"),
        decoder_width=_shape(part, "decoder.decoder_embed.weight", 2)[0],
        decoder_layers=_count(part.state, "decoder"),
        pixels=pixels,
    )


def _shape(part: Part, name: str, rank: int) -> tuple[int, ...]:
    return shape_of(part.state, name, rank, part.source)


def _count(state: State, half: str) -> int:
    """Return how many layers encoder or decoder has."""
    starts = {name.split(".")[2] for name in state if name.startswith(f"{half}.transformer.")}
    return len(starts)


def _check_against(config: TiTokConfig, said: Mapping[str, Any], part: Part) -> None:
    """Hold what shapes show against what the config says."""
    shown = {
        "num_latent_tokens": config.tokens,
        "codebook_size": config.codebook_size,
        "token_size": config.token_size,
        "vit_enc_patch_size": config.patch,
        "vit_dec_patch_size": config.patch,
        "finetune_decoder": config.pixels is not None,
        "is_legacy": config.pixels is not None,
    }
    part.check_said(said, shown)


def _is_named(config: Mapping[str, Any]) -> bool:
    model = config.get("model")
    return isinstance(model, Mapping) and "vq_model" in model


FAMILY = Family(
    name="titok",
    models="TiTok",
    signs=("encoder.latent_token_positional_embedding", "latent_tokens", CODEBOOK),
    is_named=_is_named,
    convert=convert,
    pixel_range="unit",
)
