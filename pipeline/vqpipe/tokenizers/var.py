"""VAR's tokenizer: grids of codes from 1 x 1 to 16 x 16, each of which corrects those before.

Names and arithmetic of FoundationVision/VAR (`models/vqvae.py`, `models/quant.py`, class
`VectorQuantizer2`, and `models/basic_vae.py`). Encoder and decoder are CompVis', with q, k and v of
an attention in one convolution, and 3 x 3 convolutions before and after the quantiser. That begins
with what there is of the latents, and scale by scale

    averages it down to the grid of the scale, and takes the nearest entries as codes;
    spreads their vectors bicubically over the finest grid, mixes in a convolution of them (`Phi`),
    and takes the result away from what is left.

The decoder gets the sum of all these results.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqpipe.code_layout import CodeLayout
from vqpipe.errors import CheckpointError
from vqpipe.tokenizers import stored_network
from vqpipe.tokenizers.architecture import architecture_of
from vqpipe.tokenizers.coding_network import CodingCheckpoint, CodingNetwork
from vqpipe.tokenizers.family import Family, Part
from vqpipe.tokenizers.family import Network as Converted
from vqpipe.tokenizers.naming import COMPVIS, Naming, rename
from vqpipe.tokenizers.stored_network import check_counts
from vqpipe.tokenizers.taming import SIGNS
from vqpipe.tokenizers.tokenizer import Description
from vqpipe.vqgan.config import VQConfig
from vqpipe.vqgan.layers import Decoder, Encoder
from vqpipe.vqgan.nearest import find_nearest
from vqpipe.vqgan.precision import float32_products

NAME = "VARTokenizer"
"""Of its class, in `config.json`."""
SCALES = {
    256: (1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
    512: (1, 2, 3, 4, 6, 9, 13, 18, 24, 32),
}
"""Codes along a side, scale by scale, by the side of the image in pixels (`models/__init__.py`, and
for VAR-d36 the README)."""
MULTIPLE = 16
"""Pixels along a side of a code of the last scale."""
MIXED = 0.5
"""How much of a result is the convolution's (`quant_resi`)."""
CODEBOOK = "quantize.weight"


@dataclass(frozen=True)
class VARConfig:
    """The architecture: a VQ model's encoder and decoder, and how many convolutions mix results."""

    vq: VQConfig
    phis: int

    def __post_init__(self) -> None:
        """Check the number.

        Raises:
            ValueError: It is none.
        """
        check_counts(phis=self.phis)

    @classmethod
    def read(cls, **said: Any) -> "VARConfig":  # noqa: ANN401 - VQConfig checks them
        """Return what `document` wrote."""
        phis = said.pop("phis")
        return cls(VQConfig(**said), phis)

    def document(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {**self.vq, "phis": self.phis}


class VARNetwork(CodingNetwork):
    """Latents of pixels, codes of latents, and back. Grids are square, of a side in `SCALES`."""

    def __init__(self, config: VARConfig) -> None:
        super().__init__()
        channels = config.vq.latent_channels
        self.encoder = Encoder(config.vq)
        self.decoder = Decoder(config.vq)
        self.quant_conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.post_quant_conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.quantize = nn.Embedding(config.vq.num_vq_embeddings, channels)
        self.phis = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1) for _ in range(config.phis)
        )

    def encode(self, pixels: Tensor) -> Tensor:
        """Return latents (B, C, h, w)."""
        return self.quant_conv(self.encoder(pixels))

    def look_up(self, latents: Tensor) -> Tensor:
        """Return the codes of all scales, (B, n) int64, of latents (B, C, h, w) float32."""
        with float32_products("ieee"):
            return self._look_up(latents)

    def _look_up(self, latents: Tensor) -> Tensor:
        left, found = latents, []
        scales = _scales_of(latents.shape[-1])
        for scale, side in enumerate(scales):
            small = F.interpolate(left, (side, side), mode="area").permute(0, 2, 3, 1)
            codes = find_nearest(small.flatten(0, 2), self.quantize.weight).view(small.shape[:3])
            left = left - self.spread(codes, scale, scales)
            found.append(codes.flatten(1))
        return torch.cat(found, 1)

    def spread(self, codes: Tensor, scale: int, scales: tuple[int, ...]) -> Tensor:
        """Return what the codes (B, s, s) of a scale add, (B, C, h, w)."""
        vectors = self.quantize(codes).permute(0, 3, 1, 2)
        if scale < len(scales) - 1:
            vectors = F.interpolate(vectors, (scales[-1],) * 2, mode="bicubic")
        phi = self.phis[choose_phi(scale, len(scales), len(self.phis))]
        return (1 - MIXED) * vectors + MIXED * phi(vectors)

    def quantized(self, codes: Tensor) -> Tensor:
        """Return the sum of all scales, (B, C, h, w), of codes (B, n)."""
        scales = next(each for each in SCALES.values() if codes.shape[1] == _length(each))
        grids = torch.split(codes, [side * side for side in scales], 1)
        added = [
            self.spread(grid.view(-1, side, side), scale, scales)
            for scale, (grid, side) in enumerate(zip(grids, scales, strict=True))
        ]
        return torch.stack(added).sum(0)

    def decode(self, quantized: Tensor) -> Tensor:
        """Return pixels (B, 3, H, W)."""
        return self.decoder(self.post_quant_conv(quantized))


def _length(scales: tuple[int, ...]) -> int:
    return sum(side * side for side in scales)


def _scales_of(side: int) -> tuple[int, ...]:
    """Return the scales of latents of so many places along a side."""
    return next(scales for scales in SCALES.values() if scales[-1] == side)


def choose_phi(scale: int, scales: int, phis: int) -> int:
    """Return which convolution mixes the results of a scale: the nearest on a line from 0 to 1.

    Where two are as near, rounding decides: it has to be that of `PhiPartiallyShared`.
    """
    margin = 1 / 3 / phis if phis == 4 else 1 / 2 / phis
    ticks = np.linspace(margin, 1 - margin, phis)
    return int(np.abs(ticks - scale / (scales - 1)).argmin())


class VARCheckpoint(CodingCheckpoint):
    """Architecture and weights, checked against each other."""

    config: VARConfig
    Network = VARNetwork
    read_config = VARConfig.read
    exact = ("quantize.", "phis.")

    @functools.cached_property
    def description(self) -> Description:
        """What the tokenizer takes and gives."""
        vq = self.config.vq
        size = vq.num_vq_embeddings
        layouts = {
            (side, side): CodeLayout("scales", tuple((s, s) for s in scales), (size,))
            for side, scales in SCALES.items()
        }
        return Description(
            codebook_size=size,
            multiple=MULTIPLE,
            fixed=layouts,
            channels=vq.in_channels,
            latent_channels=vq.latent_channels,
            network=f"channels {', '.join(map(str, vq.block_out_channels))}, in scales",
            config=self.config.document(),
        )


NAMING = Naming(COMPVIS)
_PHI = "quantize.quant_resi.qresi_ls."


_HITS = "quantize.ema_vocab_hit_SV"
"""How often each entry was used in training, scale by scale: of its file, it alone counts them."""


def convert(part: Part) -> Converted:
    """Return the same under our names."""
    _check_scales(part)
    state = _split({name: each for name, each in part.state.items() if name != _HITS})
    vq = architecture_of(state, NAMING, part.source)
    phis = sum(name.startswith(_PHI) and name.endswith("weight") for name in state)
    config = VARConfig(vq, phis)
    expected = stored_network.expected_of(lambda: VARNetwork(config))
    names = {_name(ours, len(vq.block_out_channels)): ours for ours in expected}
    named = rename(state, names, expected, part.source)
    return Converted(NAME, config.document(), named, (_ASSUMED,))


_ASSUMED = f"{len(SCALES[256])} scales as VAR has them at 256 and 512 px, results mixed by {MIXED}"
"""What no file says."""


def _check_scales(part: Part) -> None:
    """Refuse other scales than those of `SCALES`, where file or config shows that there are.

    Raises:
        CheckpointError: It does.
    """
    said: Any = [(part.config or {}).get(name) for name in ("v_patch_nums", "patch_nums")]
    others = [each for each in said if each is not None and each not in map(list, SCALES.values())]
    hits = part.state.get(_HITS)
    counts = {len(each) for each in SCALES.values()}
    if hits is not None and (hits.ndim != 2 or len(hits) not in counts):
        others.append(f"of a number that {_HITS} {tuple(hits.shape)} has counters of")
    if others:
        raise CheckpointError(
            f"{part.source} has scales {others[0]}; those of VAR's own tokenizer are served: "
            f"{' or '.join(str(list(each)) for each in SCALES.values())}"
        )


def _name(ours: str, levels: int) -> str:
    """Return VAR's name of a tensor."""
    if ours == CODEBOOK:
        return "quantize.embedding.weight"
    if ours.startswith("phis."):
        return _PHI + ours.removeprefix("phis.")
    return NAMING.name(ours, levels)


def _split(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights in which q, k and v are convolutions of their own."""
    split: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if ".qkv." not in name:
            split[name] = tensor
            continue
        for letter, each in zip("qkv", tensor.chunk(3), strict=True):
            split[name.replace(".qkv.", f".{letter}.")] = each
    return split


FAMILY = Family(
    name="var",
    models="VAR",
    signs=(*SIGNS, f"{_PHI}0.weight"),
    is_named=lambda _: False,
    convert=convert,
    pixel_range="signed",
)
