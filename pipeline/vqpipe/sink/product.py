"""What the rows of a stage become in its sink: columns of `data/`, footers, what lies beside.

The commit (`vqpipe.sink.commit`) is the same for every stage: which rows there are, whose they are,
whether all are there. What is in them is a product's matter.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from vqpipe.errors import AccountingError
from vqpipe.sink.beside import Beside

Facts = dict[str, object]
Write = Callable[[pa.Table], None]


class Product(Protocol):
    """What a stage makes; sent to every writer."""

    @property
    def rows(self) -> pa.Schema:
        """Columns of the rows between the last stage and the commit, and of `staging/`."""

    @property
    def data(self) -> pa.Schema:
        """Columns of `data/`, kept ones last."""

    @property
    def views(self) -> int:
        """Rows of a good sample."""

    @property
    def codebook_size(self) -> int:
        """Bins of the histogram in every footer; 0 where there is none."""

    def finish(
        self, good: Iterable[pa.Table], shard: str, before: Mapping[str, Any], write: Write
    ) -> "Finished":
        """Writes the rows of a shard's object in `data/`, and returns what goes with them.

        Args:
            good: The shard's rows that were not rejected, in order (`rows`), some at a time.
            shard: Its name.
            before: What the footer said of the object that is revised, if one is.
            write: Is given all columns of `data/`, kept ones by their names between stages.

        Raises:
            AccountingError: If the rows are not what they must be.
        """


@dataclass(frozen=True)
class Finished:
    """What goes with the rows of a shard's object in `data/`, and before it."""

    facts: Facts
    """What the footer says, beside the counts of every shard."""
    footer: dict[str, str]
    """Keys and values of the footer of their own."""
    beside: Beside | None = None
    """Files that lie beside it."""


def not_null(
    tables: Iterable[pa.Table], names: tuple[str, ...], what: str, shard: str
) -> Iterator[pa.Table]:
    """Yields tables, after checking that some of their columns have every value."""
    for table in tables:
        missing = sum(table[name].null_count for name in names)
        if missing:
            raise AccountingError(f"{missing} {what} of {shard} are missing")
        yield table
