"""Samples that have no row in `data/`: rejected ones, and those that a run leaves out.

In an object of `data/` they lie together, since together they say which rows are not there. Beside
it each kind has an object of its own, with the columns that go with it.
"""

from collections import Counter
from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from vqpipe import schema
from vqpipe.rejections import LEFT_OUT
from vqpipe.schema import REJECTED


def rejected_of(asides: pa.Table) -> pa.Table:
    """Returns the rejections among samples without a row (`schema.REJECTED`)."""
    return asides.filter(pc.not_equal(asides["reason"], LEFT_OUT))


def left_out_of(asides: pa.Table) -> pa.Table:
    """Returns those of samples without a row that are left out (`schema.LEFT_OUT`)."""
    found = asides.filter(pc.equal(asides["reason"], LEFT_OUT))
    return found.select(["key", "row", "message"]).rename_columns(schema.LEFT_OUT.names)


AREAS: dict[str, Callable[[pa.Table], pa.Table]] = {
    "rejected": rejected_of,
    "left_out": left_out_of,
}
"""Folders of the sink, and what of samples without a row their objects have."""


def as_asides(left_out: pa.Table) -> pa.Table:
    """Returns samples that are left out as they lie in an object of `data/` (`schema.REJECTED`)."""
    count = len(left_out)
    nothing = {name: pa.nulls(count, REJECTED.field(name).type) for name in ("lost", "lost_by")}
    columns = {
        **{name: left_out[name] for name in ("key", "row")},
        "reason": pa.array([LEFT_OUT] * count, pa.string()),
        "message": left_out["why"],
        **nothing,
    }
    return pa.table(columns, schema=REJECTED)


def count_left_out(left_out: pa.Table) -> dict[str, object]:
    """Returns what a footer says of samples that are left out; nothing if there are none."""
    if not len(left_out):
        return {}
    by_condition = dict(sorted(Counter(left_out["why"].to_pylist()).items()))
    return {"left_out": len(left_out), "left_out_by": by_condition}
