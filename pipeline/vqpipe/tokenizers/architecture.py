"""The architecture of a VQ model, as the names and shapes of its weights show it.

What they cannot show is as all these families have it: norms of 32 groups, SiLU. Nothing is taken
on trust: afterwards every tensor has to be there in its shape, and none besides (`naming.rename`).
"""

import functools
from dataclasses import dataclass
from typing import Any

from vqpipe.errors import CheckpointError
from vqpipe.tokenizers.naming import ADVICE, Naming, State
from vqpipe.vqgan.config import VQConfig

_SPATIAL = "decoder.mid_block.resnets.0.norm1.conv_y.weight"
"""Only a decoder with spatial norms has it."""


def architecture_of(state: State, naming: Naming, source: str) -> VQConfig:
    """Return the architecture that weights have.

    Args:
        state: The weights of one network, by the names of `naming`.
        naming: How they are named.
        source: What to call their file in errors.

    Raises:
        CheckpointError: A tensor is missing that tells, or the shapes are no VQModel's.
    """
    return _Weights(state, naming, source).architecture()


@dataclass(frozen=True)
class _Weights:
    """Weights, asked by our names."""

    state: State
    naming: Naming
    source: str

    @functools.cached_property
    def levels(self) -> int:
        """Resolutions of the network."""
        found = self._count("encoder.down_blocks.{}.resnets.0.conv1.weight", 0)
        return found or self._fail("encoder.down_blocks.0.resnets.0.conv1.weight")

    def architecture(self) -> VQConfig:
        """Return all of it."""
        down = [f"encoder.down_blocks.{i}" for i in range(self.levels)]
        up = [f"decoder.up_blocks.{i}" for i in range(self.levels)]
        size, embed_dim = self._shape("quantize.embedding.weight")[:2]
        try:
            return VQConfig(
                in_channels=self._shape("encoder.conv_in.weight")[1],
                out_channels=self._shape("decoder.conv_out.weight")[0],
                down_block_types=tuple(f"{self._attn(at)}DownEncoderBlock2D" for at in down),
                up_block_types=tuple(f"{self._attn(at)}UpDecoderBlock2D" for at in up),
                block_out_channels=self._widths(down),
                layers_per_block=self._blocks(down),
                latent_channels=self._shape("encoder.conv_out.weight")[0],
                num_vq_embeddings=size,
                vq_embed_dim=embed_dim,
                norm_type="spatial" if self._has(_SPATIAL) else "group",
                mid_block_add_attention=self._attn("encoder.mid_block") != "",
                **self._decoder(down, up),
            )
        except ValueError as error:
            raise CheckpointError(
                f"{self.source}: as a VQModel, {error}; this tokenizer cannot be expressed"
            ) from error

    def _decoder(self, down: list[str], up: list[str]) -> dict[str, Any]:
        """Returns what the encoder does not say of the decoder.

        A level with fewer blocks than others is filled with blocks that do nothing.
        """
        widths, blocks = self._widths(up[::-1]), self._blocks(up)
        if widths == self._widths(down) and blocks <= self._blocks(down) + 1:
            return {}
        return {"decoder_block_out_channels": widths, "decoder_layers_per_block": blocks - 1}

    def _widths(self, levels: list[str]) -> tuple[int, ...]:
        return tuple(self._shape(f"{at}.resnets.0.conv1.weight")[0] for at in levels)

    def _blocks(self, levels: list[str]) -> int:
        return max(self._count(f"{at}.resnets.{{}}.conv1.weight", self.levels) for at in levels)

    def _attn(self, at: str) -> str:
        return "Attn" if self._has(f"{at}.attentions.0.to_q.weight") else ""

    def _has(self, name: str) -> bool:
        return self.naming.name(name, self.levels) in self.state

    def _shape(self, name: str) -> tuple[int, ...]:
        theirs = self.naming.name(name, self.levels)
        return tuple(self.state[theirs].shape) if theirs in self.state else self._fail(name)

    def _count(self, pattern: str, levels: int) -> int:
        """Returns how many names there are with 0, 1, ... in them before one is not there."""
        count = 0
        while self.naming.name(pattern.format(count), levels) in self.state:
            count += 1
        return count

    def _fail(self, name: str) -> Any:  # noqa: ANN401 - never comes to it
        theirs = self.naming.name(name, 0 if name.startswith("encoder.down") else self.levels)
        raise CheckpointError(f"{self.source}: missing tensor {theirs}; {ADVICE}")
