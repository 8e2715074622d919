"""Rows as samples: a good one has as many rows as an image has views, a rejected one a single row.

Until they get here, all samples have as many rows, and one of them may be rejected while others are
good: the network's numbers may be finite for one view and not for another. A sample is whole or not
there, so that the first view that is rejected speaks for all.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vqpipe.errors import AccountingError, DamagedError

_VIEW = "view"


def in_order(rows: pa.Table) -> pa.Table:
    """Returns rows in order of their numbers, and of their views where they have several."""
    names = [name for name in ("row", _VIEW) if name in rows.column_names]
    return rows.sort_by([(name, "ascending") for name in names])


def settle(rows: pa.Table, views: int) -> pa.Table:
    """Returns rows in order, each once: all views of a good sample, and one row of a rejected one.

    Args:
        rows: Of one shard, in any order, whole samples, some of them twice perhaps.
        views: Of an image.

    Raises:
        AccountingError: If views of a sample are missing.
    """
    rows = in_order(rows)
    numbers = rows["row"].to_numpy()
    is_new = np.append(True, np.diff(numbers) != 0)[: len(numbers)]
    if views == 1:
        return _only(rows, is_new)
    sample, is_bad = np.cumsum(is_new) - 1, np.asarray(pc.is_valid(rows["reason"]))
    is_rejected = np.bincount(sample, is_bad) > 0
    is_other = np.append(True, np.diff(rows[_VIEW].to_numpy()) != 0)[: len(numbers)]
    is_first_bad = is_bad & (np.cumsum(is_bad) - _before(is_bad, is_new)[sample] == 1)
    settled = _only(rows, np.where(is_rejected[sample], is_first_bad, is_new | is_other))
    _check_whole(settled, views)
    return settled


def _before(marks: npt.NDArray[np.bool_], is_new: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Returns how many marks there are before each sample."""
    return (np.cumsum(marks) - marks)[is_new]


def _only(rows: pa.Table, wanted: npt.NDArray[np.bool_]) -> pa.Table:
    return rows if wanted.all() else rows.filter(pa.array(wanted))  # a copy of every image


def _check_whole(rows: pa.Table, views: int) -> None:
    good = rows.filter(pc.is_null(rows["reason"]))
    numbers, counts = np.unique(good["row"].to_numpy(), return_counts=True)
    torn = numbers[counts != views]
    if len(torn):
        raise AccountingError(
            f"{len(torn)} samples lack some of their {views} views, the first being row {torn[0]}"
        )


def count_samples(rows: pa.Table) -> int:
    """Returns how many samples settled rows are of."""
    return len(rows) and 1 + int(np.count_nonzero(np.diff(rows["row"].to_numpy())))


def first_views(rows: pa.Table, views: int) -> pa.Table:
    """Returns one row of each good sample: what was read of it is the same in all."""
    return rows if views == 1 else rows.filter(pc.equal(rows[_VIEW], 0))


class Account:
    """Checks that all rows of a shard pass by, in order, each once.

    Args:
        views: Of an image.
    """

    def __init__(self, views: int) -> None:
        self._views = views
        self._next = 0
        """Place of the row that is due: views of the samples before, and of its own."""

    @property
    def samples(self) -> int:
        """How many have passed by, whole ones."""
        return self._next // self._views

    def find_gap(self, rows: pa.Table) -> str | None:
        """Takes in settled rows, and returns what is wrong with them, if anything is."""
        places = self._places(rows)
        ends = places + np.where(pc.is_valid(rows["reason"]), self._views, 1)
        if not np.array_equal(places, np.append(self._next, ends[:-1])[: len(places)]):
            first, last = (rows["row"][place].as_py() for place in (0, -1))
            return f"rows {first} to {last} came at place {self.samples}"
        self._next = int(ends[-1]) if len(ends) else self._next
        return None

    def _places(self, rows: pa.Table) -> npt.NDArray[np.int64]:
        numbers: npt.NDArray[np.int64] = rows["row"].to_numpy().astype(np.int64)
        if self._views == 1:
            return numbers
        views = pc.if_else(pc.is_null(rows["reason"]), rows[_VIEW], 0).to_numpy()
        places: npt.NDArray[np.int64] = numbers * self._views + views.astype(np.int64)
        return places


def whole_samples(tables: Iterable[pa.Table], views: int) -> Iterator[pa.Table]:
    """Yields committed rows in tables of whole samples: a row group may end amid one's views.

    Args:
        tables: In order of row and view.
        views: Of an image.

    Raises:
        DamagedError: If the last sample lacks some of them.
    """
    rest: pa.Table | None = None
    for table in tables:
        rows = table if rest is None else pa.concat_tables([rest, table])
        cut = len(rows) // views * views
        yield rows.slice(0, cut)
        rest = rows.slice(cut).combine_chunks() if cut < len(rows) else None
    if rest is not None:
        raise DamagedError(f"the last sample has {len(rest)} rows of {views}")
