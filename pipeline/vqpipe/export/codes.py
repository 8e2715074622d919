"""What a format asks of the codes of a sink, and the rows of whole samples."""

from collections.abc import Iterator

import pyarrow as pa

from vqpipe.errors import ConfigError
from vqpipe.export.subject import Subject


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


def whole_samples(groups: Iterator[pa.Table], views: int) -> Iterator[pa.Table]:
    """Yields rows in tables of whole samples: a row group may end between two views of one."""
    rest: pa.Table | None = None
    for table in groups:
        rows = pa.concat_tables([rest, table]) if rest else table
        whole = len(rows) // views * views
        yield rows.slice(0, whole)
        rest = rows.slice(whole).combine_chunks()
    assert not rest, "samples are committed with all of their views"
