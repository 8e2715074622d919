"""What to do: plain data, the same on any engine."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from vqpipe.images import Preprocess
from vqpipe.sink.ranges import Staged
from vqpipe.sink.writer import Writer
from vqpipe.stages.read import Reader
from vqpipe.stages.step import Step

if TYPE_CHECKING:
    from vqpipe.codec.weights import Weights


@dataclass(frozen=True)
class TableFunction:
    """A function from table to table that needs no device, and its further arguments."""

    function: Callable[..., pa.Table]
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Work:
    """What to do: plain data, the same on any engine."""

    writer: Writer
    reader: Reader
    step: Step
    weights: "Weights"
    todo: dict[int, Staged]
    """Shards left, by place in the plan, with what is staged of each."""
    opens: Preprocess | None = None
    """How images become views between the reader and the codec; None if it reads no images."""
    after: TableFunction | None = None
    """What becomes of rows between the codec and the commit."""
    adds_earlier: bool = True
    """Whether what earlier commands have committed is added up beside this: each part of a run does
    that of its own shards alone."""
