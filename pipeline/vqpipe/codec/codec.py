"""Batches of uint8 images in, codes out, and codes in, uint8 images out, on one device and dtype.

    encode            (N, H, W, 3) uint8        ->  (N, h, w) codes and a mask of finite latents
    encode_vectors    (N, H, W, 3) uint8        ->  the same, and latents or quantized (N, C, h, w)
    decode            (N, h, w) codes           ->  (N, H, W, 3) uint8 and a mask of finite pixels
    decode_latents    (N, C, h, w) before the codebook look-up  ->  the same
    decode_quantized  (N, C, h, w) behind the codebook look-up  ->  the same

Which network it is nobody asks here: it is a `Tokenizer`, whose codes and latents may have any
shape.

Every forward runs at one fixed batch shape, the last batch padded, so that a code does not depend
on how many images happened to come along. The network runs in the chosen dtype, the quantiser in
float32 always. Pixels lie channels-last, as they come, which convolutions like best. On a GPU the
network is compiled for its shape, and copies of one batch overlap with arithmetic of another. A CPU
takes one image at a time: it gains nothing from more, and torch's group norm there divides the sums
of a batch between threads, so that in half precision a code would depend on its image's place.
"""

import functools
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vqpipe.codec.arithmetic import HOST_DTYPE, NETWORK_DTYPE, arithmetic, round_to
from vqpipe.codec.compiler import inductor
from vqpipe.codec.config import (
    BATCH_SIZE,
    SCALE_SHIFT,
    CodecConfig,
    Codes,
    Images,
    Mask,
    OnBatch,
)
from vqpipe.codec.device import is_out_of_memory, watch_device
from vqpipe.codec.device_time import Lap
from vqpipe.codec.launched import Launched
from vqpipe.errors import ConfigError
from vqpipe.tokenizers.tokenizer import Checkpoint
from vqpipe.vector_layout import LATENTS, VectorLayout

Forward = Callable[[Tensor], tuple[Tensor, ...]]
"""One batch on the device to one or more results, all of the fixed batch shape."""
Begun = Callable[[], tuple[npt.NDArray[Any], Mask]]
"""Work under way on the device; called, it waits and returns the results."""


_COMPILATIONS = 1024
_IN_FLIGHT = 2  # batches: one computes while the next is copied


class Codec:
    """A tokenizer on one device, ready to encode and decode."""

    def __init__(
        self,
        weights: Checkpoint,
        how: CodecConfig,
        *,
        device: str = "cpu",
        batch_size: int | None = None,
        threads: int | None = None,
    ) -> None:
        if threads and device == "cpu":
            torch.set_num_threads(threads)
        self.how = how
        self.device = torch.device(device)
        has_cuda = self.device.type == "cuda"
        self.batch_size = (has_cuda and batch_size) or BATCH_SIZE[self.device.type]
        with watch_device():
            self._tokenizer = weights.build(self.device, NETWORK_DTYPE[how.dtype])
        self._latents_of: Callable[[Tensor], Tensor] = self._to_latents
        self._pixels_of: Callable[[Tensor], Tensor] = self._to_pixels
        self._pixels_of_quantized: Callable[[Tensor], Tensor] = self._quantized_to_pixels
        if has_cuda and not how.eager:
            with watch_device():
                self._tokenizer.fuse()
            self._latents_of, self._pixels_of = _fuse(self._to_latents), _fuse(self._to_pixels)
            self._pixels_of_quantized = _fuse(self._quantized_to_pixels)
        self._copies = torch.cuda.Stream() if has_cuda else None  # type: ignore[no-untyped-call]

    def warm_up(self, height: int, width: int) -> float:
        """Encodes a black batch, as a `warm_up_by`."""
        return self.warm_up_by(lambda: self.encode(np.zeros((1, height, width, 3), np.uint8)))

    def warm_up_by(self, work: Callable[[], object]) -> float:
        """Does something once, which has a GPU compile and choose kernels; returns the seconds.

        A CPU has nothing to choose, and a batch may take it minutes.
        """
        started = time.perf_counter()
        if self.device.type == "cuda":
            work()
        return time.perf_counter() - started

    def encode(self, images: Images, on_batch: OnBatch = lambda _: None) -> tuple[Codes, Mask]:
        """Returns the codes of images, and which of them had finite latents.

        A device that runs out of memory halves the batch, once and for all, and carries on.

        Args:
            images: (N, H, W, 3) uint8 RGB, N from 1, H and W multiples of the tokenizer's.
            on_batch: Told how many images each finished batch held.

        Raises:
            ConfigError: If not even one image fits into memory.
            DeviceError: If the device fails, for good in this process.
        """
        codes, finite, *_ = self.encode_vectors(images, (), on_batch)
        return codes, finite

    def encode_vectors(
        self, images: Images, vectors: Sequence[VectorLayout], on_batch: OnBatch = lambda _: None
    ) -> tuple[Codes, Mask, *tuple[npt.NDArray[Any], ...]]:
        """Returns the results of `encode` and, of the same forward, vectors of the images.

        Args:
            images: As for `encode`.
            vectors: What vectors, and in which type, to which float32 is rounded: to nearest, ties
                to even, and what is too large becomes infinity.
            on_batch: Told how many images each finished batch held.

        Returns:
            Codes, mask, and as many arrays (N, C, h, w) as `vectors` are; of bfloat16, its bits as
            uint16.
        """
        forward = functools.partial(self._encode_batch, vectors=vectors)
        codes, finite, *found = self._run(forward, images, on_batch)
        return codes, finite, *found

    def begin_encode(self, images: Images) -> Begun:
        """Starts to encode a few images, and returns what waits for it: the results of `encode`."""
        return self._begin(self._encode_batch, images)

    def begin_decode(self, codes: Codes) -> Begun:
        """Starts to decode a few codes in range, and returns what waits for the results."""
        return self._begin(self._decode_batch, codes)

    def decode(
        self, codes: npt.NDArray[np.integer], on_batch: OnBatch = lambda _: None
    ) -> tuple[Images, Mask]:
        """Returns the images that codes stand for, and which of them are finite throughout.

        Images are (N, H, W, 3) uint8 RGB. Pixels are clamped to the network's range and rounded to
        the nearest of 256 levels, a half to the even one.

        Args:
            codes: (N, h, w), N from 1, any integers, 0 <= code < codebook size.
            on_batch: Told how many images each finished batch held.

        Raises:
            ValueError: If a code is out of range.
            ConfigError: If not even one image fits into memory.
        """
        size = self._tokenizer.description.codebook_size
        if codes.size and not 0 <= codes.min() <= codes.max() < size:
            found = f"[{codes.min()}, {codes.max()}]"
            raise ValueError(f"codes lie in {found}; they must be in [0, {size})")
        images, finite = self._run(self._decode_batch, codes.astype(np.int64, copy=False), on_batch)
        return images, finite

    def decode_latents(
        self, latents: npt.NDArray[np.float32], on_batch: OnBatch = lambda _: None
    ) -> tuple[Images, Mask]:
        """Returns the images of latents, looked up in the codebook first; otherwise as `decode`.

        Args:
            latents: (N, C, h, w) float32, N from 1; those that are not finite give no finite image.
            on_batch: Told how many images each finished batch held.

        Raises:
            ConfigError: If not even one image fits into memory.
        """
        images, finite = self._run(self._decode_latents_batch, latents, on_batch)
        return images, finite

    def decode_quantized(
        self, quantized: npt.NDArray[np.float32], on_batch: OnBatch = lambda _: None
    ) -> tuple[Images, Mask]:
        """Returns the images of what codes stand for, without a look-up; otherwise as `decode`.

        Args:
            quantized: As latents for `decode_latents`.
            on_batch: Told how many images each finished batch held.

        Raises:
            ConfigError: If not even one image fits into memory.
        """
        images, finite = self._run(self._decode_quantized_batch, quantized, on_batch)
        return images, finite

    def _encode_batch(
        self, images: Tensor, vectors: Sequence[VectorLayout] = ()
    ) -> tuple[Tensor, ...]:
        """Returns codes (B, h, w), mask (B,) and vectors of images (B, H, W, 3) uint8."""
        with arithmetic(self.how.dtype):
            latents = self._latents_of(images)
        finite = latents.isfinite().flatten(1).all(1)
        codes = self._tokenizer.codes_of(latents)
        found = (latents if each.name == LATENTS else self._quantized_of(codes) for each in vectors)
        stored = [round_to(each, how.dtype) for each, how in zip(found, vectors, strict=True)]
        return codes, finite, *stored

    def _quantized_of(self, codes: Tensor) -> Tensor:
        """Returns what codes stand for, whose arithmetic is float32's in any case."""
        with arithmetic("float32"):
            return self._tokenizer.quantized_of(codes)

    def _decode_latents_batch(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Returns images (B, H, W, 3) uint8 and mask (B,) of latents (B, C, h, w) float32."""
        images, finite = self._decode_batch(self._tokenizer.codes_of(latents))
        return images, finite & latents.isfinite().flatten(1).all(1)

    def _decode_quantized_batch(self, quantized: Tensor) -> tuple[Tensor, Tensor]:
        """Returns images (B, H, W, 3) uint8 and mask (B,) of quantized (B, C, h, w) float32."""
        last = quantized.movedim(1, -1).contiguous().movedim(-1, 1)  # as a look-up leaves it
        with arithmetic(self.how.dtype):
            pixels = self._pixels_of_quantized(last)
        images, finite = self._to_images(pixels)
        return images, finite & quantized.isfinite().flatten(1).all(1)

    def _decode_batch(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Returns images (B, H, W, 3) uint8 and mask (B,) of codes (B, h, w)."""
        with arithmetic(self.how.dtype):
            pixels = self._pixels_of(codes)
        return self._to_images(pixels)

    def _to_images(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Returns images (B, H, W, 3) uint8 and mask (B,) of finite pixels (B, 3, H, W)."""
        scale, shift = SCALE_SHIFT[self.how.pixel_range]
        finite = pixels.isfinite().flatten(1).all(1)
        unit = ((pixels - shift) / scale).nan_to_num()
        levels = (unit.clamp(0.0, 1.0) * 255.0).round()
        return levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous(), finite

    def _to_latents(self, images: Tensor) -> Tensor:
        """Returns latents (B, C, h, w) float32 of images (B, H, W, 3) uint8."""
        scale, shift = SCALE_SHIFT[self.how.pixel_range]
        unit = images.permute(0, 3, 1, 2).to(torch.float32) / 255.0  # stays channels-last
        return self._tokenizer.latents_of(unit * scale + shift)

    def _to_pixels(self, codes: Tensor) -> Tensor:
        """Returns pixels (B, 3, H, W) float32, not clamped, in the network's range."""
        return self._tokenizer.pixels_of(codes)

    def _quantized_to_pixels(self, quantized: Tensor) -> Tensor:
        """Returns the same of what codes stand for."""
        return self._tokenizer.decode(quantized)

    def _run(
        self, forward: Forward, items: npt.NDArray[Any], on_batch: OnBatch
    ) -> list[npt.NDArray[Any]]:
        """Returns each result of `forward` over all items."""
        with torch.inference_mode(), watch_device():
            return self._run_batches(forward, items, on_batch)

    def _begin(self, forward: Forward, items: npt.NDArray[Any]) -> Begun:
        """Launches all batches at once; on a CPU that is to do them."""
        with torch.inference_mode(), watch_device():
            begun = list(self._launches(forward, items))

        def wait() -> tuple[npt.NDArray[Any], Mask]:
            with watch_device():
                collected = [each.collect() for each in begun]
            results, finite = (np.concatenate(each) for each in zip(*collected, strict=True))
            return results, finite

        return wait

    def _run_batches(
        self, forward: Forward, items: npt.NDArray[Any], on_batch: OnBatch
    ) -> list[npt.NDArray[Any]]:
        """Returns each result of `forward` over all items, batch by batch."""
        done: list[list[npt.NDArray[Any]]] = []
        pending: deque[Launched] = deque()

        def collect() -> None:
            done.append(pending[0].collect())
            on_batch(pending.popleft().size)

        for launched in self._launches(forward, items):
            pending.append(launched)
            if len(pending) == _IN_FLIGHT:
                collect()
        while pending:
            collect()
        return [np.concatenate(results) for results in zip(*done, strict=True)]

    def _launches(self, forward: Forward, items: npt.NDArray[Any]) -> Iterator[Launched]:
        """Yields all batches as they are launched, smaller ones from where memory is short."""
        start = 0
        while start < len(items):
            batch = items[start : start + self.batch_size]
            launched = self._launch(forward, batch)
            if launched is None:
                self._halve_batch()
                continue
            yield launched
            start += len(batch)

    def _launch(self, forward: Forward, batch: npt.NDArray[Any]) -> Launched | None:
        """Starts one batch on the device; returns None if it does not fit into memory.

        The caller makes room, since the exception keeps the tensors of its frames alive.
        """
        try:
            sent, lap = self._send(batch), Lap(self.device)
            return Launched.of(forward(sent), len(batch), lap)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return None

    def _send(self, batch: npt.NDArray[Any]) -> Tensor:
        """Returns the batch on the device, padded; copied beside the arithmetic under way there."""
        host = self._pad(batch)
        if self._copies is None:
            return host
        computing = torch.cuda.current_stream()
        with torch.cuda.stream(self._copies):
            sent = host.to(self.device, non_blocking=True)
        computing.wait_stream(self._copies)
        sent.record_stream(computing)
        return sent

    def _pad(self, batch: npt.NDArray[Any]) -> Tensor:
        """Returns exactly `batch_size` items on the host, zeros added; pinned for a GPU."""
        shape = (self.batch_size, *batch.shape[1:])
        dtype = HOST_DTYPE[batch.dtype.type]
        padded = torch.empty(shape, dtype=dtype, pin_memory=self._copies is not None)
        padded.numpy()[: len(batch)] = batch
        padded[len(batch) :] = 0
        return padded

    def _halve_batch(self) -> None:
        if self.batch_size == 1:
            raise ConfigError(
                f"{self.device} runs out of memory with a single image; use a smaller --resolution "
                "or --dtype bfloat16"
            )
        self.batch_size //= 2
        torch.cuda.empty_cache()


def _fuse(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Returns the function with kernels made for the shape that it is called with.

    One graph, or an error: a break would be slow without a word. Kernels are chosen by rule, not by
    timing (`max-autotune`), so that all machines of a kind round alike. Every shape and every codec
    of a process counts as a recompilation, of which torch allows eight.
    """
    torch._dynamo.config.cache_size_limit = _COMPILATIONS  # noqa: SLF001 (it has no other name)
    return torch.compile(function, backend=inductor, dynamic=False, fullgraph=True)
