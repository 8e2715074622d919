"""Finished rows become one Parquet object a shard; that object's existence is the commit.

A writer that holds a whole shard publishes it. Otherwise it publishes what it holds as row ranges
in `staging/`, looks whether the ranges now cover the shard, and if so merges them. Any number of
writers may do this at once, and again after any crash: whoever sees a complete set publishes the
same rows, and the first one wins. Object storage is the only state.

What a whole shard becomes in the sink is `pipeline.publication`'s matter.
"""

import json
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import layout, storage
from pipeline.errors import DamagedError, StorageError
from pipeline.footer import ORIGIN
from pipeline.layout import ranges_of
from pipeline.losses import least_images
from pipeline.objects import pack_object, parse_object
from pipeline.publication import Base, publish_shard, read_base
from pipeline.writer import Writer, origin_of

RECEIPT = pa.schema(
    [
        pa.field("shard", pa.int32()),
        pa.field("good", pa.int64()),  # rows that came in without a reason
        pa.field("rejected", pa.int64()),  # rows that came in with a reason
        pa.field("reasons", pa.list_(pa.string())),  # of the rejected rows
        pa.field("rejected_images", pa.int64()),  # that these stand for, at least
        pa.field("committed", pa.int32()),  # rows of the shard, if its object is there now
        pa.field("dropped", pa.list_(pa.string())),  # what was wrong with rows staged before
    ]
)
"""What a writer reports: one row for each shard that it was given rows of."""

_NUMBERS = ("row", "view")
"""Columns that tell rows of a shard apart; not every stage has views."""


def commit_rows(table: pa.Table, writer: Writer) -> pa.Table:
    """Makes finished rows durable and commits every shard that they complete.

    Args:
        table: Rows of any shards in any order (`Product.rows`).
        writer: The run they belong to.

    Returns:
        One receipt a shard (`RECEIPT`).
    """
    receipts = []
    for index in pc.unique(table["shard"]).to_pylist():
        rows = table.filter(pc.equal(table["shard"], index)).sort_by("row")
        reasons = rows["reason"].drop_null().to_pylist()
        real = pc.sum(pc.greater_equal(rows["row"], 0)).as_py()
        dropped: list[str] = []
        receipts.append(
            {
                "shard": index,
                "good": real - len(reasons),
                "rejected": len(reasons),
                "reasons": reasons,
                "rejected_images": least_images(rows),
                "committed": _commit_shard(writer, index, rows, dropped),
                "dropped": dropped,
            }
        )
    return pa.Table.from_pylist(receipts, schema=RECEIPT)


def _commit_shard(writer: Writer, index: int, rows: pa.Table, dropped: list[str]) -> int | None:
    """Publishes a whole shard, or stages its rows and merges if they were the last missing ones.

    Args:
        writer: The run they belong to.
        index: The shard's place in the plan.
        rows: What there is of it.
        dropped: Is told what was wrong with staged rows that are to be read anew.

    Returns:
        Rows of the shard, if it is committed now.
    """
    base = read_base(writer, index) if writer.revision(index) else None
    total = pc.max(rows["total"]).as_py()
    if base and (total is None or total < base.least):
        total = base.total  # what was read before went further: this reading ended too early
    rows = rows.filter(pc.greater_equal(rows["row"], 0))
    whole = _with_base(rows, base)
    if total is not None and len(whole) == total:
        publish_shard(writer, index, whole, total, base)
        return int(total)
    for block in _contiguous(rows):
        _stage(writer, index, block)
    return _merge(writer, index, base, dropped)


def _with_base(rows: pa.Table, base: Base | None) -> pa.Table:
    """Returns rows in order, each once; what is committed already comes first."""
    tables = [base.rows, rows] if base else [rows]
    together = pa.concat_tables(tables)
    names = [name for name in _NUMBERS if name in together.column_names]
    numbers = [together[name].fill_null(0).to_numpy() for name in names]
    order = np.lexsort(numbers[::-1])  # stable
    if (order[1:] > order[:-1]).all():  # in order as it is: sorting would copy every image
        return _drop_duplicates(together)
    return _drop_duplicates(together.take(pa.array(order)))


def _contiguous(rows: pa.Table) -> Iterator[pa.Table]:
    """Yields runs of consecutive row numbers of a sorted table, which may hold some twice."""
    numbers = rows["row"].to_numpy()
    for first, last in ranges_of(numbers):
        start, end = np.searchsorted(numbers, [first, last])
        yield rows.slice(start, end - start)


def _stage(writer: Writer, index: int, block: pa.Table) -> None:
    rows = (block["row"][0].as_py(), block["row"][-1].as_py() + 1)
    name, total = writer.plan.name(index), block["total"][-1].as_py()
    uri = layout.range_uri(writer.sink, name, rows, total, writer.edition(index))
    storage.publish(uri, pack_object(block, {ORIGIN: json.dumps(origin_of(writer, index))}))


def _merge(writer: Writer, index: int, base: Base | None, dropped: list[str]) -> int | None:
    """Commits a shard whose staging is complete; returns its rows if it is committed now."""
    name = writer.plan.name(index)
    least = base.least if base else 0
    uris = _list_ranges(writer, index, least)
    staged = layout.parse_ranges(uris, writer.edition(index), least)
    if base:
        staged = staged.with_rows(base.rows["row"].to_numpy(), base.total)
    if staged.total is None or not staged.complete:
        return None
    try:
        tables = [_read_range(uri, writer, index) for uri in uris]
    except FileNotFoundError:  # another writer has committed the shard and is clearing up
        storage.stat(layout.data_uri(writer.sink, name))
        return staged.total
    except DamagedError as error:  # no writer can use it: gone, its rows are missing, and read anew
        dropped.append(error.message)
        return None
    rows = _with_base(pa.concat_tables(tables), base)
    publish_shard(writer, index, rows, staged.total, base)
    for uri in uris:
        storage.delete(uri)
    return staged.total


def _list_ranges(writer: Writer, index: int, least: int) -> list[str]:
    folder = layout.staging_uri(writer.sink, writer.plan.name(index))
    files = storage.list_files(folder, recursive=False)
    return layout.pick_ranges((file.uri for file in files), writer.edition(index), least)


def _read_range(uri: str, writer: Writer, index: int) -> pa.Table:
    data = storage.read(uri)
    try:
        found = parse_object(uri, data)
    except DamagedError as error:
        storage.delete(uri)
        raise DamagedError(
            f"{uri} is damaged; it was removed, and the next command reads its rows again"
        ) from error
    if found.footer.origin != origin_of(writer, index):
        raise StorageError(
            f"{uri} was made by another run, or of another version of the shard; remove staging/ "
            "and run again"
        )
    return found.table


def _drop_duplicates(rows: pa.Table) -> pa.Table:
    """Keeps the first of rows with the same number and view; the table is sorted by them."""
    columns = (rows[name] for name in _NUMBERS if name in rows.column_names)
    numbers = np.stack([column.fill_null(0).to_numpy() for column in columns])
    is_first = np.append(True, (np.diff(numbers) != 0).any(axis=0))[: len(rows)]
    return rows if is_first.all() else rows.filter(pa.array(is_first))
