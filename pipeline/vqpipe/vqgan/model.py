"""The VQ model: pixels to latents to codes and back, as `diffusers.VQModel` 0.42 does it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from vqpipe.vqgan.checkpoint import read_checkpoint, write_state
from vqpipe.vqgan.config import VQConfig
from vqpipe.vqgan.files import read_folder
from vqpipe.vqgan.layers import Decoder, Encoder
from vqpipe.vqgan.quantizer import VectorQuantizer

COMMITMENT_BETA = 0.25
"""Weight inside the quantizer's loss (diffusers 0.42, `VQModel.__init__`)."""


class VQEncoderOutput(NamedTuple):
    """What `VQModel.encode` returns; a named tuple, so it serves either `return_dict`."""

    latents: Tensor
    """Before quantization, (B, embed_dim, h, w)."""

    def __getitem__(self, key: Any) -> Any:  # noqa: ANN401 - a field's name, an index or a slice
        return _get_item(self, key)

    def to_tuple(self) -> tuple[Tensor, ...]:
        """Return the plain tuple."""
        return tuple(self)


class DecoderOutput(NamedTuple):
    """What `VQModel.decode` and `forward` return; a named tuple, as above."""

    sample: Tensor
    """Pixels (B, out_channels, H, W), not clamped."""
    commit_loss: Tensor | None = None
    """The quantizer's loss, scalar; zeros (B,) where nothing was quantized."""

    def __getitem__(self, key: Any) -> Any:  # noqa: ANN401 - a field's name, an index or a slice
        return _get_item(self, key)

    def to_tuple(self) -> tuple[Tensor, ...]:
        """Return the plain tuple of those that are not None."""
        return tuple(value for value in self if value is not None)


def _get_item(output: VQEncoderOutput | DecoderOutput, key: Any) -> Any:  # noqa: ANN401 - as above
    """Return a field by name or position, as diffusers' outputs do (0.42, `BaseOutput`)."""
    return output._asdict()[key] if isinstance(key, str) else tuple.__getitem__(output, key)


class VQModel(nn.Module):
    """VQGAN autoencoder. Pixels are floating (B, C, H, W) in the range the weights were made for.

    That range is not in the config: [-1, 1] for most checkpoints, [0, 1] for some.

    Args:
        *args: Fields of `VQConfig`, which are the arguments of `diffusers.VQModel`, in its order.
        **config: The same by name. Names with a leading `_`, diffusers' own notes, are ignored.

    Raises:
        TypeError: A name is no field's.
        ValueError: A field is out of its bound.
    """

    def __init__(self, *args: Any, **config: Any) -> None:  # noqa: ANN401 - VQConfig checks them
        super().__init__()
        fields = {name: value for name, value in config.items() if not name.startswith("_")}
        self.config = VQConfig(*args, **fields)
        latent_channels, embed_dim = self.config.latent_channels, self.config.embed_dim
        self.encoder = Encoder(self.config)
        self.quant_conv = nn.Conv2d(latent_channels, embed_dim, 1)
        self.quantize = VectorQuantizer(
            self.config.num_vq_embeddings, embed_dim, beta=COMMITMENT_BETA
        )
        self.post_quant_conv = nn.Conv2d(embed_dim, latent_channels, 1)
        self.decoder = Decoder(self.config)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **changes: Any) -> Self:  # noqa: ANN401 - as above
        """Return a model of this architecture with random weights.

        Args:
            config: A `VQConfig`, the config of a diffusers model, or the contents of `config.json`.
            **changes: Fields to take instead of the config's.

        Raises:
            TypeError: A name is no field's.
            ValueError: A field is out of its bound.
        """
        return cls(**{**config, **changes})

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        subfolder: str | None = None,
        torch_dtype: torch.dtype | None = None,
        variant: str | None = None,
    ) -> "VQModel":
        """Return the model of a local folder in diffusers' layout, in eval mode; loading is strict.

        Args:
            path: Folder with `config.json` and `diffusion_pytorch_model.safetensors` or shards.
            subfolder: Folder inside `path`, as in `vqvae` of a diffusers pipeline.
            torch_dtype: Dtype of the weights; None means float32.
            variant: Which weights, as in fp16 of `diffusion_pytorch_model.fp16.safetensors`.

        Raises:
            CheckpointError: The files are missing, damaged, or not this architecture's.
        """
        folder = Path(path, subfolder or "")
        files = read_folder(folder, variant)
        config, state = read_checkpoint(files, expected_state, str(folder), variant)
        return build_model(config, state, dtype=torch_dtype or torch.float32)

    def save_pretrained(self, path: str | Path) -> None:
        """Write config and weights, in diffusers' layout, into a folder that is made if need be."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in write_state(self.config, self.state_dict()).items():
            (folder / name).write_bytes(data)

    @property
    def downsample_factor(self) -> int:
        """Pixels per code along a side."""
        return self.config.downsample_factor

    @property
    def device(self) -> torch.device:
        """Where the first weight is."""
        return self.encoder.conv_in.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the first weight."""
        return self.encoder.conv_in.weight.dtype

    def num_parameters(self, only_trainable: bool = False) -> int:
        """Return how many numbers the weights hold, or those of them that take gradients."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad or not only_trainable)

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether backward computes activations again instead of keeping them."""
        return self.encoder.gradient_checkpointing or self.decoder.gradient_checkpointing

    def enable_gradient_checkpointing(self) -> None:
        """Keep only what enters each level and mid block for backward; gradients stay the same."""
        self.encoder.gradient_checkpointing = self.decoder.gradient_checkpointing = True

    def disable_gradient_checkpointing(self) -> None:
        """Keep every activation for backward, as in the beginning."""
        self.encoder.gradient_checkpointing = self.decoder.gradient_checkpointing = False

    def encode(self, x: Tensor, return_dict: bool = True) -> VQEncoderOutput:  # noqa: ARG002
        """Return the latents (B, embed_dim, h, w), before quantization.

        Args:
            x: Pixels (B, in_channels, H, W), floating; h = H // downsample_factor, likewise w.
            return_dict: Taken for compatibility; the result is a named tuple either way.
        """
        return VQEncoderOutput(self.quant_conv(self.encoder(x)))

    def decode(
        self,
        h: Tensor,
        force_not_quantize: bool = False,
        return_dict: bool = True,  # noqa: ARG002 - diffusers' signature
        shape: tuple[int, int, int, int] | None = None,
    ) -> DecoderOutput:
        """Return pixels (B, out_channels, H, W) and the loss.

        Args:
            h: Latents (B, embed_dim, h, w), floating; quantized vectors with `force_not_quantize`;
                or codes, with `force_not_quantize` and a config that says `lookup_from_codebook`.
            force_not_quantize: Whether to skip the quantizer.
            return_dict: Taken for compatibility; the result is a named tuple either way.
            shape: (B, h, w, embed_dim), with codes only.

        Raises:
            TypeError: Codes where vectors belong, or the reverse.
        """
        takes_codes = force_not_quantize and self.config.lookup_from_codebook
        _require_kind(h, takes_codes=takes_codes)
        if not force_not_quantize:
            quantized, commit_loss, _ = self.quantize(h)
            return DecoderOutput(self.decode_quantized(quantized), commit_loss)
        quantized = self.quantize.get_codebook_entry(h, shape) if takes_codes else h
        nothing_lost = torch.zeros(h.shape[0], device=h.device, dtype=h.dtype)
        return DecoderOutput(self.decode_quantized(quantized), nothing_lost)

    def decode_quantized(self, quantized: Tensor) -> Tensor:
        """Return pixels (B, out_channels, H, W) for quantized vectors (B, embed_dim, h, w)."""
        condition = quantized if self.config.norm_type == "spatial" else None
        return self.decoder(self.post_quant_conv(quantized), condition)

    def forward(self, sample: Tensor, return_dict: bool = True) -> DecoderOutput:
        """Return the reconstruction of pixels (B, in_channels, H, W), and the quantizer's loss."""
        return self.decode(self.encode(sample).latents, return_dict=return_dict)

    @torch.no_grad()
    def encode_to_codes(self, x: Tensor) -> Tensor:
        """Return the codes (B, h, w), int64 in [0, codebook size).

        Args:
            x: Pixels (B, in_channels, H, W), floating; h = H // downsample_factor, likewise w.

        Raises:
            TypeError: Pixels are not floating.
            ValueError: Pixels are not (B, in_channels, H, W).
        """
        if not x.is_floating_point():
            raise TypeError(
                f"pixels are {x.dtype}; scale them to the model's range as a floating dtype first"
            )
        if x.ndim != 4 or x.shape[1] != self.config.in_channels:
            raise ValueError(
                f"pixels are {tuple(x.shape)}; they must be (B, {self.config.in_channels}, H, W)"
            )
        latents = self.encode(x).latents
        _, _, (_, _, codes) = self.quantize(latents)
        return codes.reshape(latents.shape[0], *latents.shape[2:])

    def decode_codes(self, codes: Tensor) -> Tensor:
        """Return pixels (B, out_channels, h * factor, w * factor), not clamped.

        Args:
            codes: (B, h, w), any integer dtype, in [0, codebook size).

        Raises:
            TypeError: Codes are not integers.
            ValueError: Codes are not (B, h, w), or out of range.
        """
        codes = _check_codes(codes, self.config.num_vq_embeddings)
        shape = (codes.shape[0], codes.shape[1], codes.shape[2], self.config.embed_dim)
        return self.decode_quantized(self.quantize.get_codebook_entry(codes, shape))


def _is_integer(x: Tensor) -> bool:
    """Whether the dtype holds integers (bool does not count)."""
    return not (x.is_floating_point() or x.is_complex() or x.dtype == torch.bool)


def _require_kind(h: Tensor, *, takes_codes: bool) -> None:
    """Raise TypeError where `VQModel.decode` got codes for vectors, or the reverse."""
    if takes_codes and not _is_integer(h):
        raise TypeError(
            f"decode got {h.dtype}; with lookup_from_codebook and force_not_quantize it takes codes"
        )
    if not takes_codes and not h.is_floating_point():
        raise TypeError(f"decode got {h.dtype} where latents belong; for codes call decode_codes")


def _check_codes(codes: Tensor, codebook_size: int) -> Tensor:
    """Return codes (B, h, w) as int64 after checking dtype, rank and range."""
    if not _is_integer(codes):
        raise TypeError(f"codes are {codes.dtype}; they must be integers; for latents call decode")
    if codes.ndim != 3:
        raise ValueError(f"codes have shape {tuple(codes.shape)}; it must be (B, h, w)")
    codes = codes.long()
    if codes.numel() and (codes.min() < 0 or codes.max() >= codebook_size):
        low, high = int(codes.min()), int(codes.max())
        raise ValueError(f"codes lie in [{low}, {high}]; they must be in [0, {codebook_size})")
    return codes


def expected_state(config: VQConfig) -> dict[str, Tensor]:
    """Return a tensor without memory for every weight of an architecture, by name."""
    with torch.device("meta"):
        return VQModel.from_config(config).state_dict()


def build_model(
    config: VQConfig, state: Mapping[str, Tensor], dtype: torch.dtype | None = None
) -> VQModel:
    """Return the model with these very tensors as weights, in eval mode; none is initialised first.

    Args:
        config: The architecture.
        state: Every weight, as `read_checkpoint` returns them.
        dtype: Dtype to convert the weights to; None keeps each tensor's own.
    """
    with torch.device("meta"):
        model = VQModel.from_config(config)
    model.load_state_dict(state, strict=True, assign=True)
    return model.to(dtype=dtype).eval() if dtype is not None else model.eval()
