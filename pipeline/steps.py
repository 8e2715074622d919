"""What the codec of each stage does, in the process that has the device.

A step is plain data that every such process is sent. There it gets its codecs ready, once, and
then turns one table after the other into another one.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from pipeline.attempts import Item
from pipeline.codec import Codec, CodecConfig, OnBatch
from pipeline.decoding import Form, decode_rows
from pipeline.stages import encode_rows

_GREY = 128

MakeCodec = Callable[[CodecConfig, int | None], Codec]
"""How pixels become codes, and the batch size, None for the run's: a codec on the device."""


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

    @property
    def item(self) -> Item:
        """The pixels; a grey image is a plain one."""
        return Item("pixels", bytes([_GREY]) * self.row_bytes)

    @property
    def row_bytes(self) -> int:
        """Bytes of a view."""
        return self.resolution**2 * 3

    def prepare(self, make: MakeCodec) -> Ready:
        """Makes a codec and, in reduced precision, one of float32 for audits."""
        codec = make(self.how, None)
        exact = replace(self.how, dtype="float32", eager=True)
        reference = None if self.how.dtype == "float32" else make(exact, 1).encode

        def run(table: pa.Table, on_batch: OnBatch) -> pa.Table:
            encode = functools.partial(codec.encode, on_batch=on_batch)
            return encode_rows(table, encode, self.codes, reference)

        return Ready(run, lambda: codec.warm_up(self.resolution, self.resolution))


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
