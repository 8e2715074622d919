"""The compact stage: rows of a snapshot's objects in files of as many rows, in an order of its own.

    read_shards    objects of the source, checked, as rows that travel (`CompactProduct.carried`)
    write_file     rows that have come together, committed
    CompactProduct its product: what rows become in the sink

What comes between the two is `stages.neighbours` where files have the order of the source, and
`stages.shuffled` where they have another.

A file is committed as a shard of any stage is (`sink.publication`), as the existence of its object,
and what is there is not made again. Its rows come in batches that depend on nothing but the file,
so that whoever makes it makes the same bytes.
"""

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vqpipe.schema import HEAD, KEPT
from vqpipe.sink.arrangement import Arrangement
from vqpipe.sink.commit import RECEIPT
from vqpipe.sink.footer import HISTOGRAM, pack_histogram
from vqpipe.sink.parts import read_part
from vqpipe.sink.product import Facts, Finished, Write
from vqpipe.sink.publication import publish_shard
from vqpipe.sink.snapshot import Snapshot
from vqpipe.sink.writer import Writer
from vqpipe.stages.encode import CodesProduct
from vqpipe.storage.ahead import map_ahead
from vqpipe.vector_layout import document_of

ROW, SHARD = "from.row", "from.shard"
"""Columns in which a row's place in the source travels: its number in its shard, and that's name.
No other column has a dot after `from`."""
_BATCH_ROWS, _BATCH_BYTES = 8192, 8 * 2**20
"""Most rows of a batch, by number and by about how many bytes."""
_SMALL_BYTES, _READERS = 4 * 2**20, 8
"""Objects up to this size are read several at a time, ahead of their turn."""
_ROW_BYTES = 256
"""About what a row has beside codes and vectors."""


@dataclass(frozen=True)
class CompactProduct:
    """The compact stage's: rows of codes as they were, the shard of each, and their histogram."""

    codes: CodesProduct
    """What the run that made them has."""
    shard_column: str
    """What the column with the name of a row's shard is called."""
    has_shard: bool = False
    """Whether the source has that column itself, being compacted too."""

    @property
    def views(self) -> int:
        """Rows of a sample."""
        return self.codes.views

    @property
    def codebook_size(self) -> int:
        """Bins of the histogram; 0 where codes were left out, of which nothing is known."""
        return self.codes.codebook_size if self.codes.has_codes else 0

    @property
    def data(self) -> pa.Schema:
        """Columns of `data/`: those of the source, and the shard."""
        return self.codes.data.append(pa.field(self.shard_column, pa.string()))

    @functools.cached_property
    def carried(self) -> pa.Schema:
        """Columns of rows as they travel, from their objects on."""
        kept = set(self.codes.kept.names)
        own = (each for each in self.codes.data if each.name != "row")
        fields = [each.with_name(KEPT + each.name) if each.name in kept else each for each in own]
        return pa.schema([*fields, pa.field(ROW, pa.int32()), pa.field(SHARD, pa.string())])

    @property
    def rows(self) -> pa.Schema:
        """Columns of rows as they are committed."""
        return pa.schema([*HEAD, *self.carried])

    @property
    def source_columns(self) -> list[str]:
        """Columns that are read of the source's objects."""
        return [*self.codes.data.names, *([self.shard_column] if self.has_shard else [])]

    @property
    def row_bytes(self) -> int:
        """About what a row takes in memory; the same for all rows of a run."""
        made = [each for each in self.codes.data if each.name in _MADE]
        return _ROW_BYTES + sum(map(self._bytes_of, made))

    def _bytes_of(self, column: pa.Field) -> int:
        bits: int = column.type.value_type.bit_width
        if pa.types.is_fixed_size_list(column.type):
            return int(column.type.list_size) * bits // 8
        channels = {each.name: int(each.shape[0]) for each in self.codes.vectors}
        return self.codes.layout.length * channels.get(column.name, 1) * bits // 8

    @property
    def batch_rows(self) -> int:
        """Rows of a batch."""
        return max(1, min(_BATCH_ROWS, _BATCH_BYTES // self.row_bytes))

    def carry(self, data: pa.Table, shard: str) -> pa.Table:
        """Returns rows of an object of the source as they travel.

        Args:
            data: All its columns.
            shard: Its name.
        """
        columns = dict(zip(data.column_names, data.columns, strict=True))
        columns[ROW] = columns["row"]
        if self.has_shard:
            columns[SHARD] = columns[self.shard_column]
        else:
            columns[SHARD] = pa.chunked_array([pa.repeat(pa.scalar(shard, pa.string()), len(data))])
        names = [name.removeprefix(KEPT) for name in self.carried.names]
        found = pa.table([columns[name] for name in names], self.carried.names)
        return found.cast(self.carried)

    def finish(
        self,
        good: Iterable[pa.Table],
        shard: str,  # noqa: ARG002 (rows lie in data/ alone)
        before: Mapping[str, Any],  # noqa: ARG002 (no object is revised)
        write: Write,
    ) -> Finished:
        """Writes the rows, after checking number and range of their codes, and counts these."""
        histogram = np.zeros(self.codebook_size, np.int64)
        for table in good:
            if self.codes.has_codes:
                histogram += self.codes.count(table)
            self.codes.check_vectors(table)
            write(self._placed_back(table))
        vectors = self.codes.vectors
        facts: Facts = {
            "layout": self.codes.layout.document(),
            "codebook_size": self.codes.codebook_size,
            **({"latents": document_of(vectors)} if vectors else {}),
        }
        counted = {HISTOGRAM: pack_histogram(histogram)} if self.codes.has_codes else {}
        return Finished(facts, counted)

    def _placed_back(self, table: pa.Table) -> pa.Table:
        """Returns rows whose `row` is that in their shard, and no more that in their file."""
        columns = dict(zip(table.column_names, table.columns, strict=True))
        return pa.table(columns | {"row": columns[ROW], self.shard_column: columns[SHARD]})


_MADE = {"codes", "latents", "quantized"}


@dataclass(frozen=True)
class Compaction:
    """What to do: plain data, the same on any engine."""

    writer: Writer
    snapshot: Snapshot
    arrangement: Arrangement
    product: CompactProduct
    """The writer's."""
    todo: tuple[int, ...]
    """Files that are left, in order."""

    @property
    def samples_left(self) -> int:
        """Of these files."""
        return sum(map(self.arrangement.rows, self.todo)) // self.arrangement.views

    @property
    def bytes_left(self) -> int:
        """About what all rows of these files take in memory."""
        return self.samples_left * self.arrangement.views * self.product.row_bytes

    @functools.cached_property
    def is_left(self) -> npt.NDArray[np.bool_]:
        """(files,): which are left."""
        found = np.zeros(len(self.arrangement), bool)
        found[list(self.todo)] = True
        return found


def read_shards(work: Compaction, indices: Iterable[int]) -> Iterator[tuple[int, pa.Table]]:
    """Yields rows of the snapshot's objects in order, with the number of the first among all.

    Small objects are read ahead, several at a time, each of them whole.

    Args:
        work: What is done.
        indices: Places of objects in the snapshot.

    Raises:
        MismatchError: If an object is another one now, or gone.
        StorageError: If the store does not give it, or it is damaged.
    """
    sizes = work.snapshot.table["bytes"].to_numpy()
    rows = work.snapshot.rows
    held = (index for index in indices if rows[index])
    for is_small, some in itertools.groupby(held, lambda index: bool(sizes[index] <= _SMALL_BYTES)):
        if is_small:
            for tables in map_ahead(lambda index: list(_read(work, index)), some, _READERS):
                yield from tables
        else:
            for index in some:
                yield from _read(work, index)


def _read(work: Compaction, index: int) -> Iterator[tuple[int, pa.Table]]:
    first, name = int(work.snapshot.starts[index]), work.snapshot.part(index).name
    for table in read_part(work.snapshot, index, work.product.source_columns):
        yield first, work.product.carry(table, name)
        first += len(table)


def in_batches(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Yields the rows of tables in tables of so many, the last one of fewer.

    Each is in memory of its own that looks the same however the rows came, so that what is written
    of it depends on the rows alone.
    """
    held: list[pa.Table] = []
    count = 0
    for table in tables:
        start = 0
        while start < len(table):
            taken = table.slice(start, rows - count)
            held.append(taken)
            start, count = start + len(taken), count + len(taken)
            if count == rows:
                yield _alike(held)
                held, count = [], 0
    if held:
        yield _alike(held)


def _alike(tables: Sequence[pa.Table]) -> pa.Table:
    """Returns tables as one that was sent and received: slices are cut, needless masks are gone."""
    whole = pa.concat_tables(tables).combine_chunks()
    sent = pa.BufferOutputStream()
    with pa.ipc.new_stream(sent, whole.schema) as stream:
        stream.write_table(whole)
    return pa.ipc.open_stream(sent.getvalue()).read_all()


def write_file(work: Compaction, file: int, tables: Iterable[pa.Table]) -> None:
    """Commits a file, after checking that it has all its rows.

    Args:
        work: What is done.
        file: Which one.
        tables: Its rows in order (`CompactProduct.carried`).

    Raises:
        AccountingError: If they are too few or too many; nothing is committed.
    """
    first, last = work.arrangement.places(file)
    batches = in_batches(tables, work.product.batch_rows)
    rows = _with_heads(batches, file, work.arrangement.views)
    publish_shard(work.writer.slot(file), work.product, rows, last - first, None)


def _with_heads(tables: Iterable[pa.Table], file: int, views: int) -> Iterator[pa.Table]:
    """Yields rows with what the commit wants to know of them (`schema.HEAD`)."""
    first = 0
    for table in tables:
        size = len(table)
        numbers = np.arange(first, first + size) // views
        known = {
            "shard": pa.repeat(pa.scalar(file, pa.int32()), size),
            "row": pa.array(numbers, pa.int32()),
            "key": table["key"],
        }
        head = {each.name: known.get(each.name, pa.nulls(size, each.type)) for each in HEAD}
        rest = {name: table[name] for name in table.column_names if name != "key"}
        yield pa.table({**head, **rest})
        first += size


def receipt_of(work: Compaction, file: int) -> pa.Table:
    """Returns what a writer reports of a file that is there (`commit.RECEIPT`)."""
    first, last = work.arrangement.places(file)
    row = {
        **dict.fromkeys(("rejected", "left_out", "rejected_images"), 0),
        "reasons": [],
        "dropped": [],
        "shard": file,
        "good": last - first,
        "committed": last - first,
    }
    return pa.Table.from_pylist([row], schema=RECEIPT)
