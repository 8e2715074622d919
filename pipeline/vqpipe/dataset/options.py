"""What a trainer says of a data set: checked, and found out where it is left to us."""

import contextlib
import operator
import os
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch

from vqpipe.dataset.columns import Column
from vqpipe.dataset.index import Index
from vqpipe.dataset.loader import SEEN
from vqpipe.dataset.order import Ordering
from vqpipe.dataset.pictures import PIXELS
from vqpipe.dataset.reader import REPEAT, SAMPLE
from vqpipe.dataset.shares import Tail
from vqpipe.errors import ConfigError
from vqpipe.sink.objects import CODES
from vqpipe.sink.snapshot import Snapshot, keep_snapshot, load_snapshot, take_snapshot

DType = Literal["int64", "int32", "stored"]
SHAPE = "__shape__"
"""Of a batch: the shape of an image's codes."""


def check_whole(**numbers: int | None) -> None:
    """Refuses what is no whole number, or below 1; None is none."""
    for name, number in numbers.items():
        if number is None:
            continue
        if not isinstance(number, int) or isinstance(number, bool):
            raise ConfigError(f"{name} is {number!r}; it must be a whole number")
        if number < 1:
            raise ConfigError(f"{name} is {number}; it must be at least 1")


def find_seed(seed: int) -> int:
    """Returns a seed as a plain number of 64 bits.

    Raises:
        ConfigError: If it is none.
    """
    try:
        found = int(operator.index(seed))
    except TypeError:
        raise ConfigError(f"seed is {seed!r}; it must be a whole number") from None
    if not -(2**63) <= found < 2**63:
        raise ConfigError(f"seed is {seed}; it must have 64 bits")
    return found


def names_of(columns: Sequence[str] | str) -> tuple[str, ...]:
    """Returns names of columns; a name by itself is one."""
    return (columns,) if isinstance(columns, str) else tuple(columns)


def check_word(name: str, word: str, known: Any) -> None:  # noqa: ANN401 (a Literal)
    """Refuses a word that is none of those that are known."""
    if word not in get_args(known):
        raise ConfigError(f"{name} is {word!r}; it must be one of {', '.join(get_args(known))}")


def check_columns(columns: Sequence[Column], *, decodes: bool) -> None:
    """Refuses columns of which no batch can be made."""
    names = {each.name for each in columns}
    if not names:
        raise ConfigError("columns is empty; name at least one column")
    taken = names & {SAMPLE, REPEAT, SEEN, SHAPE, *([PIXELS] if decodes else [])}
    if taken:
        raise ConfigError(f"columns has {taken.pop()!r}, which batches have for something else")
    if decodes and CODES not in names:
        raise ConfigError("decode needs codes: they are not among columns")


def find_rank(rank: int | None, world: int | None) -> tuple[int, int]:
    """Returns rank and number of ranks: as said, or as torch or its launcher knows them."""
    if (rank is None) != (world is None):
        raise ConfigError("rank and world go together: give both, or neither")
    if rank is None or world is None:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
        else:
            rank = int(os.environ.get("RANK", "0"))
            world = int(os.environ.get("WORLD_SIZE", "1"))
    if not 0 <= rank < world:
        raise ConfigError(f"rank is {rank} and world {world}; it must be 0 <= rank < world")
    return rank, world


def find_snapshot(
    sink: str | os.PathLike[str],
    kept: str | os.PathLike[str] | None,
    generation: int | None,
    *,
    allow_incomplete: bool,
) -> Snapshot:
    """Returns which objects are read: those that a file says, if there is one, else those now."""
    uri = os.fspath(sink)
    if kept is not None:
        with contextlib.suppress(FileNotFoundError):
            return load_snapshot(os.fspath(kept), uri)
    found = take_snapshot(uri, generation=generation, allow_incomplete=allow_incomplete)
    return found if kept is None else keep_snapshot(os.fspath(kept), found)


def ordering_of(
    index: Index, batch_size: int, window: int | None, tail: Tail, *, is_shuffled: bool
) -> Ordering:
    """Returns what orders of all epochs have in common."""
    unit = batch_size if len(index.sorter.shapes) > 1 else 1
    drops_short = unit > 1 and tail == "drop"
    return Ordering(index.counts, unit, window, is_shuffled, drops_short)
