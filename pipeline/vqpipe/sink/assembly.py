"""The rows of a whole shard become one object, in a file of this machine's.

    base     good rows of the object that is revised, if one is   ─┐
    merged   rows that came at once, or range by range of staging ─┴─►  one object, by row groups

Rows come in order, some at a time, and are gone from memory before the next ones come: what a shard
takes of it does not grow with the shard. What it takes of `TMPDIR` does. Nothing is published here
(`vqpipe.sink.publication`).
"""

import contextlib
import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vqpipe import schema, storage
from vqpipe.errors import AccountingError
from vqpipe.rejections import LEFT_OUT
from vqpipe.sink.asides import as_asides, count_left_out, left_out_of, rejected_of
from vqpipe.sink.beside import PLACE, Beside
from vqpipe.sink.footer import EXAMPLES, ORIGIN, REJECTIONS_BYTES, Footer
from vqpipe.sink.losses import find_damage, least_images
from vqpipe.sink.objects import (
    SPOOL_BYTES,
    ObjectWriter,
    digest,
    open_current,
    pack_asides,
    read_asides,
    settled_rows,
)
from vqpipe.sink.product import Product
from vqpipe.sink.samples import Account, first_views, in_order
from vqpipe.sink.slot import Slot
from vqpipe.storage.content import Content, FileContent

_EXAMPLES, _EXAMPLE_LETTERS = 5, 500


@dataclass(frozen=True)
class Base:
    """What a shard's object holds that is to be revised."""

    footer: Footer
    rows: npt.NDArray[np.integer]
    """Numbers of the rows that are good or left out, in order."""
    left_out: pa.Table
    """`schema.LEFT_OUT`."""

    @property
    def total(self) -> int | None:
        """Rows of the shard; None if it could not be read to its end."""
        return self.footer.total

    @property
    def least(self) -> int:
        """Rows that the shard has at least; if it was read to its end, all of them."""
        return self.total or (int(self.rows[-1]) + 1 if len(self.rows) else 0)

    def lacks(self, rows: pa.Table) -> npt.NDArray[np.bool_]:
        """Returns which of some rows are not there yet."""
        numbers = rows["row"].to_numpy()
        places = np.searchsorted(self.rows, numbers)
        is_there = np.zeros(len(numbers), bool)
        inside = places < len(self.rows)
        is_there[inside] = self.rows[places[inside]] == numbers[inside]
        return ~is_there


def read_base(slot: Slot) -> Base | None:
    """Returns what is committed of a shard, if it is what is to be revised."""
    try:
        footer, asides = read_asides(storage.stat(slot.data_uri))
    except FileNotFoundError:
        return None
    base = Base(footer, settled_rows(footer, asides), left_out_of(asides))
    generation, revision = slot.order
    is_next = base.footer.order == (generation, revision - 1)
    return base if is_next and slot.is_current(base.footer) else None


@dataclass(frozen=True)
class Assembled:
    """A shard's object, ready to be published, and what goes before it."""

    data: Content
    origin: dict[str, Any]
    """What its footer says."""
    asides: pa.Table
    """Samples without a row (`schema.REJECTED`)."""
    beside: Beside | None


@contextlib.contextmanager
def assemble(
    slot: Slot, product: Product, rows: Iterable[pa.Table], total: int, base: Base | None
) -> Iterator[Assembled | None]:
    """Yields a shard's object, after checking that every row is there once.

    Nothing (None) if there is nothing to publish: the object that was to be revised is another one
    by now, or the samples that it rejected were rejected again in the same words.

    Args:
        slot: The shard's place.
        product: What its rows become.
        rows: All rows that `base` lacks, in order, each once, some at a time (`Product.rows`).
        total: How many rows the shard has.
        base: What is there already.

    Raises:
        AccountingError: If rows are missing or there twice, or are not what they must be.
        DamagedError: If the object that is to be revised is damaged.
    """
    with (
        _open_base(slot, product, base) as before,
        tempfile.SpooledTemporaryFile(SPOOL_BYTES) as spooled,
    ):
        if before is None:
            yield None
            return
        ledger = _Ledger(interleave(before, iter(rows)), total, product.views)
        yield _write(slot, product, ledger, base, cast(BinaryIO, spooled))


@contextlib.contextmanager
def _open_base(
    slot: Slot, product: Product, base: Base | None
) -> Iterator[Iterator[pa.Table] | None]:
    """Yields the rows of the object that is revised; None if it is another one by now."""
    if base is None:
        yield iter(())
        return
    with contextlib.ExitStack() as stack:
        try:
            file, footer = stack.enter_context(open_current(slot.data_uri))
        except FileNotFoundError:
            yield None
            return
        parquet = pq.ParquetFile(file, page_checksum_verification=True)
        groups = (parquet.read_row_group(group) for group in range(parquet.num_row_groups))
        if footer.origin != base.footer.origin:
            yield None
            return
        left_out = _rows_of(as_asides(base.left_out), slot.index, product)
        good = (_rows_of(group, slot.index, product) for group in groups)
        yield interleave(good, iter([left_out]))


def interleave(first: Iterator[pa.Table], second: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Yields the rows of two sequences of tables, each in order of row numbers, in that order."""
    streams = (_Stream(first), _Stream(second))
    while all(each.head is not None for each in streams):
        limit = min(each.last for each in streams)
        yield in_order(pa.concat_tables([each.take(limit) for each in streams]))
    for each in streams:
        while each.head is not None:
            yield each.take(each.last)


class _Stream:
    """Tables in order of row numbers, of which any number of rows can be taken."""

    def __init__(self, tables: Iterator[pa.Table]) -> None:
        self._tables = filter(len, tables)
        self.head = next(self._tables, None)

    @property
    def last(self) -> int:
        assert self.head is not None
        return int(self.head["row"][-1].as_py())

    def take(self, limit: int) -> pa.Table:
        """Returns the rows up to a number, inclusive, of the table at the head."""
        assert self.head is not None
        taken = self.head
        cut = int(np.searchsorted(taken["row"].to_numpy(), limit, side="right"))
        self.head = taken.slice(cut) if cut < len(taken) else next(self._tables, None)
        return taken.slice(0, cut)


class _Ledger:
    """Checks that all rows of a shard pass by, each once, and keeps those that are not good."""

    def __init__(self, rows: Iterator[pa.Table], total: int, views: int) -> None:
        self._rows = rows
        self._views = views
        self.total = total
        self.passed_over = 0
        """Images of good samples that have another one, which was taken."""
        self.nulls = Counter[str]()
        """Good samples of which a kept column is null, by column as it travels."""
        self._asides = [schema.REJECTED.empty_table()]

    def good(self, name: str) -> Iterator[pa.Table]:
        """Yields the rows that are neither rejected nor left out."""
        account = Account(self._views)
        for table in self._rows:
            if gap := account.find_gap(table):
                self._refuse(name, gap)
            good, bad = _split(table)
            asides = _with_others(bad).select(schema.REJECTED.names)
            self._asides.append(asides.cast(schema.REJECTED))
            self._count(first_views(good, self._views))
            yield good
        if account.samples != self.total:
            self._refuse(name, f"has {account.samples} rows")

    def _count(self, good: pa.Table) -> None:
        """Counts what was read of good samples, given a row of each."""
        self.passed_over += _sum(good["passed_over"])
        kept = (each for each in good.column_names if each.startswith(schema.KEPT))
        self.nulls.update({each: good[each].null_count for each in kept})

    def asides(self) -> pa.Table:
        """Returns the others of those that have passed by (`schema.REJECTED`)."""
        return pa.concat_tables(self._asides)

    def _refuse(self, name: str, what: str) -> None:
        raise AccountingError(
            f"shard {name} should have rows 0 to {self.total - 1}, each once, but {what}; "
            "nothing of it was committed: remove its folder in staging/ and run again"
        )


def _split(rows: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Returns good rows and others; copies none if all are good, as images take much memory."""
    is_good = pc.is_null(rows["reason"])
    bad = rows.filter(pc.invert(is_good))
    return (rows.filter(is_good) if len(bad) else rows), bad


def _with_others(bad: pa.Table) -> pa.Table:
    """Returns rows, of which rejections stand for the images that their samples have beside it."""
    is_rejected = pc.not_equal(bad["reason"], LEFT_OUT)
    over = pc.if_else(is_rejected, pc.fill_null(bad["passed_over"], 0), 0).cast(pa.int64())
    if not _sum(over):
        return bad
    stands = pc.and_(pc.greater(over, 0), pc.is_null(bad["lost_by"]))
    columns = {
        "lost": pc.if_else(stands, pc.add(over, 1), bad["lost"]),
        "lost_by": pc.if_else(stands, "known", bad["lost_by"]),
    }
    found = {name: columns.get(name, bad[name]) for name in bad.column_names}
    return pa.table(found, schema=bad.schema)


def _write(
    slot: Slot, product: Product, ledger: _Ledger, base: Base | None, file: BinaryIO
) -> Assembled | None:
    """Writes the object into a file; returns None if it says what the one before says."""
    name, before = slot.name, base.footer.said if base else {}
    with ObjectWriter(file, product.data) as target:

        def write(columns: pa.Table) -> None:
            target.write(_data_table(columns, product))

        finished = product.finish(ledger.good(name), name, before, write)
        asides = ledger.asides()
        packed = pack_asides(asides)
        if before.get("rejections") == digest(packed):
            return None
        origin = {
            **_describe(slot, product, ledger, asides, before),
            **finished.facts,
            **({PLACE: finished.beside.place(slot.generation)} if finished.beside else {}),
            "rejections": digest(packed),
            REJECTIONS_BYTES: len(packed),
        }
        target.finish({ORIGIN: json.dumps(origin), **finished.footer}, packed)
    return Assembled(_content(file), origin, asides, finished.beside)


def _content(file: BinaryIO) -> Content:
    """Returns what a spooled file holds: as bytes, if that is where they are."""
    if file.seek(0, 2) > SPOOL_BYTES:
        return FileContent(file)
    file.seek(0)
    return file.read()


def _data_table(good: pa.Table, product: Product) -> pa.Table:
    """Returns good rows as they stand in `data/`."""
    target = product.data
    return good.select(_between(target.names, product)).rename_columns(target.names).cast(target)


def _rows_of(data: pa.Table, index: int, product: Product) -> pa.Table:
    """Returns rows of `data/` as they were when they came."""
    target = product.rows
    columns = dict(zip(_between(data.column_names, product), data.columns, strict=True))
    columns["shard"] = pa.array([index] * len(data), pa.int32())
    absent = {name: pa.nulls(len(data), target.field(name).type) for name in target.names}
    return pa.table({name: columns.get(name, absent[name]) for name in target.names}).cast(target)


def _between(names: Iterable[str], product: Product) -> list[str]:
    """Returns what columns of `data/` are called between stages."""
    kept = set(_kept(product))
    return [schema.KEPT + name if name in kept else name for name in names]


def _kept(product: Product) -> list[str]:
    """Returns the columns that are copied from the source, as `data/` calls them."""
    names = (name for name in product.rows.names if name.startswith(schema.KEPT))
    return [name.removeprefix(schema.KEPT) for name in names]


def _describe(
    slot: Slot, product: Product, ledger: _Ledger, asides: pa.Table, before: Mapping[str, Any]
) -> dict[str, object]:
    rejected = rejected_of(asides)
    return {
        **slot.origin,
        "seen": ledger.total,
        "good": ledger.total - len(asides),
        **({"views": product.views} if product.views > 1 else {}),
        "rejected": len(rejected),
        **count_left_out(left_out_of(asides)),
        "reasons": dict(Counter(rejected["reason"].to_pylist())),
        "rejected_images": least_images(rejected),
        "damage": find_damage(rejected),
        "passed_over": before.get("passed_over", 0) + ledger.passed_over,
        "kept_nulls": {each: ledger.nulls[schema.KEPT + each] for each in _kept(product)},
        EXAMPLES: _examples(rejected),
        **_describe_retries(slot, before),
    }


def _examples(rejected: pa.Table) -> dict[str, list[dict[str, Any]]]:
    """Returns the first few rejections of each reason, long texts cut, what they lose included."""
    found: dict[str, list[dict[str, Any]]] = {}
    for reason in pc.unique(rejected["reason"]).to_pylist():
        of_it = rejected.filter(pc.equal(rejected["reason"], reason)).slice(0, _EXAMPLES)
        short = [
            pc.utf8_slice_codeunits(of_it[name], 0, _EXAMPLE_LETTERS) for name in ("key", "message")
        ]
        numbers = of_it.select(["row", "lost", "lost_by"])
        found[reason] = (
            numbers.add_column(0, "key", short[0]).append_column("message", short[1]).to_pylist()
        )
    return found


def _sum(numbers: pa.ChunkedArray) -> int:
    return pc.sum(numbers).as_py() or 0


def _describe_retries(slot: Slot, before: Mapping[str, Any]) -> dict[str, object]:
    """Returns under what rows were opened that had been rejected; of limits, the highest."""
    attempt, earlier = slot.attempt, before.get("retried")
    if attempt is None:
        return {}
    most = max(attempt.max_pixels, earlier["max_pixels"] if earlier else 0)
    return {"retried": {"max_pixels": most, "pillow": attempt.pillow}}
