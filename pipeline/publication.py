"""A whole shard becomes objects of a sink: what lies beside, `rejected/`, and then `data/`.

The object in `data/` is the commit, and the last one written. Where rejected samples are tried
again (`Attempt`), a shard's object is revised: its good rows count as rows that are safe already,
and the new object takes the old one's place in one step. The same happens to the object of a shard
that was planned anew after its files changed, without the rows; of decoded images, its tar or its
files have given way just before.

Which object takes the place of which is not a matter of who comes last. Each says in its footer in
which generation of the plan its shard was planned and how often it has been revised since, and only
a higher one takes the place of a lower, if that is still the one that was looked at. A writer that
is to replace an object reads the plan again first: it may have grown since its command began.
"""

import functools
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import layout, schema, storage
from pipeline.beside import PLACE, Beside, remove
from pipeline.errors import AccountingError, DamagedError, IncompleteError
from pipeline.footer import EXAMPLES, ORIGIN, REJECTIONS_BYTES, Footer, read_footer
from pipeline.layout import Order
from pipeline.losses import find_damage, least_images
from pipeline.objects import (
    digest,
    open_current,
    pack_object,
    pack_rejected,
    pack_rejections,
    read_rejections,
)
from pipeline.plan import Plan, load_plan
from pipeline.schema import File
from pipeline.writer import Writer, between, is_current, order_of, origin_of

_EXAMPLES, _EXAMPLE_LETTERS = 5, 500
_ATTEMPTS = 10


@dataclass(frozen=True)
class Base:
    """What a shard's object holds that is to be revised."""

    rows: pa.Table
    """The good rows, as they were when they came (`Product.rows`)."""
    total: int | None
    """Rows of the shard; None if it could not be read to its end."""
    footer: Footer

    @property
    def least(self) -> int:
        """Rows that the shard has at least; if it was read to its end, all of them."""
        last = pc.max(self.rows["row"]).as_py()
        return self.total or (0 if last is None else last + 1)


def read_base(writer: Writer, index: int) -> Base | None:
    """Returns what is committed of a shard, if it is what this writer is to revise."""
    try:
        with open_current(layout.data_uri(writer.sink, writer.plan.name(index))) as (file, footer):
            generation, revision = writer.order(index)
            is_next = order_of(footer.origin) == (generation, revision - 1)
            if not (is_next and is_current(footer, writer.run, writer.plan, index)):
                return None
            return Base(_rows_of(pq.read_table(file), index, writer), footer.total, footer)
    except FileNotFoundError:
        return None


def publish_shard(
    writer: Writer, index: int, rows: pa.Table, total: int, base: Base | None
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
    with _beside(writer, index, finished.beside) as place:
        if len(rejected) and not writer.replaces(index) and _is_there(writer, name):
            return  # another writer was first, and what it rejected may be another's
        said = {**_describe(writer, index, rejected, good, before), **finished.facts, **place}
        origin = said | {"rejections": digest(rejections), REJECTIONS_BYTES: len(rejections)}
        footer = {ORIGIN: json.dumps(origin), **finished.footer}
        data = pack_object(_data_table(finished.columns, writer), footer, rejections)
        document = pack_rejected(rejected, origin) if len(rejected) else None
        _publish_both(writer, index, data, document)


def _publish_both(writer: Writer, index: int, data: bytes, rejected: bytes | None) -> None:
    """Publishes `rejected/`, if there is to be one, and then `data/`."""
    name = writer.plan.name(index)
    with _withdrawn(writer, index):
        if rejected is not None:
            _publish(writer, index, layout.rejected_uri(writer.sink, name), rejected)
        is_first = _publish(writer, index, layout.data_uri(writer.sink, name), data)
        if writer.replaces(index) or (rejected is not None and not is_first):
            settle_rejected(writer.sink, name)


@contextmanager
def _beside(writer: Writer, index: int, ours: Beside | None) -> Iterator[dict[str, str]]:
    """Publishes what lies beside a shard's object before that, and tidies up after.

    Yields:
        What the footer says of it.
    """
    if ours is None:
        yield {}
        return
    before = _place_said(writer, index)
    place = ours.place(writer.plan.generation(index))
    if before is None or writer.replaces(index):
        ours.publish(writer.sink, writer.plan.generation(index))
    yield {PLACE: place}
    now = _place_said(writer, index)
    for left in (before, place):  # of an earlier version, or ours, where that came second
        if left is not None and now not in {left, None}:
            remove(writer.sink, left)


def _place_said(writer: Writer, index: int) -> str | None:
    """Returns where the images lie that a shard's object speaks of; None if there is no object."""
    try:
        file = storage.stat(layout.data_uri(writer.sink, writer.plan.name(index)))
    except FileNotFoundError:
        return None
    return cast(str, read_footer(file).origin[PLACE])


@contextmanager
def _withdrawn(writer: Writer, index: int) -> Iterator[None]:
    """Withdraws `_SUCCESS` where objects are replaced: it may speak of those before.

    And once more after, since another command may have come to its end meanwhile.
    """
    if writer.replaces(index):
        storage.delete(layout.success_uri(writer.sink))
    yield
    if writer.replaces(index):
        storage.delete(layout.success_uri(writer.sink))


def _publish(writer: Writer, index: int, uri: str, data: bytes) -> bool:
    """Publishes an object of a shard; returns False if one was there that has to stay."""
    if not writer.replaces(index):
        return storage.publish(uri, data)
    for _ in range(_ATTEMPTS):
        found = _look(uri)
        if found is None:
            if storage.publish(uri, data):
                return True
        elif found[1] >= writer.order(index):
            return False
        elif storage.replace_if(found[0], data):
            return True
    raise IncompleteError(f"other commands keep replacing {uri}: run the same command again")


def _look(uri: str) -> tuple[File, Order] | None:
    """Returns which object is there, and its place among those of its shard."""
    try:
        file = storage.stat(uri)
        return file, order_of(read_footer(file).origin)
    except FileNotFoundError:
        return None


def settle_rejected(sink: str, name: str) -> None:
    """Makes an object in `rejected/`, or that there is none, say what the one in `data/` says."""
    uri = layout.rejected_uri(sink, name)
    footer, rejected = read_rejections(storage.stat(layout.data_uri(sink, name)))
    try:
        found = read_footer(storage.stat(uri)).origin.get("rejections")
    except (FileNotFoundError, DamagedError):
        found = None
    if not len(rejected):
        storage.delete(uri)
    elif found != footer.origin["rejections"]:
        storage.replace(uri, pack_rejected(rejected, footer.origin))


def _split(rows: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Returns good and rejected rows; copies none if all are good, as images take much memory."""
    is_good = pc.is_null(rows["reason"])
    bad = rows.filter(pc.invert(is_good))
    return (rows.filter(is_good) if len(bad) else rows), bad


def _is_there(writer: Writer, name: str) -> bool:
    try:
        storage.stat(layout.data_uri(writer.sink, name))
    except FileNotFoundError:
        return False
    return True


def _may_replace(writer: Writer, index: int, base: Base | None) -> bool:
    """Tells whether what is there now, looked at once more, is what is to be replaced.

    Between reading a shard and publishing it lie hours, in which another command may have published
    something newer.

    Raises:
        IncompleteError: If the shard has been planned anew since this command began.
    """
    _check_planned(writer, index)
    found = _look(layout.data_uri(writer.sink, writer.plan.name(index)))
    return base is None if found is None else found[1] < writer.order(index)


def _check_planned(writer: Writer, index: int) -> None:
    """Checks that a shard is still planned as it was when this command began."""
    name, plan = writer.plan.name(index), _read_plan(writer.sink)
    if plan.generation(plan.names.index(name)) != writer.plan.generation(index):
        raise IncompleteError(
            f"another command has planned shard {name} anew, since its files had changed: run the "
            "same command again"
        )


def _read_plan(sink: str) -> Plan:
    """Returns a sink's plan as it is now, by one small request as long as it stays the same."""
    try:
        return _load_plan(sink, storage.stat(layout.plan_uri(sink)))
    except FileNotFoundError:
        return load_plan(sink)


@functools.lru_cache(maxsize=1)
def _load_plan(sink: str, _: File) -> Plan:
    return load_plan(sink)


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
    names = [between(name, writer) for name in target.names]
    return good.select(names).rename_columns(target.names).cast(target)


def _rows_of(data: pa.Table, index: int, writer: Writer) -> pa.Table:
    """Returns rows of `data/` as they were when they came."""
    target = writer.product.rows
    columns = {between(name, writer): data[name] for name in data.column_names}
    columns["shard"] = pa.array([index] * len(data), pa.int32())
    absent = {name: pa.nulls(len(data), target.field(name).type) for name in target.names}
    return pa.table({name: columns.get(name, absent[name]) for name in target.names}).cast(target)


def _describe(
    writer: Writer, index: int, rejected: pa.Table, good: pa.Table, before: Mapping[str, Any]
) -> dict[str, object]:
    return {
        **origin_of(writer, index),
        "seen": len(good) + len(rejected),
        "good": len(good),
        "rejected": len(rejected),
        "reasons": dict(Counter(rejected["reason"].to_pylist())),
        "rejected_images": least_images(rejected),
        "damage": find_damage(rejected),
        "passed_over": before.get("passed_over", 0) + _sum(good["passed_over"]),
        EXAMPLES: _examples(rejected),
        **_describe_retries(writer, index, before),
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


def _describe_retries(writer: Writer, index: int, before: Mapping[str, Any]) -> dict[str, object]:
    """Returns under what rows were opened that had been rejected; of limits, the highest."""
    revision, earlier = writer.revision(index), before.get("retried")
    if not (revision and earlier):
        return {"retried": revision.facts} if revision else {}
    most = max(revision.facts["max_pixels"], earlier["max_pixels"])
    return {"retried": revision.facts | {"max_pixels": most}}
