"""What is left to do in a sink, by what is there.

finished    shards with an object in `data/` that is of the shard as it is planned now
unfinished  shards without an object in `data/`, or with one of an earlier version of the shard
retriable   shards that are committed with rejections; all their other rows are safe
"""

from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vqpipe.errors import StorageError
from vqpipe.schema import File
from vqpipe.sink import layout
from vqpipe.sink.footer import read_footer
from vqpipe.sink.objects import read_asides, settled_rows
from vqpipe.sink.plan import Plan
from vqpipe.sink.ranges import Staged, ranges_of
from vqpipe.sink.run import Run, Sink, open_sink
from vqpipe.sink.slot import Slot
from vqpipe.storage.ahead import map_ahead

_READERS = 32


def finished(uri: str, run: Run, known: Collection[File] = ()) -> dict[str, File]:
    """Returns the objects of finished shards, by shard, in order of name.

    Args:
        uri: Where the run is.
        run: Its identity.
        known: Objects to take in as well if they are still there, though they are of an earlier
            version of their shards.

    Raises:
        StorageError: If `data/` has an object of no shard of the plan.
    """
    done = layout.list_committed(uri)
    sink = open_sink(uri, run)  # after the listing: what is there by then has been planned
    foreign = sorted(done.keys() - set(sink.plan.names))
    if foreign:
        raise StorageError(f"{done[foreign[0]].uri!r} belongs to no shard of the plan; remove it")
    stale = {sink.plan.name(index) for index in _stale(done, sink)}
    left_out = {name for name in stale if done[name] not in known}
    return {name: done[name] for name in sorted(done.keys() - left_out)}


def unfinished(sink: Sink) -> dict[int, Staged]:
    """Returns the shards to encode, by place in the plan, with what is staged of each."""
    plan = sink.plan
    done, staged = layout.list_data(sink.uri), layout.list_staged(sink.uri)
    is_left = ~is_among(plan.table["name"], done["name"])
    is_left[list(_stale_among(done, sink))] = True
    left = np.flatnonzero(is_left)
    names = plan.table["name"].take(left).to_pylist()
    return {
        place: _staged_of(plan, place, staged[name]) if name in staged else _NOTHING
        for place, name in zip(left.tolist(), names, strict=True)
    }


_NOTHING = Staged()


def _staged_of(plan: Plan, place: int, uris: list[str]) -> Staged:
    return layout.parse_ranges(uris, layout.edition((plan.generation(place), 0)))


def _stale_among(done: pa.Table, sink: Sink) -> set[int]:
    """Returns `_stale` of objects as they are listed (`layout.LISTED`)."""
    names = pa.array([sink.plan.name(place) for place in sink.plan.replaced], pa.string())
    found = done.filter(pa.array(is_among(done["name"], names)))
    files = layout.files_of(sink.uri, found)
    return _stale(dict(zip(found["name"].to_pylist(), files, strict=True)), sink)


def is_among(names: pa.ChunkedArray, some: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """Returns (names,) which of the names are among some others."""
    values = some.combine_chunks() if isinstance(some, pa.ChunkedArray) else some
    found: npt.NDArray[np.bool_] = pc.is_in(names, values).to_numpy(zero_copy_only=False)
    return found


def _stale(done: Mapping[str, File], sink: Sink) -> set[int]:
    """Returns the shards whose objects are of earlier versions of them, by place in the plan."""
    slots = [Slot(sink, index) for index in sink.plan.replaced]
    replaced = [slot for slot in slots if slot.name in done]
    footers = map_ahead(read_footer, (done[slot.name] for slot in replaced), _READERS)
    pairs = zip(replaced, footers, strict=True)
    return {slot.index for slot, footer in pairs if not slot.is_current(footer)}


def retriable(sink: Sink, left: dict[int, Staged]) -> dict[int, Staged]:
    """Returns the committed shards that have rejections, with the rows that need no retry.

    Args:
        sink: Where the run is.
        left: What is `unfinished`.
    """
    done = layout.list_committed(sink.uri)
    names = enumerate(sink.plan.names)
    files = {i: done[name] for i, name in names if i not in left and name in done}
    settled = zip(files, map_ahead(_settled, files.values(), _READERS), strict=True)
    return {index: rows for index, rows in settled if rows is not None}


def _settled(file: File) -> Staged | None:
    """Returns the rows that are good or left out, None if no sample of the shard was rejected.

    Past the point where a shard was damaged, all rows are to be read anew.
    """
    footer, asides = read_asides(file)
    if not footer.origin["rejected"]:
        return None
    rows = settled_rows(footer, asides)
    return Staged(ranges_of(rows), footer.total, footer.origin["revision"])
