"""Finished rows become one Parquet object a shard; that object's existence is the commit.

A writer that holds a whole shard publishes it. Otherwise it publishes what it holds as row ranges
in `staging/`, looks whether the ranges now cover the shard, and if so merges them. Any number of
writers may do this at once, and again after any crash: whoever sees a complete set publishes the
same rows, and the first one wins. Object storage is the only state.

Where rejected samples are tried again (`Attempt`), a shard's object is revised: its good rows count
as rows that are safe already, and the new object takes the old one's place in one step. The same
happens to the object of a shard that was planned anew after its files changed, without the rows.
"""

import io
import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import layout, schema, storage
from pipeline.errors import AccountingError, StorageError
from pipeline.footer import (
    ORIGIN,
    REJECTIONS,
    Footer,
    pack_rejections,
    parse_footer,
    read_footer,
    write_parquet,
)
from pipeline.layout import ranges_of
from pipeline.plan import Plan, digest
from pipeline.products import Finished, Product
from pipeline.run import Run

RECEIPT = pa.schema(
    [
        pa.field("shard", pa.int32()),
        pa.field("good", pa.int64()),  # rows that came in without a reason
        pa.field("rejected", pa.int64()),  # rows that came in with a reason
        pa.field("reasons", pa.list_(pa.string())),  # of the rejected rows
        pa.field("committed", pa.int32()),  # rows of the shard, if its object is there now
    ]
)
"""What a writer reports: one row for each shard that it was given rows of."""


_WRITERS = 16

_NUMBERS = ("row", "view")
"""Columns that tell rows of a shard apart; not every stage has views."""


@dataclass(frozen=True)
class Attempt:
    """One command that tries rejected samples again."""

    tag: str
    """Unique among commands: what one of them has staged is of no use to another."""
    shards: frozenset[int]
    """Places in the plan of the shards that are revised."""
    facts: dict[str, object]
    """What may have changed since; stands in the footers of the shards that are revised."""


@dataclass(frozen=True)
class Writer:
    """All that a commit needs to know of its run."""

    sink: str
    run: Run
    plan: Plan
    kept: pa.Schema
    product: Product
    attempt: Attempt | None = None
    """Set if some shards that are committed are to be revised."""

    def revision(self, index: int) -> Attempt | None:
        """Returns the attempt that a shard is revised by, if it is."""
        return self.attempt if self.attempt and index in self.attempt.shards else None

    def edition(self, index: int) -> str:
        """Returns which rows in staging belong together with those of this writer."""
        revision = self.revision(index)
        return revision.tag if revision else layout.edition(self.plan.generation(index))

    def replaces(self, index: int) -> bool:
        """Tells whether objects of a shard may be there that are to give way to new ones."""
        return self.revision(index) is not None or bool(self.plan.earlier(index))

    def publish(self, index: int, uri: str, data: bytes) -> bool:
        """Publishes an object of a shard; returns False if one was there that has to stay."""
        if self.replaces(index):
            storage.replace(uri, data)
            return True
        return storage.publish(uri, data)


@dataclass(frozen=True)
class _Base:
    """What a shard's object holds that is to be revised."""

    rows: pa.Table
    """The good rows, as they were when they came (`Product.rows`)."""
    total: int | None
    """Rows of the shard; None if it could not be read to its end."""
    footer: Footer


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
        receipts.append(
            {
                "shard": index,
                "good": real - len(reasons),
                "rejected": len(reasons),
                "reasons": reasons,
                "committed": _commit_shard(writer, index, rows),
            }
        )
    return pa.Table.from_pylist(receipts, schema=RECEIPT)


def _commit_shard(writer: Writer, index: int, rows: pa.Table) -> int | None:
    """Publishes a whole shard, or stages its rows and merges if they were the last missing ones.

    Returns:
        Rows of the shard, if it is committed now.
    """
    base = _read_base(writer, index) if writer.revision(index) else None
    total = pc.max(rows["total"]).as_py()
    if total is None and base:
        total = base.total
    rows = rows.filter(pc.greater_equal(rows["row"], 0))
    whole = _with_base(rows, base)
    if total is not None and len(whole) == total:
        _publish_shard(writer, index, whole, total, base)
        return int(total)
    for block in _contiguous(rows):
        _stage(writer, index, block)
    return _merge(writer, index, base)


def _read_base(writer: Writer, index: int) -> _Base | None:
    """Returns what is committed of a shard, if it is of the version that is planned now."""
    try:
        data = storage.read(layout.data_uri(writer.sink, writer.plan.name(index)))
    except FileNotFoundError:
        return None
    file = pq.ParquetFile(io.BytesIO(data))
    footer = parse_footer(file.metadata.metadata)
    if not is_current(footer, writer.run, writer.plan, index):
        return None
    return _Base(_rows_of(file.read(), index, writer), footer.total, footer)


def is_current(footer: Footer, run: Run, plan: Plan, index: int) -> bool:
    """Tells whether an object was made by a run, of a shard as it is planned now."""
    said = (footer.origin.get("fingerprint"), footer.origin.get("source"))
    return said == (run.fingerprint, plan.source(index))


def _with_base(rows: pa.Table, base: _Base | None) -> pa.Table:
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
    storage.publish(uri, write_parquet(block, {ORIGIN: json.dumps(_origin(writer, index))}))


def _merge(writer: Writer, index: int, base: _Base | None) -> int | None:
    """Commits a shard whose staging is complete; returns its rows if it is committed now."""
    name = writer.plan.name(index)
    uris = _list_ranges(writer, index)
    staged = layout.parse_ranges(uris, writer.edition(index))
    if base:
        staged = staged.with_rows(base.rows["row"].to_numpy(), base.total)
    if staged.total is None or not staged.complete:
        return None
    try:
        tables = [_read_range(uri, writer, index) for uri in uris]
    except FileNotFoundError:  # another writer has committed the shard and is clearing up
        storage.stat(layout.data_uri(writer.sink, name))
        return staged.total
    rows = _with_base(pa.concat_tables(tables), base)
    _publish_shard(writer, index, rows, staged.total, base)
    for uri in uris:
        storage.delete(uri)
    return staged.total


def _list_ranges(writer: Writer, index: int) -> list[str]:
    folder = layout.staging_uri(writer.sink, writer.plan.name(index))
    files = storage.list_files(folder, recursive=False)
    return [file.uri for file in files if layout.is_range(file.uri, writer.edition(index))]


def _read_range(uri: str, writer: Writer, index: int) -> pa.Table:
    file = pq.ParquetFile(io.BytesIO(storage.read(uri)))
    origin = json.loads((file.metadata.metadata or {}).get(ORIGIN.encode(), b"{}"))
    if origin != _origin(writer, index):
        raise StorageError(
            f"{uri} was made by another run, or of another version of the shard; remove staging/ "
            "and run again"
        )
    return file.read()


def _publish_shard(
    writer: Writer, index: int, rows: pa.Table, total: int, base: _Base | None
) -> None:
    """Publishes `rejected/` and then `data/`, after checking that every row is there once."""
    _check_accounting(writer.plan.name(index), rows, total)
    good, bad = _split(rows)
    rejected = bad.select(schema.REJECTED.names).cast(schema.REJECTED)
    rejections = pack_rejections(rejected)
    before = base.footer.origin if base else {}
    if before.get("rejections") == digest(rejections):
        return  # the samples were rejected again, in the same words
    name = writer.plan.name(index)
    finished = writer.product.finish(good, name, before)
    if writer.replaces(index) and not _may_replace(writer, index, base):
        return
    has_written = _publish_beside(writer, index, finished)
    said = {**_describe(writer, index, rejected, len(good)), **finished.facts}
    origin = json.dumps(said | {"rejections": digest(rejections)})
    _publish_rejected(writer, index, rejected, origin)
    footer = {ORIGIN: origin, REJECTIONS: rejections, **finished.footer}
    data = write_parquet(_data_table(finished.columns, writer), footer)
    uri = layout.data_uri(writer.sink, name)
    is_first = writer.publish(index, uri, data)
    if has_written and not is_first and _has_other_files(finished, uri):
        _publish_beside(writer, index, finished, is_ours=True)
        storage.replace(uri, data)


def _split(rows: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Returns good and rejected rows; copies none if all are good, as images take much memory."""
    is_good = pc.is_null(rows["reason"])
    bad = rows.filter(pc.invert(is_good))
    return (rows.filter(is_good) if len(bad) else rows), bad


def _has_other_files(finished: Finished, uri: str) -> bool:
    """Tells whether another writer's object, which came first, speaks of other files than ours.

    Ours lie there now, since they were written while that object was not there yet. Two writers
    have other files only where devices differ, or where they rejected other samples.
    """
    said = read_footer(storage.stat(uri)).origin
    return any(said.get(name) != value for name, value in finished.facts.items())


def _publish_beside(
    writer: Writer, index: int, finished: Finished, *, is_ours: bool = False
) -> bool:
    """Publishes what goes before a shard's object, and clears what an earlier attempt left there.

    What is there may be of an attempt that rejected other samples, so that it gives way; but not
    once the shard's object speaks of it, unless that is to give way too (`is_ours`).

    Returns:
        Whether anything was written.
    """
    if not finished.beside and finished.folder is None:
        return False
    if not (is_ours or writer.replaces(index)) and _is_there(writer, writer.plan.name(index)):
        return False
    objects = {storage.join_uri(writer.sink, path): data for path, data in finished.beside.items()}
    stale = []
    if finished.folder is not None:
        folder = storage.join_uri(writer.sink, finished.folder)
        stale = [file.uri for file in storage.list_files(folder) if file.uri not in objects]
    with ThreadPoolExecutor(_WRITERS) as pool:
        for _ in pool.map(storage.replace, objects.keys(), objects.values()):
            pass
        for _ in pool.map(storage.delete, stale):
            pass
    return True


def _is_there(writer: Writer, name: str) -> bool:
    try:
        storage.stat(layout.data_uri(writer.sink, name))
    except FileNotFoundError:
        return False
    return True


def _may_replace(writer: Writer, index: int, base: _Base | None) -> bool:
    """Tells whether what is there now, looked at once more, is what is to be replaced.

    Between this look and the replacement lie milliseconds; between reading a shard and publishing
    it, hours, in which another command may have published something newer.
    """
    try:
        found = read_footer(storage.stat(layout.data_uri(writer.sink, writer.plan.name(index))))
    except FileNotFoundError:
        return base is None
    if base:
        return found.origin == base.footer.origin
    return found.origin.get("source") in writer.plan.earlier(index)


def _publish_rejected(writer: Writer, index: int, rejected: pa.Table, origin: str) -> None:
    uri = layout.rejected_uri(writer.sink, writer.plan.name(index))
    if len(rejected):
        writer.publish(index, uri, write_parquet(rejected, {ORIGIN: origin}))
    elif writer.replaces(index):
        storage.delete(uri)


def _drop_duplicates(rows: pa.Table) -> pa.Table:
    """Keeps the first of rows with the same number and view; the table is sorted by them."""
    columns = (rows[name] for name in _NUMBERS if name in rows.column_names)
    numbers = np.stack([column.fill_null(0).to_numpy() for column in columns])
    is_first = np.append(True, (np.diff(numbers) != 0).any(axis=0))[: len(rows)]
    return rows if is_first.all() else rows.filter(pa.array(is_first))


def _check_accounting(name: str, rows: pa.Table, total: int) -> None:
    numbers = rows["row"].to_numpy()
    if len(rows) != total or not np.array_equal(numbers, np.arange(total)):
        raise AccountingError(
            f"shard {name} should have rows 0 to {total - 1}, each once, but has {len(rows)} rows; "
            "nothing of it was committed: remove its folder in staging/ and run again"
        )


def _data_table(good: pa.Table, writer: Writer) -> pa.Table:
    """Returns good rows as they stand in `data/`."""
    target = writer.product.data
    names = [_between(name, writer) for name in target.names]
    return good.select(names).rename_columns(target.names).cast(target)


def _rows_of(data: pa.Table, index: int, writer: Writer) -> pa.Table:
    """Returns rows of `data/` as they were when they came."""
    target = writer.product.rows
    columns = {_between(name, writer): data[name] for name in data.column_names}
    columns["shard"] = pa.array([index] * len(data), pa.int32())
    absent = {name: pa.nulls(len(data), target.field(name).type) for name in target.names}
    return pa.table({name: columns.get(name, absent[name]) for name in target.names}).cast(target)


def _between(name: str, writer: Writer) -> str:
    """Returns what a column of `data/` is called between stages."""
    return schema.KEPT + name if name in writer.kept.names else name


def _origin(writer: Writer, index: int) -> dict[str, object]:
    """Returns which run and which shard an object belongs to."""
    return {
        "fingerprint": writer.run.fingerprint,
        "shard": writer.plan.name(index),
        "source": writer.plan.source(index),
    }


def _describe(writer: Writer, index: int, rejected: pa.Table, good: int) -> dict[str, object]:
    revision = writer.revision(index)
    return {
        **_origin(writer, index),
        "seen": good + len(rejected),
        "good": good,
        "rejected": len(rejected),
        "reasons": dict(Counter(rejected["reason"].to_pylist())),
        **({"retried": revision.facts} if revision else {}),
    }
