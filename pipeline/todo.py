"""What is left to do in a sink, by what is there.

unfinished  shards without an object in `data/`, or with one of an earlier version of the shard
retriable   shards that are committed with rejections; their good rows are safe
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from pipeline import layout
from pipeline.footer import read_footer
from pipeline.layout import Staged
from pipeline.plan import Plan
from pipeline.run import Run
from pipeline.schema import File
from pipeline.writer import is_current

_READERS = 32


def unfinished(sink: str, run: Run, plan: Plan) -> dict[int, Staged]:
    """Returns the shards to encode, by place in the plan, with what is staged of each."""
    done, staged = layout.list_committed(sink), layout.list_staged(sink)
    replaced = [index for index in plan.replaced if plan.name(index) in done]

    def is_stale(index: int) -> bool:
        return not is_current(read_footer(done[plan.name(index)]), run, plan, index)

    with ThreadPoolExecutor(_READERS) as pool:
        stale = {
            i for i, is_so in zip(replaced, pool.map(is_stale, replaced), strict=True) if is_so
        }
    left = [(i, name) for i, name in enumerate(plan.names) if name not in done or i in stale]
    return {
        i: layout.parse_ranges(staged.get(name, ()), layout.edition(plan.generation(i)))
        for i, name in left
    }


def retriable(sink: str, plan: Plan, left: dict[int, Staged]) -> dict[int, Staged]:
    """Returns the committed shards that have rejections, with the rows that need no retry.

    Args:
        sink: Where the run is.
        plan: Its plan.
        left: What is `unfinished`.
    """
    done = layout.list_committed(sink)
    files = {i: done[name] for i, name in enumerate(plan.names) if i not in left and name in done}
    with ThreadPoolExecutor(_READERS) as pool:
        good = zip(files, pool.map(_good_rows, files.values()), strict=True)
        return {index: rows for index, rows in good if rows is not None}


def _good_rows(file: File) -> Staged | None:
    """Returns the rows of an object, None if no sample of its shard was rejected.

    Past the point where a shard was damaged, all rows are to be read anew.
    """
    footer = read_footer(file)
    if not footer.origin["rejected"]:
        return None
    rejected = footer.rejections["row"].to_numpy()
    good = np.setdiff1d(np.arange(footer.origin["seen"]), rejected)
    return Staged(layout.ranges_of(good), footer.total)
