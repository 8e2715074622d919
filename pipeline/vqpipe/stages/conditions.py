"""Rows that are left out, by conditions on stored columns (`conditions.judge`).

    Conditions  rows as they were read       ->  the same, some of them left out

A row of which it is not known that it meets a condition is left out, as by `WHERE` of SQL.
"""

import functools
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from vqpipe.conditions.expression import columns_of
from vqpipe.conditions.judge import Columns, judge
from vqpipe.rejections import LEFT_OUT
from vqpipe.schema import KEPT


@dataclass(frozen=True)
class Conditions:
    """What rows have to meet; plain data, sent to every reader."""

    texts: tuple[str, ...] = ()
    """Each of stored columns alone (`conditions.Where.stored`)."""
    asked: pa.Schema = field(default_factory=lambda: pa.schema([]))
    """Columns that are read for them alone, and go no further."""

    def leave_out(self, rows: pa.Table) -> pa.Table:
        """Returns rows as they were read, without `asked`; some without their images.

        What is rejected already is left out only if every column that a condition names is there.
        """
        why = pa.nulls(len(rows), pa.string())
        for text in self.texts:
            columns = {name: rows[KEPT + name].combine_chunks() for name in columns_of(text)}
            is_unmet = pc.invert(pc.fill_null(judge(text, columns), fill_value=False))
            is_new = pc.and_(is_unmet, pc.and_(pc.is_null(why), _can_be_judged(rows, columns)))
            why = pc.if_else(is_new, text, why)
        asked = {KEPT + name for name in self.asked.names}
        rows = rows.select([name for name in rows.column_names if name not in asked])
        return _put(rows, why) if why.null_count < len(rows) else rows


ALL = Conditions()
"""Leaves nothing out."""


def _can_be_judged(rows: pa.Table, columns: Columns) -> pa.Array:
    """Returns for which rows it counts what these columns hold."""
    is_good = pc.is_null(rows["reason"].combine_chunks())
    has_all = functools.reduce(pc.and_, map(pc.is_valid, columns.values()))
    is_sample = pc.greater_equal(rows["row"].combine_chunks(), 0)
    return pc.and_(is_sample, pc.or_(is_good, has_all))


def _put(rows: pa.Table, why: pa.Array) -> pa.Table:
    """Returns rows of which those are left out for which it is said why."""
    is_out = pc.is_valid(why)
    put = {
        "reason": pc.if_else(is_out, LEFT_OUT, rows["reason"].combine_chunks()),
        "message": pc.coalesce(why, rows["message"].combine_chunks()),
        **{name: _nulled(rows[name], is_out) for name in ("lost", "lost_by", "image")},
    }
    return pa.table({name: put.get(name, rows[name]) for name in rows.column_names})


def _nulled(column: pa.ChunkedArray, is_out: pa.Array) -> pa.Array:
    return pc.if_else(is_out, pa.scalar(None, column.type), column.combine_chunks())
