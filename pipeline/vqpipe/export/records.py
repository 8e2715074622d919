"""Rows of a sink as formats take them that hold one thing a sample: an array, and facts as JSON."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vqpipe.code_layout import CodeLayout
from vqpipe.errors import ConfigError
from vqpipe.export.columns import find_caption, find_label
from vqpipe.export.subject import Subject
from vqpipe.schema import GRID, IMAGE, lists_in, numbers_of
from vqpipe.sink.objects import CODES
from vqpipe.texts import documents

Codes = npt.NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class Record:
    """One row of a sink: one view of one image."""

    key: str
    view: int
    codes: Codes
    """Of the shape that the layout says: (h, w), (h, w, d), or (n,) of sequences and scales."""
    facts: dict[str, Any]
    """All columns but codes and vectors, by name, as JSON has them (`documents`)."""

    @property
    def image(self) -> str | None:
        """Which of several images of a sample it is of."""
        return self.facts.get(IMAGE)

    def label(self, column: str | None) -> int | None:
        """Returns its label; None if it has none, or there is no column of labels.

        Raises:
            ConfigError: If it has more than 63 bits.
        """
        found = self.facts[column] if column else None
        if found is not None and found >= 1 << 63:
            raise ConfigError(f"{self.key!r} has {column} {found}, a label of more than 63 bits")
        return found

    def caption(self, column: str | None) -> str | None:
        """Returns its caption; None if it has none, or there is no column of captions."""
        return self.facts[column] if column else None

    def facts_without(self, *names: str | None) -> dict[str, Any]:
        """Returns the facts but those that are said elsewhere."""
        return {name: value for name, value in self.facts.items() if name not in names}


@dataclass(frozen=True)
class Named:
    """Columns that become fields of their own, with a value in every row."""

    label: str | None
    caption: str | None

    def values(self, record: Record) -> tuple[int | None, str | None]:
        """Returns the label and the caption of a row; None where no column is named.

        Raises:
            ConfigError: If a row has none; names the image.
        """
        for option, column in (("--label", self.label), ("--caption", self.caption)):
            if column and record.facts[column] is None:
                raise ConfigError(
                    f"{record.key!r} has no {column}, and a field of its own needs a value in "
                    f"every row: leave {option} away, and the column is one of those in json"
                )
        return record.label(self.label), record.caption(self.caption)


def check_named(subject: Subject, label: str | None, caption: str | None) -> None:
    """Checks those columns of labels and captions that an operator names.

    Raises:
        ConfigError: If one is not there, or of another type.
    """
    if label:
        find_label(subject, label)
    if caption:
        find_caption(subject, caption)


def records(subject: Subject, table: pa.Table) -> Iterator[Record]:
    """Yields rows of a shard, one by one."""
    names = subject.facts
    columns = [_documents(table[name]) for name in names]
    for codes, *values in zip(codes_of(subject.layout, table), *columns, strict=True):
        facts = dict(zip(names, values, strict=True))
        yield Record(facts["key"], facts["view"], codes, facts)


def _documents(column: pa.ChunkedArray) -> list[Any]:
    kind = column.type
    plain = column.cast(kind.value_type) if pa.types.is_dictionary(kind) else column
    return [value for chunk in plain.chunks for value in documents(chunk)]


def codes_of(layout: CodeLayout, table: pa.Table) -> Iterable[Codes]:
    """Returns the codes of rows, an array of its own shape each.

    Args:
        layout: How they lie in their lists.
        table: The rows; where images differ, with `GRID`.
    """
    if not layout.differs:
        stacked: Codes = numbers_of(table[CODES]).reshape(-1, *layout.shape)
        return stacked
    sides = zip(*(table[field.name].to_pylist() for field in GRID), strict=True)
    shapes = [layout.shape_of(*side) for side in sides]
    return [flat.reshape(shape) for flat, shape in zip(lists_in(table[CODES]), shapes, strict=True)]
