"""The VQ models of `vqpipe.vqgan` as tokenizers: the one place that knows both."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vqpipe.tokenizers.tokenizer import Description
from vqpipe.vqgan import VQConfig, VQModel
from vqpipe.vqgan.checkpoint import read_checkpoint
from vqpipe.vqgan.fusion import fuse
from vqpipe.vqgan.model import build_model, expected_state
from vqpipe.vqgan.nearest import find_nearest

_CODEBOOK = "quantize.embedding.weight"
_UPCAST: dict[str, str] = {"float16": "its config says force_upcast, that float16 overflows in it"}


@dataclass(frozen=True)
class VQCheckpoint:
    """Architecture and weights of a VQ model, strictly checked against each other."""

    config: VQConfig
    state: Mapping[str, Tensor]
    """Every weight, by its name of today."""

    @classmethod
    def read(cls, files: Mapping[str, bytes], where: str) -> "VQCheckpoint":
        """Returns the checkpoint that is in files of diffusers' layout.

        Args:
            files: Contents by name.
            where: What to call the checkpoint in errors.

        Raises:
            CheckpointError: A file is missing or damaged, or not this architecture's.
        """
        return cls(*read_checkpoint(files, expected_state, where))

    @functools.cached_property
    def description(self) -> Description:
        """What the tokenizer takes and gives."""
        config = self.config
        return Description(
            codebook_size=config.num_vq_embeddings,
            multiple=config.downsample_factor,
            channels=config.in_channels,
            latent_channels=config.embed_dim,
            network=f"channels {', '.join(map(str, config.block_out_channels))}",
            config=dict(config),
            unsafe=_UPCAST if config.force_upcast else {},
        )

    @property
    def codebook(self) -> dict[str, Tensor]:
        """What decides what a code stands for, by name."""
        return {_CODEBOOK: self.state[_CODEBOOK]}

    def build(self, device: torch.device, dtype: torch.dtype) -> "VQTokenizer":
        """Returns the network on a device and in a dtype; the codebook stays float32."""
        network = build_model(self.config, self.state, dtype=torch.float32)
        network.to(device)
        codebook = network.quantize.embedding.weight.data
        network.to(dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        network.quantize.embedding.weight.data = codebook
        return VQTokenizer(network, dtype, self.description)


class VQTokenizer:
    """A VQ model on a device.

    Args:
        network: The model, placed.
        dtype: Of the network; its codebook is float32.
        description: What it takes and gives.
    """

    def __init__(self, network: VQModel, dtype: torch.dtype, description: Description) -> None:
        self.description = description
        self._network = network
        self._dtype = dtype

    def fuse(self) -> None:
        """Takes the forms of `vqgan.fusion`."""
        fuse(self._network)

    def latents_of(self, pixels: Tensor) -> Tensor:
        """Returns latents (B, C, h, w) float32 of pixels (B, 3, H, W)."""
        return self._network.encode(pixels.to(self._dtype)).latents.float()

    def codes_of(self, latents: Tensor) -> Tensor:
        """Returns codes (B, h, w) of latents (B, C, h, w) float32: the nearest entries."""
        vectors = latents.permute(0, 2, 3, 1)  # (B, h, w, C)
        codebook = self._network.quantize.embedding.weight
        return find_nearest(vectors.flatten(0, 2), codebook).view(vectors.shape[:3])

    def quantized_of(self, codes: Tensor) -> Tensor:
        """Returns entries (B, C, h, w) float32, channels-last, of codes (B, h, w)."""
        return self._network.quantize.embedding(codes).permute(0, 3, 1, 2)

    def decode(self, quantized: Tensor) -> Tensor:
        """Returns pixels (B, 3, H, W) float32 of entries (B, C, h, w) float32, channels-last."""
        return self._network.decode_quantized(quantized.to(self._dtype)).float()

    def pixels_of(self, codes: Tensor) -> Tensor:
        """Returns pixels (B, 3, H, W) float32 of codes (B, h, w)."""
        return self.decode(self.quantized_of(codes))
