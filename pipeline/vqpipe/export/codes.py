"""What a format asks of the codes of a sink, and codes as the arrays that trainers take."""

from collections.abc import Iterator

import pyarrow as pa

from vqpipe.errors import ConfigError
from vqpipe.export.arrays import Array
from vqpipe.export.subject import Subject
from vqpipe.schema import GRID, lists_in, numbers_of
from vqpipe.sink.objects import CODES


def check_codes(subject: Subject) -> None:
    """Checks that a sink has codes.

    Raises:
        ConfigError: If they were left out of it.
    """
    if not subject.has_codes:
        raise ConfigError(
            f"{subject.snapshot.uri} was encoded with --drop-codes: it has no codes to export"
        )


def check_same_shape(subject: Subject, name: str) -> None:
    """Checks that a sink has codes, and of all images as many.

    Raises:
        ConfigError: If not.
    """
    check_codes(subject)
    if subject.layout.differs:
        raise ConfigError(
            f"--to {name} needs as many codes of every image, in one shape, and images of "
            f"{subject.snapshot.uri} have {subject.layout.describe()}: export to a format of whole "
            "samples, such as webdataset, or encode without --buckets"
        )


def check_grid(subject: Subject, name: str) -> None:
    """Checks that a sink has codes, each image's in one grid of rows and columns, maybe its own.

    Raises:
        ConfigError: If not.
    """
    check_codes(subject)
    layout = subject.layout
    if layout.kind not in {"grid", "grids"} or any(len(shape) != 2 for shape in layout.shapes):
        raise ConfigError(
            f"--to {name} needs a grid of codes of every image, and those of "
            f"{subject.snapshot.uri} are {layout.describe()}: its trainer takes no such tokenizer"
        )


def grid_columns(subject: Subject) -> list[str]:
    """Returns the columns that `grids_of` and `names_of` read."""
    sides = [field.name for field in GRID] if subject.layout.differs else []
    return ["key", "view", CODES, *sides]


def grids_of(table: pa.Table, subject: Subject) -> Iterator[Array]:
    """Yields the codes of each row, (h, w), of the type that the sink has."""
    if not subject.layout.differs:
        yield from numbers_of(table[CODES]).reshape(-1, *subject.layout.shape)
        return
    sides = (table[field.name].to_pylist() for field in GRID)
    for codes, height, width in zip(lists_in(table[CODES]), *sides, strict=True):
        yield codes.reshape(height, width)


def names_of(table: pa.Table, subject: Subject) -> list[str]:
    """Returns what each row is called: its key, and its view where samples have several."""
    keys: list[str] = table["key"].to_pylist()
    if subject.views == 1:
        return keys
    return [f"{key}/{view}" for key, view in zip(keys, table["view"].to_pylist(), strict=True)]
