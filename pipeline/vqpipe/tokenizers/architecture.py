"""The architecture of a VQ model, as the names and shapes of its weights show it.

What they cannot show is as all these families have it: norms of 32 groups, SiLU. Nothing is taken
on trust: afterwards every tensor has to be there in its shape, and none besides (`naming.rename`).
"""

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
    levels = 0
    while naming.name(f"encoder.down_blocks.{levels}.resnets.0.conv1.weight", 1) in state:
        levels += 1
    return _Weights(state, naming, source, levels).architecture()


def decoder_of(state: State, naming: Naming, source: str) -> VQConfig:
    """Return the architecture of a decoder alone, all names of which begin with `decoder.`.

    Only what it says of the decoder means something. A level has two blocks at least.

    Raises:
        CheckpointError: A tensor is missing that tells, or the shapes are no VQModel's.
    """
    levels = 0
    while naming.name("decoder.up_blocks.0.resnets.0.conv1.weight", levels + 1) in state:
        levels += 1
    return _Weights(state, naming, source, levels).decoder()


@dataclass(frozen=True)
class _Weights:
    """Weights, asked by our names."""

    state: State
    naming: Naming
    source: str
    levels: int
    """Resolutions of the network."""

    @property
    def down(self) -> list[str]:
        """The encoder's levels, finest first."""
        return [f"encoder.down_blocks.{i}" for i in range(self.levels)]

    @property
    def up(self) -> list[str]:
        """The decoder's levels, coarsest first."""
        return [f"decoder.up_blocks.{i}" for i in range(self.levels)]

    def architecture(self) -> VQConfig:
        """Return all of it."""
        size, embed_dim = self.shape("quantize.embedding.weight", rank=2)
        return self.make(
            in_channels=self.shape("encoder.conv_in.weight")[1],
            out_channels=self.shape("decoder.conv_out.weight")[0],
            down_block_types=tuple(f"{self.attn(at)}DownEncoderBlock2D" for at in self.down),
            up_block_types=tuple(f"{self.attn(at)}UpDecoderBlock2D" for at in self.up),
            block_out_channels=self.widths(self.down),
            layers_per_block=self.blocks(self.down),
            latent_channels=self.shape("encoder.conv_out.weight")[0],
            num_vq_embeddings=size,
            vq_embed_dim=embed_dim,
            norm_type="spatial" if self.has(_SPATIAL) else "group",
            mid_block_add_attention=self.attn("encoder.mid_block") != "",
            **self.own_decoder(),
        )

    def own_decoder(self) -> dict[str, Any]:
        """Return what the encoder does not say of the decoder.

        A level with fewer blocks than others is filled with blocks that do nothing.
        """
        widths, blocks = self.widths(self.up[::-1]), self.blocks(self.up)
        if widths == self.widths(self.down) and blocks <= self.blocks(self.down) + 1:
            return {}
        return {"decoder_block_out_channels": widths, "decoder_layers_per_block": blocks - 1}

    def decoder(self) -> VQConfig:
        """Return what there is of a decoder."""
        return self.make(
            out_channels=self.shape("decoder.conv_out.weight")[0],
            down_block_types=("DownEncoderBlock2D",) * self.levels,
            up_block_types=tuple(f"{self.attn(at)}UpDecoderBlock2D" for at in self.up),
            block_out_channels=self.widths(self.up[::-1]),
            layers_per_block=max(self.blocks(self.up) - 1, 1),
            latent_channels=self.shape("decoder.conv_in.weight")[1],
            mid_block_add_attention=self.attn("decoder.mid_block") != "",
        )

    def make(self, **fields: Any) -> VQConfig:  # noqa: ANN401 - fields have different types
        """Return an architecture, if it is one."""
        try:
            return VQConfig(**fields)
        except ValueError as error:
            raise CheckpointError(
                f"{self.source}: as a VQModel, {error}; this tokenizer cannot be expressed"
            ) from error

    def widths(self, levels: list[str]) -> tuple[int, ...]:
        """Return the channels of levels."""
        return tuple(self.shape(f"{at}.resnets.0.conv1.weight")[0] for at in levels)

    def blocks(self, levels: list[str]) -> int:
        """Return how many residual blocks the level has that has most."""
        return max((self.count(f"{at}.resnets.{{}}.conv1.weight") for at in levels), default=0)

    def attn(self, at: str) -> str:
        """Return what the names of attending blocks begin with, if this one attends."""
        return "Attn" if self.has(f"{at}.attentions.0.to_q.weight") else ""

    def has(self, name: str) -> bool:
        """Return whether there is a tensor."""
        return self.naming.name(name, self.levels) in self.state

    def shape(self, name: str, rank: int = 4) -> tuple[int, ...]:
        """Return the shape of a tensor that has to be there, with so many dimensions."""
        theirs = self.naming.name(name, self.levels)
        return shape_of(self.state, theirs, rank, self.source)

    def count(self, pattern: str) -> int:
        """Return how many names there are with 0, 1, ... in them before one is not there."""
        count = 0
        while self.has(pattern.format(count)):
            count += 1
        return count


def shape_of(state: State, name: str, rank: int, source: str) -> tuple[int, ...]:
    """Return the shape of a tensor.

    Raises:
        CheckpointError: It is not there, or has another number of dimensions.
    """
    if name not in state:
        raise CheckpointError(f"{source}: missing tensor {name}; {ADVICE}")
    if state[name].ndim != rank:
        raise CheckpointError(
            f"{source}: tensor {name} has shape {tuple(state[name].shape)}, not {rank} dimensions; "
            f"{ADVICE}"
        )
    return tuple(state[name].shape)
