"""A whole shard becomes objects of a sink: what lies beside, `rejected/`, and then `data/`.

The object in `data/` is the commit, and the last one written. Where rejected samples are tried
again (`Attempt`), a shard's object is revised: its good rows count as rows that are safe already,
and the new object takes the old one's place in one step. The same happens to the object of a shard
that was planned anew after its files changed, without the rows; of decoded images, its tar or its
files have given way just before.
"""

import json
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import layout, schema, storage
from pipeline.errors import AccountingError
from pipeline.footer import EXAMPLES, ORIGIN, REJECTIONS_BYTES, Footer, read_footer
from pipeline.objects import digest, open_current, pack_object, pack_rejected, pack_rejections
from pipeline.products import Finished
from pipeline.writer import Writer, between, is_current, origin_of

_WRITERS = 16
_EXAMPLES, _EXAMPLE_LETTERS = 5, 500


@dataclass(frozen=True)
class Base:
    """What a shard's object holds that is to be revised."""

    rows: pa.Table
    """The good rows, as they were when they came (`Product.rows`)."""
    total: int | None
    """Rows of the shard; None if it could not be read to its end."""
    footer: Footer


def read_base(writer: Writer, index: int) -> Base | None:
    """Returns what is committed of a shard, if it is of the version that is planned now."""
    try:
        with open_current(layout.data_uri(writer.sink, writer.plan.name(index))) as (file, footer):
            if not is_current(footer, writer.run, writer.plan, index):
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
    has_written = _publish_beside(writer, index, finished)
    if len(rejected) and not (has_written or writer.replaces(index)) and _is_there(writer, name):
        return  # another writer was first, and what it rejected may be another's
    if writer.revision(index):  # another command may have written it since this one began
        storage.delete(layout.success_uri(writer.sink))
    said = {**_describe(writer, index, rejected, len(good), before), **finished.facts}
    packed = {"rejections": digest(rejections), REJECTIONS_BYTES: len(rejections)}
    origin = said | packed
    _publish_rejected(writer, index, rejected, origin)
    footer = {ORIGIN: json.dumps(origin), **finished.footer}
    data = pack_object(_data_table(finished.columns, writer), footer, rejections)
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


def _may_replace(writer: Writer, index: int, base: Base | None) -> bool:
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


def _publish_rejected(
    writer: Writer, index: int, rejected: pa.Table, origin: Mapping[str, Any]
) -> None:
    uri = layout.rejected_uri(writer.sink, writer.plan.name(index))
    if len(rejected):
        writer.publish(index, uri, pack_rejected(rejected, origin))
    elif writer.replaces(index):
        storage.delete(uri)


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
    writer: Writer, index: int, rejected: pa.Table, good: int, before: Mapping[str, Any]
) -> dict[str, object]:
    return {
        **origin_of(writer, index),
        "seen": good + len(rejected),
        "good": good,
        "rejected": len(rejected),
        "reasons": dict(Counter(rejected["reason"].to_pylist())),
        EXAMPLES: _examples(rejected),
        **_describe_retries(writer, index, before),
    }


def _examples(rejected: pa.Table) -> dict[str, list[dict[str, Any]]]:
    """Returns key, row and message of the first few rejections of each reason, long texts cut."""
    found: dict[str, list[dict[str, Any]]] = {}
    for reason in pc.unique(rejected["reason"]).to_pylist():
        of_it = rejected.filter(pc.equal(rejected["reason"], reason)).slice(0, _EXAMPLES)
        short = [
            pc.utf8_slice_codeunits(of_it[name], 0, _EXAMPLE_LETTERS) for name in ("key", "message")
        ]
        rows = zip(
            short[0].to_pylist(), of_it["row"].to_pylist(), short[1].to_pylist(), strict=True
        )
        found[reason] = [{"key": key, "row": row, "message": text} for key, row, text in rows]
    return found


def _describe_retries(writer: Writer, index: int, before: Mapping[str, Any]) -> dict[str, object]:
    """Returns under what rows were opened that had been rejected; of limits, the highest."""
    revision, earlier = writer.revision(index), before.get("retried")
    if not (revision and earlier):
        return {"retried": revision.facts} if revision else {}
    most = max(revision.facts["max_pixels"], earlier["max_pixels"])
    return {"retried": revision.facts | {"max_pixels": most}}
