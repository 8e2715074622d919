"""What a codec asks of a network, whatever network it is.

    latents_of    pixels     ->  latents: what the encoder says, which may be not finite
    codes_of      latents    ->  codes: the look-up in the codebook
    quantized_of  codes      ->  quantized: what they stand for
    decode        quantized  ->  pixels
    pixels_of     codes      ->  pixels, by way of quantized

Everything else is the codec's: batches, padding, uint8 and the range of pixels, streams, compiling.
Codes of pixels and pixels of latents are two of these, one after the other. A network comes in as a
`Checkpoint` that builds its `Tokenizer`; both are protocols, and `tokenizers.vq` has the first.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from vqpipe.code_layout import CodeLayout

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a tokenizer takes and gives, without torch.

    Codes are a grid, a code a square of pixels, and images may be of any size; unless `fixed` says
    which sizes they may be, and what codes look like then.
    """

    codebook_size: int
    """Codes are from 0 and below it; `schema.code_type` is what they are stored as."""
    multiple: int
    """Pixels along a side of the square that a code of a grid stands for: both sides of an image
    are multiples of it. Of other layouts, the same for the latents."""
    fixed: Mapping[tuple[int, int], CodeLayout] = field(default_factory=dict)
    """The only heights and widths in pixels, with their layouts; empty if any multiple will do."""
    depth: int = 1
    """Codes at each place of a grid."""
    codebooks: int = 1
    """One, which all codes of a place share, or one for each of them."""
    channels: int = 3
    """Of the pixels that it takes; 3 are RGB."""
    latent_channels: int
    """Numbers of a latent vector, which an entry of the codebook has as well."""
    network: str = ""
    """What the network is like, in a few words for a person."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The architecture in the words of its own files; stands in `run.json` as it is."""
    unsafe: Mapping[str, str] = field(default_factory=dict)
    """Arithmetics that a run may not use, with the reason."""

    def find_fault(self, height: int, width: int) -> str | None:
        """Returns why it takes no images of so many pixels, to follow a size; None if it does."""
        if self.fixed:
            sizes = " or ".join(f"{h} x {w}" for h, w in self.fixed)
            return None if (height, width) in self.fixed else f"not {sizes}, which this model takes"
        if height % self.multiple or width % self.multiple:
            return f"no multiple of {self.multiple}, the pixels per code of this model"
        return None

    def side_near(self, px: int) -> int:
        """Returns the side of square images nearest to a number of pixels that it takes."""
        if self.fixed:
            return min((h for h, w in self.fixed if h == w), key=lambda side: abs(side - px))
        return max(self.multiple, round(px / self.multiple) * self.multiple)

    def layout_of(self, height: int, width: int) -> CodeLayout:
        """Returns what the codes of an image are that has a size which it takes."""
        if self.fixed:
            return self.fixed[height, width]
        return self.layout_of_grid(height // self.multiple, width // self.multiple)

    def layout_of_grid(self, rows: int, columns: int) -> CodeLayout:
        """Returns what the codes of an image are that gives a grid of so many places."""
        if self.depth == 1:
            return CodeLayout.grid(rows, columns, self.codebook_size)
        books = (self.codebook_size,) * self.codebooks
        return CodeLayout("stacked", ((rows, columns, self.depth),), books)

    def describe_codes(self) -> str:
        """Returns what codes of images are, in words."""
        if not self.fixed:
            count = f"{self.depth} codes" if self.depth > 1 else "one code"
            return f"a grid, {count} for {self.multiple} x {self.multiple} pixels"
        return "; ".join(
            f"{codes.length:,} of {h} x {w} pixels ({codes.describe()})"
            for (h, w), codes in self.fixed.items()
        )

    def size_of(self, codes: CodeLayout) -> tuple[int, int]:
        """Returns height and width, in pixels, of what codes decode to; of several, the largest."""
        if self.fixed:
            return next(size for size, layout in self.fixed.items() if layout == codes)
        height, width = max((shape[:2] for shape in codes.shapes), key=math.prod)
        return height * self.multiple, width * self.multiple

    def latent_shape_of(self, codes: CodeLayout) -> tuple[int, ...]:
        """Returns the shape of the latents that become codes: (C, h, w), (C, n) of a sequence.

        It is that of `quantized` as well.
        """
        places = codes.shapes[-1][:2]
        return (self.latent_channels, *places)


class Tokenizer(Protocol):
    """A network on one device and in one dtype; what goes in and comes out is float32 in any case.

    `latents_of`, `pixels_of` and `decode` become one graph each (`torch.compile`) where the codec
    fuses kernels. No item of a batch may depend on its neighbours.
    """

    @property
    def description(self) -> Description:
        """What it takes and gives."""

    def fuse(self) -> None:
        """Takes forms of its layers that only a compiled graph on CUDA has.

        Called before the first batch, and only where the codec fuses kernels; results change by
        rounding alone.
        """

    def latents_of(self, pixels: "Tensor") -> "Tensor":
        """Returns latents (B, C, h, w), before the look-up, of pixels (B, 3, H, W).

        Both are float32; pixels lie channels-last, in the range that the network was trained on.
        """

    def codes_of(self, latents: "Tensor") -> "Tensor":
        """Returns codes, int64, of latents; some valid code where they are not finite.

        Their shape is (B, h, w) of a grid, in general (B, *shape) with `CodeLayout.shape`.

        On a GPU it asks the device for no number: the host has the next batch to begin meanwhile.
        """

    def quantized_of(self, codes: "Tensor") -> "Tensor":
        """Returns what codes stand for, float32, in the shape of latents."""

    def decode(self, quantized: "Tensor") -> "Tensor":
        """Returns pixels of what codes stand for, just those that `pixels_of` gives.

        Both are float32; vectors lie channels-last, as a look-up leaves them.
        """

    def pixels_of(self, codes: "Tensor") -> "Tensor":
        """Returns pixels (B, 3, H, W) float32 in the network's range, not clamped, of codes."""


class Checkpoint(Protocol):
    """Weights that a tokenizer is built of; plain data, sent to every process with a device."""

    @property
    def description(self) -> Description:
        """What the tokenizer will take and give."""

    def build(self, device: "torch.device", dtype: "torch.dtype") -> Tokenizer:
        """Returns the tokenizer, ready to run.

        Args:
            device: Where it computes.
            dtype: Arithmetic of the network; the look-up is float32 in any case.
        """


class NetworkCheckpoint(Checkpoint, Protocol):
    """Weights of a network that we have, as files in diffusers' layout hold them."""

    @property
    def state(self) -> Mapping[str, "Tensor"]:
        """Every weight, by its name of today."""

    @property
    def codebook(self) -> Mapping[str, "Tensor"]:
        """What decides what a code stands for, by name."""

    @classmethod
    def read(cls, files: Mapping[str, bytes], where: str) -> "NetworkCheckpoint":
        """Returns the checkpoint that is in such files.

        Args:
            files: Contents by name.
            where: What to call the checkpoint in errors.

        Raises:
            CheckpointError: A file is missing or damaged, or not this architecture's.
        """
