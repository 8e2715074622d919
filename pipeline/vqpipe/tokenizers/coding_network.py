"""What networks that are no VQModel have in common: they look up codes, in whatever layout."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from vqpipe.tokenizers.tokenizer import Description
from vqpipe.vqgan.fusion import fuse


class CodingNetwork(nn.Module, ABC):
    """Pixels to latents to codes, and codes to what the decoder takes to pixels."""

    @abstractmethod
    def encode(self, pixels: Tensor) -> Tensor:
        """Return latents of pixels (B, 3, H, W), both in the network's dtype."""

    @abstractmethod
    def look_up(self, latents: Tensor) -> Tensor:
        """Return codes (B, *shape) int64, as their layout has it, of latents float32."""

    @abstractmethod
    def quantized(self, codes: Tensor) -> Tensor:
        """Return float32 what `decode` takes."""

    @abstractmethod
    def decode(self, quantized: Tensor) -> Tensor:
        """Return pixels (B, 3, H, W), both in the network's dtype."""


@dataclass(frozen=True)
class NetworkTokenizer:
    """Such a network on a device: a `tokenizer.Tokenizer`."""

    network: CodingNetwork
    dtype: torch.dtype
    """Of all but what quantises, which is float32."""
    description: Description = field(repr=False)

    def fuse(self) -> None:
        """Takes the forms of `vqgan.fusion`."""
        fuse(self.network)

    def latents_of(self, pixels: Tensor) -> Tensor:
        """Returns latents float32 of pixels (B, 3, H, W) float32."""
        return self.network.encode(pixels.to(self.dtype)).float()

    def codes_of(self, latents: Tensor) -> Tensor:
        """Returns codes (B, *shape) of latents float32."""
        return self.network.look_up(latents)

    def pixels_of(self, codes: Tensor) -> Tensor:
        """Returns pixels (B, 3, H, W) float32 of codes (B, *shape)."""
        return self.network.decode(self.network.quantized(codes).to(self.dtype)).float()
