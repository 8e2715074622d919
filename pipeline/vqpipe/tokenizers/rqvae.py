"""RQ-VAE: a grid with several codes at each place, each of what those before have left.

Names and arithmetic of kakaobrain/rq-vae-transformer (`rqvae/models/rqvae/rqvae.py`,
`quantizations.py`, class `RQBottleneck`, and `modules.py`). Encoder and decoder are CompVis'. The
nearest entry to the latents is taken away from them, the nearest to the rest from that, and so on;
the decoder gets the sum. Codebooks are one for all codes of a place, or one for each.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vqpipe.errors import CheckpointError
from vqpipe.tokenizers import stored_network
from vqpipe.tokenizers.architecture import architecture_of
from vqpipe.tokenizers.averages import Rule
from vqpipe.tokenizers.coding_network import CodingCheckpoint, CodingNetwork
from vqpipe.tokenizers.family import Family, Part
from vqpipe.tokenizers.family import Network as Converted
from vqpipe.tokenizers.naming import COMPVIS, Naming, State, rename
from vqpipe.tokenizers.stored_network import check_counts
from vqpipe.tokenizers.tokenizer import Description
from vqpipe.vqgan.config import VQConfig
from vqpipe.vqgan.layers import Decoder, Encoder
from vqpipe.vqgan.nearest import find_nearest
from vqpipe.vqgan.tensors import list_names

NAME = "RQVAE"
"""Of its class, in `config.json`."""


@dataclass(frozen=True)
class RQVAEConfig:
    """The architecture: a VQ model's, how many codes a place has, and how many codebooks."""

    vq: VQConfig
    depth: int
    codebooks: int
    """1, which all share, or `depth`."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: One is none, or there are fewer codebooks than codes to look up.
        """
        check_counts(depth=self.depth, codebooks=self.codebooks)
        if self.codebooks not in (1, self.depth):
            raise ValueError(f"codebooks is {self.codebooks}, neither 1 nor depth, {self.depth}")

    @classmethod
    def read(cls, *, depth: int, codebooks: int, **said: Any) -> "RQVAEConfig":  # noqa: ANN401 - VQConfig checks them
        """Return what `document` wrote."""
        return cls(VQConfig(**said), depth, codebooks)

    def document(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {**self.vq, "depth": self.depth, "codebooks": self.codebooks}


class RQVAENetwork(CodingNetwork):
    """Latents of pixels, codes of latents, and back."""

    def __init__(self, config: RQVAEConfig) -> None:
        super().__init__()
        vq, self.depth = config.vq, config.depth
        self.encoder = Encoder(vq)
        self.decoder = Decoder(vq)
        self.quant_conv = nn.Conv2d(vq.latent_channels, vq.embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(vq.embed_dim, vq.latent_channels, 1)
        self.codebooks = nn.ModuleList(
            nn.Embedding(vq.num_vq_embeddings, vq.embed_dim) for _ in range(config.codebooks)
        )

    def codebook(self, step: int) -> nn.Module:
        """Return the codebook of a place's code."""
        return self.codebooks[step if len(self.codebooks) > 1 else 0]

    def encode(self, pixels: Tensor) -> Tensor:
        """Return latents (B, C, h, w)."""
        return self.quant_conv(self.encoder(pixels))

    def look_up(self, latents: Tensor) -> Tensor:
        """Return codes (B, h, w, depth), int64, of latents (B, C, h, w) float32."""
        grid = latents.permute(0, 2, 3, 1)  # (B, h, w, C)
        left, found = grid.flatten(0, 2), []
        for step in range(self.depth):
            codebook = self.codebook(step)
            codes = find_nearest(left, codebook.weight)  # type: ignore[arg-type]
            left = left - codebook(codes)
            found.append(codes)
        return torch.stack(found, -1).view(*grid.shape[:3], self.depth)

    def quantized(self, codes: Tensor) -> Tensor:
        """Return the sum of the entries of each place, (B, C, h, w), of codes (B, h, w, depth)."""
        entries = [self.codebook(step)(codes[..., step]) for step in range(self.depth)]
        return torch.stack(entries).sum(0).permute(0, 3, 1, 2)

    def decode(self, quantized: Tensor) -> Tensor:
        """Return pixels (B, 3, H, W)."""
        return self.decoder(self.post_quant_conv(quantized))


class RQVAECheckpoint(CodingCheckpoint):
    """Architecture and weights, checked against each other."""

    config: RQVAEConfig
    Network = RQVAENetwork
    read_config = RQVAEConfig.read
    exact = ("codebooks.",)

    @functools.cached_property
    def description(self) -> Description:
        """What the tokenizer takes and gives."""
        vq = self.config.vq
        return Description(
            codebook_size=vq.num_vq_embeddings,
            multiple=vq.downsample_factor,
            depth=self.config.depth,
            codebooks=self.config.codebooks,
            channels=vq.in_channels,
            latent_channels=vq.embed_dim,
            network=f"channels {', '.join(map(str, vq.block_out_channels))}",
            config=self.config.document(),
        )


_CODEBOOK = "quantizer.codebooks."
NAMING = Naming(
    {**COMPVIS, ".codebooks.": f".{_CODEBOOK}", ".quantize.embedding.": f".{_CODEBOOK}0."}
)
_COUNTERS = (".cluster_size_ema", ".embed_ema")
"""Ends of the names of what codebooks are learnt by."""


def convert(part: Part) -> Converted:
    """Return the same under our names."""
    hparams = _find_hparams(part)
    _check_places(hparams, part)
    state = {name: each for name, each in part.state.items() if not name.endswith(_COUNTERS)}
    state, depth, codebooks = _settle_codebooks(state, part.source)
    config = RQVAEConfig(architecture_of(state, NAMING, part.source), depth, codebooks)
    _check_against(config, hparams, part)
    expected = stored_network.expected_of(lambda: RQVAENetwork(config))
    named = rename(state, NAMING.by_theirs(expected), expected, part.source)
    shared = f"{depth} codes a place, of " + ("one codebook" if codebooks == 1 else "one each")
    return Converted(NAME, config.document(), named, (shared,))


def _find_hparams(part: Part) -> Mapping[str, Any]:
    """Return what a config says of the codes; nothing where there is none."""
    arch = (part.config or {}).get("arch")
    said = arch.get("hparams") if isinstance(arch, Mapping) else None
    return said if isinstance(said, Mapping) else {}


def _check_places(said: Mapping[str, Any], part: Part) -> None:
    """Refuse what the network cannot do."""
    latents, codes = (said.get(name) for name in ("latent_shape", "code_shape"))
    if isinstance(latents, list) and isinstance(codes, list) and latents[:2] != codes[:2]:
        raise CheckpointError(
            f"{part.config_source}: code_shape is {codes} and latent_shape {latents}; an RQ-VAE "
            "that takes several latents for one place cannot be expressed yet"
        )


def _check_against(config: RQVAEConfig, said: Mapping[str, Any], part: Part) -> None:
    """Hold what the weights show against what the config says."""
    codes, depth = said.get("code_shape"), "code_shape's last number"
    last = {depth: codes[2]} if isinstance(codes, list) and len(codes) == 3 else {}
    told = {name: value for name, value in {**said, **last}.items() if value is not None}
    shown = {
        depth: config.depth,
        "n_embed": config.vq.num_vq_embeddings,
        "embed_dim": config.vq.embed_dim,
    }
    part.check_said(told, shown)


def _settle_codebooks(state: State, source: str) -> tuple[dict[str, Tensor], int, int]:
    """Return weights without the row of padding, and with one codebook where all are the same.

    Returns:
        The weights, the number of codes a place has, and the number of codebooks.
    """
    names = [name for name in state if name.startswith(_CODEBOOK)]
    in_order = [f"{_CODEBOOK}{i}.weight" for i in range(len(names))]
    if set(names) != set(in_order) or any(state[name].ndim != 2 for name in names):
        raise CheckpointError(
            f"{source}: its codebooks are {list_names(set(names))}, which are to be tables, "
            "counted from 0; get the file anew"
        )
    books = [state[name][:-1] for name in in_order]
    if len({tuple(each.shape) for each in books}) > 1:
        raise CheckpointError(
            f"{source}: its codebooks are of several sizes, which cannot be expressed yet"
        )
    is_shared = all(torch.equal(each, books[0]) for each in books[1:])
    kept = books[:1] if is_shared else books
    rest = {name: each for name, each in state.items() if name not in names}
    named = {f"{_CODEBOOK}{i}.weight": each for i, each in enumerate(kept)}
    return {**rest, **named}, len(books), len(kept)


def _is_named(config: Mapping[str, Any]) -> bool:
    arch = config.get("arch")
    return isinstance(arch, Mapping) and arch.get("type") == "rq-vae"


FAMILY = Family(
    name="rqvae",
    models="RQ-VAE",
    signs=(
        "encoder.mid.block_1.conv1.weight",
        f"{_CODEBOOK}0.weight",
        "quant_conv.weight",
    ),
    is_named=_is_named,
    convert=convert,
    pixel_range="signed",
    rule=Rule("raw", "its own programs take"),
)
