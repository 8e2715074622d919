"""Row ranges of shards of which nobody holds all rows yet: put into `staging/`, and read back.

    <first>-<last>            rows of a block that nobody could complete the shard with
    <first>-<last>-of-<total> the same, of the block with the shard's last row
    <first>-<last>-cut-<total> the same, if that stands for all that could not be read
    00000000-00000000         no rows: the last row is there, or about to be; look who comes

To look whether a shard is complete is to list its folder, and a listing after every block would
take a time that grows with the square of their number. So nobody looks before the last row is on
its way: its writer leaves the empty range first, then its own, and then looks; every other writer
leaves its own range, and looks only if the empty one is there by then. Whoever comes last sees all:
had the empty range not been there when it asked, the writer of the last row would still have to
look, and would see what lies there. That holds for any number of writers, and wherever one dies:
the empty range stays.
"""

import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vqpipe import storage
from vqpipe.errors import DamagedError, StorageError
from vqpipe.rejections import Reason
from vqpipe.schema import File
from vqpipe.sink import layout
from vqpipe.sink.assembly import Base
from vqpipe.sink.footer import ORIGIN
from vqpipe.sink.objects import pack_object, parse_object
from vqpipe.sink.ranges import RowRange, Staged, ranges_of
from vqpipe.sink.slot import Slot
from vqpipe.storage.ahead import map_ahead

_AT_LAST: RowRange = (0, 0)
_READERS = 8
_AHEAD_BYTES = 256 * 2**20
"""Most bytes of ranges that are read ahead of a merge, as they are stored."""


class RangeGoneError(Exception):
    """A range was listed and is not there any more: somebody has merged it, or it was damaged."""


class RangeDamagedError(DamagedError):
    """A range was not as it was written; it is not there any more."""


def stage(slot: Slot, rows: pa.Table, base: Base | None) -> bool:
    """Makes rows of a shard durable.

    Args:
        slot: The shard's place.
        rows: In order, each once, none that `base` has.
        base: What there is already of a shard that is revised.

    Returns:
        Whether it is time to look what there is of the shard.
    """
    is_last = _has_last(rows, base)
    if is_last:
        _put(slot, rows.slice(0, 0), _AT_LAST)
    for block in _runs(rows, base):
        _put(slot, block, (block["row"][0].as_py(), block["row"][-1].as_py() + 1))
    return is_last or not len(rows) or _is_last_coming(slot)


def _has_last(rows: pa.Table, base: Base | None) -> bool:
    """Tells whether the last row is among some of those that are missing."""
    if base is None or base.total is None:
        return bool(rows["total"].null_count < len(rows))
    missing = _missing(base.total, base)
    return bool(len(missing) and len(rows)) and rows["row"][-1].as_py() == missing[-1]


def _missing(total: int, base: Base | None) -> npt.NDArray[np.integer]:
    """Returns the numbers of the rows of a shard that are not there already."""
    rows = np.arange(total)
    return rows if base is None else np.setdiff1d(rows, base.rows, assume_unique=True)


def _runs(rows: pa.Table, base: Base | None) -> Iterator[pa.Table]:
    """Yields rows between which none is missing, but for those that are there already."""
    numbers = rows["row"].to_numpy()
    places = numbers if base is None else numbers - np.searchsorted(base.rows, numbers)
    for first, last in ranges_of(places):
        start, end = np.searchsorted(places, [first, last])
        yield rows.slice(start, end - start)


def _put(slot: Slot, block: pa.Table, rows: RowRange) -> None:
    total = block["total"][-1].as_py() if len(block) else None
    footer = {ORIGIN: json.dumps(slot.origin)}
    is_cut = total is not None and block["reason"][-1].as_py() == Reason.SHARD_DAMAGED
    storage.publish(slot.range_uri(rows, total, is_cut=is_cut), pack_object(block, footer))


def _is_last_coming(slot: Slot) -> bool:
    try:
        storage.stat(slot.range_uri(_AT_LAST))
    except FileNotFoundError:
        return False
    return True


@dataclass(frozen=True)
class Ranges:
    """What is staged of one shard."""

    files: list[File]
    staged: Staged
    """What they hold, and what is there already."""


def list_ranges(slot: Slot, base: Base | None) -> Ranges:
    """Returns what is staged of a shard for its object to be made of, freshly listed."""
    edition, least = slot.edition, base.least if base else 0
    files = storage.list_files(slot.staging_uri, recursive=False)
    found = {file.uri: file for file in files}
    uris = layout.pick_ranges(found, edition, least)
    staged = layout.parse_ranges(uris, edition, least)
    picked = [found[uri] for uri in uris]
    return Ranges(picked, staged.with_rows(base.rows, base.total) if base else staged)


@dataclass(frozen=True)
class _Piece:
    """Rows that are taken of one range."""

    uri: str
    first: int
    last: int
    """Exclusive."""


def read_ranges(slot: Slot, ranges: Ranges, base: Base | None) -> Iterator[pa.Table]:
    """Yields the staged rows of a complete shard that `base` lacks, in order, each once.

    Ranges are read side by side, but never so many that they take much memory.

    Raises:
        RangeGoneError: If one is not there any more.
        RangeDamagedError: If one is not as it was written; it has been removed, and its rows are
            read anew by the next command.
        StorageError: If one is of another run or version of the shard.
    """
    assert ranges.staged.total is not None, "a complete shard has a total"
    named = [
        (*rows, file.uri)
        for file in ranges.files
        for rows in layout.parse_ranges([file.uri], slot.edition).ranges  # one, or none if empty
    ]
    pieces = _choose(named, _missing(ranges.staged.total, base))
    largest = max((file.size for file in ranges.files), default=1)
    threads = max(1, min(_READERS, _AHEAD_BYTES // (2 * largest)))  # `map_ahead` holds twice these
    for table in map_ahead(lambda piece: _read(slot, piece), pieces, threads):
        yield table if base is None else _without(table, base)


def _choose(
    ranges: list[tuple[int, int, str]], missing: npt.NDArray[np.integer]
) -> Iterator[_Piece]:
    """Yields pieces of as few ranges as possible that hold all missing rows."""
    left = deque(sorted(ranges))
    place, end, uri = 0, 0, ""
    while place < len(missing):
        row = int(missing[place])
        while left and left[0][0] <= row:
            _, last, name = left.popleft()
            end, uri = max((end, uri), (last, name))
        assert end > row, "a complete shard has every row"
        yield _Piece(uri, row, end)
        place = int(np.searchsorted(missing, end))


def _read(slot: Slot, piece: _Piece) -> pa.Table:
    try:
        data = storage.read(piece.uri)
    except FileNotFoundError:
        raise RangeGoneError(piece.uri) from None
    try:
        found = parse_object(piece.uri, data)
    except DamagedError as error:
        storage.delete(piece.uri)
        raise RangeDamagedError(
            f"{piece.uri} was damaged; it is removed, and the next command reads its rows again"
        ) from error
    if found.footer.origin != slot.origin:
        raise StorageError(
            f"{piece.uri} was made by another run, or of another version of the shard; remove "
            "staging/ and run again"
        )
    cuts = np.searchsorted(found.table["row"].to_numpy(), [piece.first, piece.last])
    return found.table.slice(cuts[0], cuts[1] - cuts[0])


def _without(rows: pa.Table, base: Base) -> pa.Table:
    """Returns rows without those that are there already: of these, others may have been staged."""
    return rows if base.lacks(rows).all() else rows.filter(pa.array(base.lacks(rows)))
