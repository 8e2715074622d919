"""Finished rows become one Parquet object a shard; that object's existence is the commit.

A writer that holds a whole shard publishes it. Otherwise it publishes what it holds as row ranges
in `staging/`, looks whether the ranges now cover the shard if that can be, and if so merges them.
Any number of writers may do this at once, and again after any crash: whoever sees a complete set
publishes the same rows, and the first one wins. Object storage is the only state.

When to look, and how ranges are read, is `staging`'s matter; what a whole shard becomes in
the sink, `publication`'s.
"""

import pyarrow as pa
import pyarrow.compute as pc

from vqpipe import storage
from vqpipe.rejections import LEFT_OUT
from vqpipe.sink.assembly import Base, read_base
from vqpipe.sink.losses import least_images
from vqpipe.sink.product import Product
from vqpipe.sink.publication import is_there, publish_shard
from vqpipe.sink.samples import count_samples, settle
from vqpipe.sink.slot import Slot
from vqpipe.sink.staging import RangeDamagedError, RangeGoneError, list_ranges, read_ranges, stage
from vqpipe.sink.writer import Writer

RECEIPT = pa.schema(
    [
        pa.field("shard", pa.int32()),
        pa.field("good", pa.int64()),  # samples that came in without a reason
        pa.field("rejected", pa.int64()),  # samples that came in with a reason to reject them
        pa.field("left_out", pa.int64()),  # samples that came in to be left out
        pa.field("reasons", pa.list_(pa.string())),  # of the rejected ones
        pa.field("rejected_images", pa.int64()),  # that these stand for, at least
        pa.field("committed", pa.int32()),  # samples of the shard, if its object is there now
        pa.field("dropped", pa.list_(pa.string())),  # what was wrong with rows staged before
    ]
)
"""What a writer reports: one row for each shard that it was given rows of."""


def committed_in(receipts: pa.Table) -> list[int]:
    """Returns the places in the plan of the shards whose objects are there, by receipts."""
    found: list[int] = receipts["shard"].filter(receipts["committed"].is_valid()).to_pylist()
    return found


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
        rows = settle(table.filter(pc.equal(table["shard"], index)), writer.product.views)
        asides = rows["reason"].drop_null().to_pylist()
        reasons = [each for each in asides if each != LEFT_OUT]
        real = pc.sum(pc.greater_equal(rows["row"], 0)).as_py()
        dropped: list[str] = []
        receipts.append(
            {
                "shard": index,
                "good": (real - len(asides)) // writer.product.views,
                "rejected": len(reasons),
                "left_out": len(asides) - len(reasons),
                "reasons": reasons,
                "rejected_images": least_images(rows),
                "committed": _commit_shard(writer.slot(index), writer.product, rows, dropped),
                "dropped": dropped,
            }
        )
    return pa.Table.from_pylist(receipts, schema=RECEIPT)


def _commit_shard(slot: Slot, product: Product, rows: pa.Table, dropped: list[str]) -> int | None:
    """Publishes a whole shard, or stages its rows and merges if they were the last missing ones.

    Args:
        slot: The shard's place.
        product: What its rows become.
        rows: What there is of it.
        dropped: Is told what was wrong with staged rows that are to be read anew.

    Returns:
        Rows of the shard, if it is committed now.
    """
    base = read_base(slot) if slot.attempt else None
    total = pc.max(rows["total"]).as_py()
    if base and (total is None or total < base.least):
        total = base.total  # what was read before went further: this reading ended too early
    new = _not_there(rows, base)
    if total is not None and count_samples(new) + (len(base.rows) if base else 0) == total:
        publish_shard(slot, product, [new], total, base)
        return int(total)
    return _merge(slot, product, base, dropped) if stage(slot, new, base) else None


def _not_there(rows: pa.Table, base: Base | None) -> pa.Table:
    """Returns the rows of settled ones that are of samples, and of none that is there."""
    is_new = rows["row"].to_numpy() >= 0
    if base:
        is_new &= base.lacks(rows)
    return rows if is_new.all() else rows.filter(pa.array(is_new))  # a copy of every image


def _merge(slot: Slot, product: Product, base: Base | None, dropped: list[str]) -> int | None:
    """Commits a shard whose staging is complete; returns its rows if it is committed now."""
    ranges = list_ranges(slot, base)
    total = ranges.staged.total
    if total is None or not ranges.staged.complete:
        return None
    try:
        publish_shard(slot, product, read_ranges(slot, ranges, base), total, base)
    except RangeGoneError:  # another writer has committed the shard and is clearing up
        return total if is_there(slot) else None
    except RangeDamagedError as error:
        dropped.append(error.message)
        return None
    for file in ranges.files:
        storage.delete(file.uri)
    return total
