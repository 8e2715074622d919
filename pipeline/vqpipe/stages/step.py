"""What the codec of each stage does, in the process that has the device.

A step is plain data that every such process is sent. There it gets its codecs ready, once, and
then turns one table after the other into another one.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

import pyarrow as pa

from vqpipe.codec.config import CodecConfig, OnBatch
from vqpipe.stages.attempts import Item

if TYPE_CHECKING:
    from vqpipe.codec.codec import Codec

_GREY = 128
"""Of all pixels of an image with nothing in it that a codec could stumble over."""


def pixels_item(size: tuple[int, int]) -> Item:
    """Returns pixels as what a codec takes of a row; a grey image of that size is a plain one."""
    height, width = size
    grey = bytes([_GREY]) * (height * width * 3)
    return Item("pixels", {"pixels": grey, "pixels_height": height, "pixels_width": width})


MakeCodec = Callable[[CodecConfig, int | None], "Codec"]
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
        """Bytes of a row's pixels."""

    def prepare(self, make: MakeCodec) -> Ready:
        """Returns the step with its codecs made."""
