"""The architecture of a VQ model: what `config.json` says, checked. The other files build on it."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

DOWN_BLOCK_TYPES = ("DownEncoderBlock2D", "AttnDownEncoderBlock2D")
UP_BLOCK_TYPES = ("UpDecoderBlock2D", "AttnUpDecoderBlock2D")
ACTIVATIONS = ("swish", "silu", "mish", "gelu", "relu")
NORM_TYPES = ("group", "spatial")
SPATIAL_NORM_GROUPS = 32
"""Groups of every spatial norm, whatever `norm_num_groups` says (`SpatialNorm`, diffusers 0.42)."""

EMA_FIELDS = (
    "decay",
    "inv_gamma",
    "min_decay",
    "optimization_step",
    "power",
    "update_after_step",
    "use_ema_warmup",
)
"""What diffusers' `EMAModel.save_pretrained` (0.42, `training_utils.py`) adds to a model's fields:
how the running average of its weights was made, which changes nothing in what they compute."""
OURS = ("decoder_block_out_channels", "decoder_layers_per_block")
"""Fields that diffusers lacks. A config does not show those that are None, neither as a mapping nor
in a file: a network that does without them is diffusers' to the letter."""

_LISTS = ("block_out_channels", "down_block_types", "up_block_types", "decoder_block_out_channels")
"""Fields with a value for each resolution level."""


@dataclass(frozen=True)
class VQConfig(Mapping[str, Any]):
    """Constructor arguments of `diffusers.VQModel` 0.42, letter for letter, with its defaults.

    Behind them come two of ours (`OURS`), for networks whose decoder has a shape of its own.
    Reads as an object (`config.act_fn`) and as a mapping (`config["act_fn"]`, `dict(config)`).

    Raises:
        ValueError: A field is out of its bound; the message names field, value and bound.
    """

    in_channels: int = 3
    """Channels of the pixels that go in."""
    out_channels: int = 3
    """Channels of the pixels that come out."""
    down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",)
    """Encoder blocks, finest first."""
    up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",)
    """Decoder blocks, coarsest first."""
    block_out_channels: tuple[int, ...] = (64,)
    """Channels of each resolution level, finest first; all but the last halve the grid."""
    layers_per_block: int = 1
    """Residual blocks of an encoder level; a decoder level has one more."""
    act_fn: str = "silu"
    """Activation inside the residual blocks, in any case; the two output heads always use SiLU."""
    latent_channels: int = 3
    """Channels between the encoder and `quant_conv`."""
    sample_size: int = 32
    """Side of the training images, in pixels; it changes nothing here."""
    num_vq_embeddings: int = 256
    """Codebook size."""
    norm_num_groups: int = 32
    """Groups of every group norm."""
    vq_embed_dim: int | None = None
    """Length of a codebook vector; None means `latent_channels`."""
    scaling_factor: float = 0.18215
    """Scale of the latents for a diffusion model on top; it changes nothing here."""
    norm_type: str = "group"
    """Norm of the decoder: `group`, or `spatial` (MoVQ, https://arxiv.org/abs/2209.09002)."""
    mid_block_add_attention: bool = True
    """Whether the coarsest level of encoder and decoder attends over the whole grid."""
    lookup_from_codebook: bool = False
    """Whether `decode(..., force_not_quantize=True)` takes codes rather than quantized vectors."""
    force_upcast: bool = False
    """Advice to pipelines that half precision overflows; it changes nothing here."""
    decoder_block_out_channels: tuple[int, ...] | None = None
    """Channels of the decoder's levels, finest first; None means `block_out_channels`."""
    decoder_layers_per_block: int | None = None
    """Residual blocks of a decoder level, less one; None means `layers_per_block`."""

    def __post_init__(self) -> None:
        """Turn JSON's lists into tuples, then check every field."""
        for name in _LISTS:
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        _check_numbers(self)
        _check_choices(self)
        _check_levels(self)
        _check_spatial_norm(self)

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401 - fields have different types
        return vars(self)[name]

    def __iter__(self) -> Iterator[str]:
        return (name for name, value in vars(self).items() if name not in OURS or value is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @property
    def embed_dim(self) -> int:
        """Length of a codebook vector, with the default resolved."""
        return self.latent_channels if self.vq_embed_dim is None else self.vq_embed_dim

    @property
    def decoder_channels(self) -> tuple[int, ...]:
        """Channels of the decoder's levels, finest first, with the default resolved."""
        return self.decoder_block_out_channels or self.block_out_channels

    @property
    def decoder_layers(self) -> int:
        """Residual blocks of a decoder level."""
        return (self.decoder_layers_per_block or self.layers_per_block) + 1

    @property
    def downsample_factor(self) -> int:
        """Pixels per code along a side."""
        return 1 << (len(self.block_out_channels) - 1)


def _require(condition: bool, config: VQConfig, name: str, bound: str) -> None:
    """Raise ValueError with the field, its value and its bound unless the condition holds."""
    if not condition:
        raise ValueError(f"{name} is {getattr(config, name)!r}; it must be {bound}")


def _is_count(value: object) -> bool:
    """Whether the value is an int of at least 1 (True and 1.0 are not)."""
    return type(value) is int and value >= 1


def _check_numbers(config: VQConfig) -> None:
    """Check the scalar fields by their declared types."""
    for field in fields(config):
        value = getattr(config, field.name)
        if field.type is int:
            _require(_is_count(value), config, field.name, "an integer >= 1")
        elif field.type is bool:
            _require(type(value) is bool, config, field.name, "true or false")
    for name in ("vq_embed_dim", "decoder_layers_per_block"):
        value = getattr(config, name)
        _require(value is None or _is_count(value), config, name, "null or an integer >= 1")
    scale = config.scaling_factor
    is_positive = type(scale) in {int, float} and math.isfinite(scale) and scale > 0
    _require(is_positive, config, "scaling_factor", "a finite number > 0")


def _check_choices(config: VQConfig) -> None:
    """Check the two named choices."""
    act_fn = config.act_fn
    _require(
        isinstance(act_fn, str) and act_fn.lower() in ACTIVATIONS,
        config,
        "act_fn",
        f"one of {ACTIVATIONS}",
    )
    _require(config.norm_type in NORM_TYPES, config, "norm_type", f"one of {NORM_TYPES}")


def _check_levels(config: VQConfig) -> None:
    """Check that the levels agree in number, have known types, and divide into norm groups."""
    channels, groups = config.block_out_channels, config.norm_num_groups
    _check_channels(config, "block_out_channels", groups, f"norm_num_groups = {groups}")
    if config.decoder_block_out_channels is not None:
        _check_channels(config, "decoder_block_out_channels", groups, f"norm_num_groups = {groups}")
    for name, known in (("down_block_types", DOWN_BLOCK_TYPES), ("up_block_types", UP_BLOCK_TYPES)):
        types = getattr(config, name)
        is_list = isinstance(types, tuple) and all(each in known for each in types)
        _require(is_list, config, name, f"a list of {known}")
    bound = f"as long as block_out_channels = {channels}"
    for name in _LISTS:
        value = getattr(config, name)
        _require(value is None or len(value) == len(channels), config, name, bound)


def _check_channels(config: VQConfig, name: str, divisor: int, said: str) -> None:
    """Check a list of channels that a norm takes in groups."""
    channels = getattr(config, name)
    is_list = isinstance(channels, tuple) and len(channels) > 0 and all(map(_is_count, channels))
    _require(is_list, config, name, "a non-empty list of integers >= 1")
    _require(all(c % divisor == 0 for c in channels), config, name, f"multiples of {said}")


def _check_spatial_norm(config: VQConfig) -> None:
    """Check what the spatial norm adds: its group count, and convolutions on `latent_channels`."""
    if config.norm_type != "spatial":
        return
    said = f"{SPATIAL_NORM_GROUPS} when norm_type is 'spatial'"
    own = config.decoder_block_out_channels is not None
    name = "decoder_block_out_channels" if own else "block_out_channels"
    _check_channels(config, name, SPATIAL_NORM_GROUPS, said)
    bound = f"latent_channels = {config.latent_channels} or null when norm_type is 'spatial'"
    _require(config.embed_dim == config.latent_channels, config, "vq_embed_dim", bound)
