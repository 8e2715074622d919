"""Which columns come along with samples, and what a batch has of each.

numbers    one array, of the column's own type: numbers, truths, lists of numbers of one length
text       strings; None where there is none
bytes      bytes; None where there are none
document   what JSON makes of anything else: lists, structs, times (`texts.documents`)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from vqpipe.errors import ConfigError
from vqpipe.schema import GRID
from vqpipe.sink.objects import CODES, OWN_COLUMNS
from vqpipe.sink.run import CodesRun, CompactRun
from vqpipe.texts import is_binary, is_text
from vqpipe.vector_layout import COLUMNS as VECTORS
from vqpipe.vector_layout import VectorLayout, is_bfloat16

Kind = Literal["numbers", "text", "bytes", "document"]
Shape = tuple[int, ...]
"""Of the codes of an image."""


@dataclass(frozen=True)
class Column:
    """One column, as it lies in the cache."""

    name: str
    kind: Kind
    dtype: str = "u1"
    """Of numbers, as numpy calls it."""
    length: int | tuple[int | str, ...] | None = None
    """Of lists: how many numbers one has; of vectors whose grids differ, their shape; None where
    it is the codes' own, or a single number."""
    is_list: bool = False
    is_bfloat16: bool = False
    """Whether numbers of 16 bits are those of bfloat16."""

    def numbers(self, shape: Shape) -> tuple[int, ...]:
        """Returns the shape of what a row has, in a pool whose codes are of that shape."""
        if not self.is_list:
            return ()
        if isinstance(self.length, int):
            return (self.length,)
        sides = dict(zip((each.name for each in GRID), shape, strict=False))
        known = [sides.get(str(side), side) for side in self.length or shape]
        return (math.prod(int(side) for side in known),)


def default_names(types: pa.Schema, run: CodesRun) -> tuple[str, ...]:
    """Returns the columns that come along unless others are asked for: codes and what was kept."""
    ours = OWN_COLUMNS | ({run.facts.shard_column} if isinstance(run, CompactRun) else set())
    return tuple(name for name in types.names if name == CODES or name not in ours)


def find_columns(
    types: pa.Schema, names: Sequence[str], vectors: Sequence[VectorLayout]
) -> tuple[Column, ...]:
    """Returns columns by name, once each.

    Args:
        types: Columns of the sink's rows.
        names: Those that are wanted.
        vectors: What the sink's run says of its columns of vectors.

    Raises:
        ConfigError: If one is not there.
    """
    missing = [name for name in names if name not in types.names]
    if missing:
        raise ConfigError(
            f"columns has {', '.join(map(repr, missing))}, which the sink's rows lack; they have "
            f"{', '.join(types.names)}"
        )
    shapes = {each.name: each.shape for each in vectors}
    return tuple(_column(types.field(name), shapes) for name in dict.fromkeys(names))


def _column(field: pa.Field, shapes: dict[Any, tuple[int | str, ...]]) -> Column:
    name, kind = field.name, field.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if _is_number(kind):
        return Column(name, "numbers", _dtype(kind))
    if pa.types.is_fixed_size_list(kind) and _is_number(kind.value_type):
        bits = is_bfloat16(field.metadata)
        dtype = _dtype(kind.value_type)
        return Column(name, "numbers", dtype, kind.list_size, is_list=True, is_bfloat16=bits)
    if name == CODES or name in VECTORS:
        dtype, bits = _dtype(kind.value_type), is_bfloat16(field.metadata)
        length = shapes.get(name)
        return Column(name, "numbers", dtype, length, is_list=True, is_bfloat16=bits)
    if is_text(kind):
        return Column(name, "text")
    return Column(name, "bytes" if is_binary(kind) else "document")


def _is_number(kind: pa.DataType) -> bool:
    checks = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    return any(check(kind) for check in checks)


def _dtype(kind: pa.DataType) -> str:
    return str(np.dtype(kind.to_pandas_dtype()).str)
