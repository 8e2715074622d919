"""Encoded rows become one Parquet object a shard; that object's existence is the commit.

A writer that holds a whole shard publishes it. Otherwise it publishes what it holds as row ranges
in `staging/`, looks whether the ranges now cover the shard, and if so merges them. Any number of
writers may do this at once, and again after any crash: whoever sees a complete set publishes the
same rows, and the first one wins. Object storage is the only state.
"""

import io
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import plan as layout
from pipeline import schema, storage
from pipeline.errors import AccountingError, StorageError
from pipeline.footer import (
    HISTOGRAM,
    ORIGIN,
    REJECTIONS,
    pack_histogram,
    pack_rejections,
    write_parquet,
)
from pipeline.plan import Plan, Run, digest

RECEIPT = pa.schema(
    [
        pa.field("shard", pa.int32()),
        pa.field("encoded", pa.int64()),  # rows that came in with codes
        pa.field("rejected", pa.int64()),  # rows that came in with a reason
        pa.field("reasons", pa.list_(pa.string())),  # of the rejected rows
        pa.field("committed", pa.int32()),  # rows of the shard, if its object is there now
    ]
)
"""What a writer reports: one row for each shard that it was given rows of."""


@dataclass(frozen=True)
class Writer:
    """All that a commit needs to know of its run."""

    sink: str
    run: Run
    plan: Plan
    kept: pa.Schema
    codes: pa.Field

    @property
    def codebook_size(self) -> int:
        """Number of codebook entries: codes are smaller."""
        return int(self.run.facts["codebook_size"])


def commit_rows(table: pa.Table, writer: Writer) -> pa.Table:
    """Makes encoded rows durable and commits every shard that they complete.

    Args:
        table: Rows of any shards in any order (`schema.encoded_schema`).
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
                "encoded": real - len(reasons),
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
    total = pc.max(rows["total"]).as_py()
    rows = rows.filter(pc.greater_equal(rows["row"], 0))
    if total is not None and _unique_rows(rows) == total:
        _publish_shard(writer, index, rows, total)
        return int(total)
    for block in _contiguous(rows):
        _stage(writer, index, block)
    return _merge(writer, index)


def _unique_rows(rows: pa.Table) -> int:
    return int(pc.count_distinct(rows["row"]).as_py())


def _contiguous(rows: pa.Table) -> Iterator[pa.Table]:
    """Yields runs of consecutive row numbers of a sorted table."""
    numbers = rows["row"].to_numpy()
    cuts = [0, *(np.flatnonzero(np.diff(numbers) > 1) + 1).tolist(), len(numbers)]
    for first, last in itertools.pairwise(cuts):
        if last > first:
            yield rows.slice(first, last - first)


def _stage(writer: Writer, index: int, block: pa.Table) -> None:
    rows = (block["row"][0].as_py(), block["row"][-1].as_py() + 1)
    uri = layout.range_uri(writer.sink, writer.plan.name(index), rows, block["total"][-1].as_py())
    storage.publish(uri, write_parquet(block, {ORIGIN: json.dumps(_origin(writer, index))}))


def _merge(writer: Writer, index: int) -> int | None:
    """Commits a shard whose staging is complete; returns its rows if it is committed now."""
    name = writer.plan.name(index)
    uris = _list_ranges(writer.sink, name)
    staged = layout.parse_ranges(uris)
    if staged.total is None or not staged.complete:
        return None
    try:
        tables = [_read_range(uri, writer.run) for uri in uris]
    except FileNotFoundError:  # another writer has committed the shard and is clearing up
        storage.stat(layout.data_uri(writer.sink, name))
        return staged.total
    rows = pa.concat_tables(tables).sort_by([("row", "ascending"), ("view", "ascending")])
    _publish_shard(writer, index, rows, staged.total)
    for uri in uris:
        storage.delete(uri)
    return staged.total


def _list_ranges(sink: str, name: str) -> list[str]:
    files = storage.list_files(layout.staging_uri(sink, name), recursive=False)
    return [file.uri for file in files if layout.is_range(file.uri)]


def _read_range(uri: str, run: Run) -> pa.Table:
    file = pq.ParquetFile(io.BytesIO(storage.read(uri)))
    origin = json.loads((file.metadata.metadata or {}).get(ORIGIN.encode(), b"{}"))
    if origin.get("fingerprint") != run.fingerprint:
        raise StorageError(f"{uri} belongs to another run; remove staging/ and run again")
    return file.read()


def _publish_shard(writer: Writer, index: int, rows: pa.Table, total: int) -> None:
    """Publishes `rejected/` and then `data/`, after checking that every row is there once."""
    rows = _drop_duplicates(rows)
    _check_accounting(writer.plan.name(index), rows, total)
    good = rows.filter(pc.is_null(rows["reason"]))
    bad = rows.filter(pc.is_valid(rows["reason"]))
    codes = _flat_codes(good, writer)
    rejected = bad.select(schema.REJECTED.names).cast(schema.REJECTED)
    rejections = pack_rejections(rejected)
    origin = json.dumps(_describe(writer, index, good, bad) | {"rejections": digest(rejections)})
    if len(bad):
        uri = layout.rejected_uri(writer.sink, writer.plan.name(index))
        storage.publish(uri, write_parquet(rejected, {ORIGIN: origin}))
    histogram = pack_histogram(np.bincount(codes, minlength=writer.codebook_size))
    footer = {ORIGIN: origin, HISTOGRAM: histogram, REJECTIONS: rejections}
    data = write_parquet(_data_table(good, writer), footer)
    storage.publish(layout.data_uri(writer.sink, writer.plan.name(index)), data)


def _drop_duplicates(rows: pa.Table) -> pa.Table:
    """Keeps the first of rows with the same number and view; the table is sorted by them."""
    numbers = np.stack([rows["row"].to_numpy(), rows["view"].fill_null(0).to_numpy()])
    is_first = np.append(True, (np.diff(numbers) != 0).any(axis=0))[: len(rows)]
    return rows if is_first.all() else rows.filter(pa.array(is_first))


def _check_accounting(name: str, rows: pa.Table, total: int) -> None:
    numbers = rows["row"].to_numpy()
    if len(rows) != total or not np.array_equal(numbers, np.arange(total)):
        raise AccountingError(
            f"shard {name} should have rows 0 to {total - 1}, each once, but has {len(rows)} rows; "
            "nothing of it was committed: remove its folder in staging/ and run again"
        )


def _flat_codes(good: pa.Table, writer: Writer) -> npt.NDArray[np.unsignedinteger]:
    """Returns all codes of a shard as one array, after checking their number and range."""
    column = good["codes"].combine_chunks()
    codes: npt.NDArray[np.unsignedinteger] = column.flatten().to_numpy(zero_copy_only=False)
    expected = len(good) * writer.codes.type.list_size
    if column.null_count or len(codes) != expected:
        raise AccountingError(f"{expected - len(codes)} of {expected} codes are missing")
    if len(codes) and codes.max() >= writer.codebook_size:
        raise AccountingError(f"code {codes.max()} is not below {writer.codebook_size}")
    return codes


def _data_table(good: pa.Table, writer: Writer) -> pa.Table:
    target = schema.data_schema(writer.kept, writer.codes)
    own = set(target.names) - set(writer.kept.names)
    names = [name if name in own else schema.KEPT + name for name in target.names]
    return good.select(names).rename_columns(target.names).cast(target)


def _origin(writer: Writer, index: int) -> dict[str, object]:
    """Returns which run and which shard an object belongs to."""
    source = writer.plan.table.select(["uri", "size", "version"]).slice(index, 1).to_pylist()[0]
    return {
        "fingerprint": writer.run.fingerprint,
        "shard": writer.plan.name(index),
        "source": source,
    }


def _describe(writer: Writer, index: int, good: pa.Table, bad: pa.Table) -> dict[str, object]:
    return {
        **_origin(writer, index),
        "grid": writer.run.facts["grid"],
        "codebook_size": writer.codebook_size,
        "seen": len(good) + len(bad),
        "encoded": len(good),
        "rejected": len(bad),
        "reasons": dict(Counter(bad["reason"].to_pylist())),
        "audited": len(good) - good["flips"].null_count,
        "flips": pc.sum(good["flips"]).as_py() or 0,
    }
