"""What is left to do in a sink, by what is there.

finished    shards with an object in `data/` that is of the shard as it is planned now
unfinished  shards without an object in `data/`, or with one of an earlier version of the shard
retriable   shards that are committed with rejections; their good rows are safe
"""

from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor

from vqpipe.errors import StorageError
from vqpipe.schema import File
from vqpipe.sink import layout
from vqpipe.sink.footer import read_footer
from vqpipe.sink.objects import read_good_rows
from vqpipe.sink.plan import Plan, load_plan
from vqpipe.sink.ranges import Staged, ranges_of
from vqpipe.sink.run import Run
from vqpipe.sink.writer import is_current

_READERS = 32


def finished(sink: str, run: Run, known: Collection[File] = ()) -> dict[str, File]:
    """Returns the objects of finished shards, by shard, in order of name.

    Args:
        sink: Where the run is.
        run: Its identity.
        known: Objects to take in as well if they are still there, though they are of an earlier
            version of their shards.

    Raises:
        StorageError: If `data/` has an object of no shard of the plan.
    """
    done = layout.list_committed(sink)
    plan = load_plan(sink)  # after the listing: what is there by then has been planned
    foreign = sorted(done.keys() - set(plan.names))
    if foreign:
        raise StorageError(f"{done[foreign[0]].uri!r} belongs to no shard of the plan; remove it")
    stale = {plan.name(index) for index in _stale(done, run, plan)}
    left_out = {name for name in stale if done[name] not in known}
    return {name: done[name] for name in sorted(done.keys() - left_out)}


def unfinished(sink: str, run: Run, plan: Plan) -> dict[int, Staged]:
    """Returns the shards to encode, by place in the plan, with what is staged of each."""
    done, staged = layout.list_committed(sink), layout.list_staged(sink)
    stale = _stale(done, run, plan)
    left = [(i, name) for i, name in enumerate(plan.names) if name not in done or i in stale]
    return {
        i: layout.parse_ranges(staged.get(name, ()), layout.edition((plan.generation(i), 0)))
        for i, name in left
    }


def _stale(done: Mapping[str, File], run: Run, plan: Plan) -> set[int]:
    """Returns the shards whose objects are of earlier versions of them, by place in the plan."""
    replaced = [index for index in plan.replaced if plan.name(index) in done]

    def is_stale(index: int) -> bool:
        return not is_current(read_footer(done[plan.name(index)]), run, plan, index)

    with ThreadPoolExecutor(_READERS) as pool:
        return {i for i, is_so in zip(replaced, pool.map(is_stale, replaced), strict=True) if is_so}


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
    footer, good = read_good_rows(file)
    if not footer.origin["rejected"]:
        return None
    return Staged(ranges_of(good), footer.total, footer.origin["revision"])
