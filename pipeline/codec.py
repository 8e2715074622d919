"""A batch of uint8 images in, codes out, on one device and dtype.

Every forward runs at one fixed batch shape, the last batch padded, so that a code does not depend
on how many images happened to come along. The network runs in the chosen dtype, the quantiser in
float32 always, and TF32 is off: float32 means float32.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.vqgan.checkpoint import build_model
from pipeline.vqgan.nearest import find_nearest
from pipeline.weights import Weights

DType = Literal["float32", "bfloat16", "float16"]
PixelRange = Literal["signed", "unit"]
Device = Literal["auto", "cpu", "cuda"]

Images = npt.NDArray[np.uint8]
"""(N, H, W, 3) RGB."""
Codes = npt.NDArray[np.int64]
"""(N, h, w), 0 <= code < codebook size."""
Mask = npt.NDArray[np.bool_]
"""(N,)."""

BATCH_SIZE = {"cuda": 64, "cpu": 8}
"""Images in one forward by default; on a CPU more only takes memory."""


@dataclass(frozen=True, kw_only=True)
class CodecConfig:
    """How pixels become codes; every field changes the codes."""

    dtype: DType = "float32"
    """Arithmetic of the network."""
    pixel_range: PixelRange = "signed"
    """What the network was trained on: [-1, 1] or [0, 1]."""


class Codec:
    """A VQ model on one device, ready to encode."""

    def __init__(
        self,
        weights: Weights,
        how: CodecConfig,
        *,
        device: str = "cpu",
        batch_size: int | None = None,
        threads: int | None = None,
    ) -> None:
        if threads and device == "cpu":
            torch.set_num_threads(threads)
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        self.how = how
        self.device = torch.device(device)
        self.batch_size = batch_size or BATCH_SIZE[self.device.type]
        self._dtype: torch.dtype = getattr(torch, how.dtype)
        self._network = build_model(*weights.parsed, dtype=torch.float32).to(self.device)
        self._network.encoder.to(self._dtype)
        self._network.quant_conv.to(self._dtype)  # the codebook stays in float32

    @torch.inference_mode()
    def encode(
        self, images: Images, on_batch: Callable[[int], None] = lambda _: None
    ) -> tuple[Codes, Mask]:
        """Returns the codes of images, and which of them had finite latents.

        An accelerator that runs out of memory halves the batch, once and for all; the codes stay.

        Args:
            images: (N, H, W, 3) uint8 RGB, H and W multiples of the downsample factor.
            on_batch: Told how many images each finished batch held.
        """
        codes, finite, start = [], [], 0
        while start < len(images):
            batch = images[start : start + self.batch_size]
            try:
                found, is_finite = self._encode_batch(batch)
            except torch.OutOfMemoryError:
                self._halve_batch()
                continue
            codes.append(found)
            finite.append(is_finite)
            start += len(batch)
            on_batch(len(batch))
        return np.concatenate(codes), np.concatenate(finite)

    def _encode_batch(self, images: Images) -> tuple[Codes, Mask]:
        pixels = self._normalise(_pad(images, self.batch_size))
        latents = self._network.encode(pixels).latents.float()  # (B, C, h, w)
        finite = latents.isfinite().flatten(1).all(1)
        vectors = latents.permute(0, 2, 3, 1)  # (B, h, w, C)
        codebook = self._network.quantize.embedding.weight
        codes = find_nearest(vectors.flatten(0, 2), codebook).view(vectors.shape[:3])
        return codes[: len(images)].cpu().numpy(), finite[: len(images)].cpu().numpy()

    def _normalise(self, images: Images) -> Tensor:
        """Returns (B, 3, H, W) in the network's dtype and range, computed on the device."""
        pixels = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2)
        unit = pixels.to(torch.float32) / 255.0
        scaled = unit * 2.0 - 1.0 if self.how.pixel_range == "signed" else unit
        return scaled.to(self._dtype).contiguous()

    def _halve_batch(self) -> None:
        if self.batch_size == 1:
            raise ConfigError(
                f"{self.device} runs out of memory with a single image; use a smaller --resolution "
                "or --dtype bfloat16"
            )
        self.batch_size //= 2
        torch.cuda.empty_cache()


def _pad(images: Images, batch_size: int) -> Images:
    """Returns exactly `batch_size` images, black ones added."""
    missing = batch_size - len(images)
    if not missing:
        return np.require(images, requirements="W")  # torch takes writable arrays without a word
    return np.concatenate([images, np.zeros((missing, *images.shape[1:]), np.uint8)])


def choose_device(device: Device) -> str:
    """Returns the device to use on this machine.

    Raises:
        ConfigError: If CUDA is asked for and there is none.
    """
    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise ConfigError("--device cuda, but torch sees no CUDA device here; use --device cpu")
    return "cuda" if has_cuda and device != "cpu" else "cpu"


def device_name(device: str) -> str:
    """Returns what a person calls the device."""
    return torch.cuda.get_device_name() if device == "cuda" else f"cpu x{torch.get_num_threads()}"
