"""What networks that are no VQModel have in common: they look up codes, in whatever layout."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from vqpipe.tokenizers import stored_network
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
        """Return float32 what `decode` takes, in the shape of latents."""

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

    def quantized_of(self, codes: Tensor) -> Tensor:
        """Returns float32, in the shape of latents, what codes (B, *shape) stand for."""
        return self.network.quantized(codes)

    def decode(self, quantized: Tensor) -> Tensor:
        """Returns pixels (B, 3, H, W) float32 of `quantized_of`."""
        return self.network.decode(quantized.to(self.dtype)).float()

    def pixels_of(self, codes: Tensor) -> Tensor:
        """Returns pixels (B, 3, H, W) float32 of codes (B, *shape)."""
        return self.decode(self.quantized_of(codes))


@dataclass(frozen=True)
class CodingCheckpoint(ABC):
    """Architecture and weights of such a network, checked against each other."""

    config: Any
    state: Mapping[str, Tensor]

    Network: ClassVar[type[CodingNetwork]]
    """Its class, made of an architecture."""
    read_config: ClassVar[Callable[..., Any]]
    """Makes the architecture of the fields of `config.json`."""
    exact: ClassVar[tuple[str, ...]]
    """Starts of names of what decides what a code stands for, which stays float32."""

    @classmethod
    def read(cls, files: Mapping[str, bytes], where: str) -> Self:
        """See `tokenizer.NetworkCheckpoint`."""
        said = stored_network.read_config(files, where)
        config = stored_network.make_config(cls.read_config, said, where)
        return cls(config, stored_network.read_state(files, where, lambda: cls.Network(config)))

    @property
    @abstractmethod
    def description(self) -> Description:
        """What the tokenizer takes and gives."""

    @property
    def codebook(self) -> dict[str, Tensor]:
        """What decides what a code stands for, by name."""
        return {name: each for name, each in self.state.items() if name.startswith(self.exact)}

    def build(self, device: torch.device, dtype: torch.dtype) -> NetworkTokenizer:
        """Returns the network on a device and in a dtype, but for what is `exact`."""
        make = type(self).Network
        network = stored_network.build(lambda: make(self.config), self.state).to(device)
        weights = network.state_dict().items()
        exact = {name: each for name, each in weights if name.startswith(self.exact)}
        network.to(dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        network.load_state_dict(exact, strict=False, assign=True)
        return NetworkTokenizer(
            network.requires_grad_(requires_grad=False), dtype, self.description
        )
