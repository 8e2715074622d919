"""What the codec of each stage does, in the process that has the device.

A step is plain data that every such process is sent. There it gets its codecs ready, once, and
then turns one table after the other into another one.
"""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from vqpipe import schema
from vqpipe.codec.codec import Codec, CodecConfig, Codes, OnBatch
from vqpipe.quality.inception import extract_features, load_inception
from vqpipe.quality.judges import Judge, load_same
from vqpipe.quality.lpips import load_lpips, measure_lpips
from vqpipe.quality.pixels import compare_images
from vqpipe.stages.attempts import Item
from vqpipe.stages.audit import NO_AUDIT, SHARE, Audit
from vqpipe.stages.decode import Form, decode_rows
from vqpipe.stages.evaluate import Measured, Pixels, measure_rows
from vqpipe.stages.read import encode_rows

_GREY = 128

MakeCodec = Callable[[CodecConfig, int | None], Codec]
"""How pixels become codes, and the batch size, None for the run's: a codec on the device."""

Compare = Callable[[Pixels, Pixels], Iterable[tuple[str, npt.NDArray[np.floating]]]]
"""Views and decoded images (N, R, R, 3): names of scores with a number or a vector a view."""


class Ready(NamedTuple):
    """A step that has its codecs."""

    run: Callable[[pa.Table, OnBatch], pa.Table]
    """Rows in, rows out; told how many images each batch of the codec held."""
    warm_up: Callable[[], float]
    """Has a device compile and choose kernels; returns the seconds."""


class Step(Protocol):
    """What a stage's codec does."""

    @property
    def item(self) -> Item:
        """What it takes of a row."""

    @property
    def row_bytes(self) -> int:
        """Bytes of a row where it has pixels."""

    def prepare(self, make: MakeCodec) -> Ready:
        """Returns the step with its codecs made."""


@dataclass(frozen=True)
class Encoding:
    """Pixels to codes."""

    codes: pa.Field
    how: CodecConfig
    resolution: int
    audit: float = SHARE
    """Share of the images that are looked at twice."""

    @property
    def item(self) -> Item:
        """The pixels; a grey image is a plain one."""
        return Item("pixels", bytes([_GREY]) * self.row_bytes)

    @property
    def row_bytes(self) -> int:
        """Bytes of a view."""
        return self.resolution**2 * 3

    def prepare(self, make: MakeCodec) -> Ready:
        """Makes a codec, and those for audits: a batch is padded, and they see single images."""
        codec = make(self.how, None)
        audit = self._audit(codec, make) if self.audit else NO_AUDIT

        def run(table: pa.Table, on_batch: OnBatch) -> pa.Table:
            encode = functools.partial(codec.encode, on_batch=on_batch)
            return encode_rows(table, encode, self.codes, audit)

        return Ready(run, lambda: codec.warm_up(self.resolution, self.resolution))

    def _audit(self, codec: Codec, make: MakeCodec) -> Audit:
        """Returns what looks at images twice; on a CPU, whose batch is one, with the same codec."""
        single = codec if codec.batch_size == 1 else make(replace(self.how, eager=True), 1)
        exact = replace(self.how, dtype="float32", eager=True)
        reference = None if self.how.dtype == "float32" else make(exact, 1).encode
        return Audit(self.audit, single.decode, reference)


@dataclass(frozen=True)
class Decoding:
    """Codes or latents to pixels."""

    form: Form
    how: CodecConfig
    downsample_factor: int

    @property
    def item(self) -> Item:
        """The codes; those that are all 0 are plain ones."""
        return Item("image", self.form.plain())

    @property
    def row_bytes(self) -> int:
        """Bytes of a decoded image."""
        height, width = self.size
        return height * width * 3

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images, in pixels."""
        height, width = self.form.grid
        return height * self.downsample_factor, width * self.downsample_factor

    def prepare(self, make: MakeCodec) -> Ready:
        """Makes a codec."""
        codec = make(self.how, None)
        decode = codec.decode_latents if self.form.channels else codec.decode

        def run(table: pa.Table, on_batch: OnBatch) -> pa.Table:
            known = functools.partial(decode, on_batch=on_batch)
            return decode_rows(table, known, self.form, self.row_bytes)

        def warm_up() -> float:
            return codec.warm_up_by(lambda: decode(self.form.parse(self.item.plain)[np.newaxis]))

        return Ready(run, warm_up)


@dataclass(frozen=True)
class Evaluating:
    """Pixels and codes to scores: decoded and encoded again in float32, whatever the run has."""

    how: CodecConfig
    resolution: int
    grid: tuple[int, int]
    lpips: Judge | None = None
    """LPIPS' weights, if they are at hand."""
    inception: Judge | None = None
    """Inception's weights, if they are at hand."""

    @property
    def item(self) -> Item:
        """The pixels; a grey image is a plain one."""
        return Item("pixels", bytes([_GREY]) * self.row_bytes)

    @property
    def row_bytes(self) -> int:
        """Bytes of a view."""
        return self.resolution**2 * 3

    @property
    def scores(self) -> list[pa.Field]:
        """Columns that are measured."""
        return schema.score_fields(has_lpips=bool(self.lpips), has_features=bool(self.inception))

    def prepare(self, make: MakeCodec) -> Ready:
        """Makes a codec and the networks that compare images."""
        codec = make(replace(self.how, dtype="float32", eager=True), None)
        compare = self._comparisons(codec.device)

        def run(table: pa.Table, on_batch: OnBatch) -> pa.Table:
            def measure(views: Pixels, codes: Codes) -> Measured:
                decoded, finite = codec.decode(codes.reshape(-1, *self.grid))
                again, _ = codec.encode(views, on_batch)
                unlike = (again.reshape(len(codes), -1) != codes).sum(1)
                scores = {name: value for each in compare for name, value in each(views, decoded)}
                return Measured(decoded, finite, scores, unlike)

            # a batch at a time: decoded pixels take memory, and whoever waits sees it move
            size = codec.batch_size
            batches = [table.slice(start, size) for start in range(0, max(len(table), 1), size)]
            return pa.concat_tables([measure_rows(each, measure, self.scores) for each in batches])

        return Ready(run, lambda: codec.warm_up(self.resolution, self.resolution))

    def _comparisons(self, device: torch.device) -> list[Compare]:
        """Returns what compares views with decoded images, the networks loaded."""
        found: list[Compare] = [
            lambda *pair: vars(compare_images(pair[0], pair[1], device)).items()
        ]
        if self.lpips:
            lpips = load_same(load_lpips, self.lpips, device)
            found.append(lambda *images: [("lpips", measure_lpips(lpips, *images))])
        if self.inception:
            inception = load_same(load_inception, self.inception, device)
            names = ("features_original", "features_decoded")
            found.append(
                lambda *images: [
                    (name, extract_features(inception, each))
                    for name, each in zip(names, images, strict=True)
                ]
            )
        return found
