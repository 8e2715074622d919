"""Bounded attempts: what keeps failing is tried three times, then taken apart.

    an exception in the codec      the batch again, then image by image, each bounded too
    the codec's process dies       the same, counted in a ledger that outlives the process
    an exception in the reader     the shard again, up to the row where it fails for the third time

What then fails by itself is a rejection, but only if the codec still takes a plain item, a grey
image or codes that are all 0: else the device, the checkpoint or the machine is to blame, which
stops the run. So do errors of ours (a refusing store, say) and want of memory, at once.
A ledger may leave out what a process does in whose place none has died: that costs a death more.

A machine that is reclaimed leaves the same traces in the ledger as an input that kills. So traces
only make work slower; it takes three deaths at one image alone to reject it.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from vqpipe.errors import CodecError, VqpipeError, WorkersLostError, in_one_line
from vqpipe.rejections import Loss, Reason, Rejection
from vqpipe.schema import Sample

ATTEMPTS = 3
"""How often anything is tried before it is taken apart or given up."""

FEWEST_TO_JUDGE = 8
"""Images of a block from which on it is no accident if none has finite latents."""

NOT_THE_INPUT = (VqpipeError, MemoryError, ImportError)
"""Errors that say by themselves that no input is to blame."""

Run = Callable[[pa.Table], pa.Table]
"""Rows in, finished rows out, as many and in the same order; rows do not depend on neighbours."""


@dataclass(frozen=True)
class Item:
    """What the codec takes of a row."""

    column: str
    """Null in rows that are rejected already."""
    plain: Mapping[str, Any]
    """One that no working codec fails at: values of this column, and of those that go with it."""


class Ledger(Protocol):
    """Where it stands what has been begun and has not ended; it outlives those who write in it."""

    def begin(self, what: str) -> int:
        """Notes a beginning; returns how many earlier ones have no end."""

    def end(self, what: str) -> None:
        """Notes an end, which clears all beginnings."""


class Notes:
    """A ledger in memory."""

    def __init__(self) -> None:
        self._begun: dict[str, int] = {}

    def begin(self, what: str) -> int:
        """Notes a beginning; returns how many earlier ones have no end."""
        before = self._begun.get(what, 0)
        self._begun[what] = before + 1
        return before

    def end(self, what: str) -> None:
        """Notes an end, which clears all beginnings."""
        self._begun.pop(what, None)


@contextlib.contextmanager
def noted(ledger: Ledger, what: str) -> Iterator[int]:
    """Notes beginning and end of a block; only the death of the process leaves out the end.

    Yields:
        How often the block has been begun before without an end.
    """
    before = ledger.begin(what)
    try:
        yield before
    finally:
        ledger.end(what)


def run_bounded(table: pa.Table, run: Run, ledger: Ledger, item: Item) -> pa.Table:
    """Returns what the codec makes of rows; one that keeps failing becomes a rejection.

    Args:
        table: Rows with items for the codec.
        run: Has the codec work on them.
        ledger: Where beginnings and ends are noted.
        item: What the codec takes of a row.

    Raises:
        CodecError: If a plain item fails too.
        WorkersLostError: If the process dies at a plain item too.
        VqpipeError: Whatever `run` raises of our own.
    """
    return _Bounded(run, ledger, item).all(table) if len(table) else run(table)


def _name(table: pa.Table) -> str:
    """Returns what the ledger calls some rows: views of one sample, too, have names of their own.

    Under a name that two shared, the end of one would clear the beginnings of the other.
    """
    names = [name for name in ("shard", "row", "view") if name in table.column_names]
    first, last = ("/".join(str(table[name][i]) for name in names) for i in (0, len(table) - 1))
    return f"run {first} to {last}"


@dataclass(frozen=True)
class _Bounded:
    """A codec whose failures are counted."""

    run: Run
    ledger: Ledger
    item: Item

    def all(self, table: pa.Table) -> pa.Table:
        """Returns what becomes of rows: in one go, or else of each by itself."""
        with noted(self.ledger, _name(table)) as deaths:
            if deaths < ATTEMPTS:
                made = self._try(table)
                if isinstance(made, pa.Table):
                    return made
            rows = (table.slice(i, 1) for i in range(len(table)))
            return pa.concat_tables([self._one(row) for row in rows])

    def _try(self, table: pa.Table) -> pa.Table | Exception:
        """Returns what becomes of rows, or the error of the last attempt."""
        for _ in range(ATTEMPTS):
            try:
                return self.run(table)
            except NOT_THE_INPUT:
                raise
            except Exception as error:  # noqa: BLE001 (which ones a codec raises nobody knows)
                failed = error
        return failed

    def _one(self, row: pa.Table) -> pa.Table:
        """Returns what becomes of one row: its rejection, if the codec fails at it."""
        if row[self.item.column].null_count:
            return self.run(row)
        name = f"{_name(row)} alone"
        deaths = self.ledger.begin(name)
        if deaths >= ATTEMPTS:  # noted as begun for ever: a batch may hold a second such image
            found = Rejection(Reason.CODEC_CRASHED, f"the codec's process died {deaths} times")
        else:
            made = self._try(row)
            self.ledger.end(name)
            if isinstance(made, pa.Table):
                return made
            found = Rejection(Reason.CODEC_FAILED, in_one_line(made))
        self._check_codec(row, found)
        return self.run(self._reject(row, found))

    def _check_codec(self, row: pa.Table, found: Rejection) -> None:
        """Raises an error if the codec cannot work on a plain item instead of the one in a row."""
        with noted(self.ledger, f"{_name(row)} in grey") as deaths:
            if deaths >= ATTEMPTS:
                raise WorkersLostError(
                    "the process of the codec dies whatever it is given; the last time "
                    f"{deaths} times at a plain input. Look at the workers' machines: memory, "
                    "driver, torch"
                )
            made = self._try(_put(row, self.item.plain))
        if isinstance(made, Exception):
            raise CodecError(
                f"the codec fails whatever it is given, a plain input too: {in_one_line(made)} "
                f"(and before: {found.message}). Nothing was rejected for it: vqpipe doctor shows "
                "what the checkpoint bears; then run the same command again"
            ) from made

    def _reject(self, row: pa.Table, found: Rejection) -> pa.Table:
        """Returns a row as a rejection, without its item."""
        said = {"reason": found.reason.value, "message": found.message}
        return _put(row, {**said, self.item.column: None})


def _put(row: pa.Table, values: Mapping[str, Any]) -> pa.Table:
    """Returns one row with other values in some columns."""
    for name, value in values.items():
        at, field = row.schema.get_field_index(name), row.schema.field(name)
        row = row.set_column(at, field, pa.array([value], field.type))
    return row


def has_good(made: pa.Table) -> bool:
    """Tells whether a sample among finished rows is no rejection."""
    good = pc.and_(pc.is_null(made["reason"]), pc.greater_equal(made["row"], 0))
    return bool(pc.any(good).as_py())


def check_finite(made: pa.Table) -> pa.Table:
    """Returns finished rows as they are, unless not one of many is finite.

    Raises:
        CodecError: If so; only a fair sample of the data, not what was rejected before, tells.
    """
    rows = made.filter(pc.equal(made["reason"], Reason.NON_FINITE.value))
    bad = len(rows.select(["shard", "row"]).group_by(["shard", "row"]).aggregate([]))
    if bad >= FEWEST_TO_JUDGE and not has_good(made):
        raise CodecError(
            f"what the network makes of every one of {bad} images holds NaN or infinity, so that "
            "it is not the images: try --dtype float32 or bfloat16 on a new sink, or see with "
            "vqpipe doctor what the checkpoint bears"
        )
    return made


def keep_reading(
    start: Callable[[], Iterator[Sample]], shard: str, rows: Callable[[], int | None]
) -> Iterator[Sample]:
    """Yields a shard's samples; one that fails at a row for the third time ends in a rejection.

    Args:
        start: Begins to read the shard, always the same samples.
        shard: Its name.
        rows: Returns how many samples it claims to have, if it does.
    """
    row = failures = 0
    while True:
        try:
            for sample in islice(start(), row, None):
                yield sample
                row, failures = row + 1, 0
        except NOT_THE_INPUT:
            raise
        except Exception as error:  # noqa: BLE001 (a parser that no one has foreseen)
            failures += 1
            if failures == ATTEMPTS:
                yield ended(row, shard, in_one_line(error), Loss.of(rows(), row))
                return
        else:
            return


def ended(row: int, shard: str, cause: str, loss: Loss) -> Sample:
    """Returns the last sample of a shard that cannot be read past `row`."""
    message = f"{shard} cannot be read from row {row} on, tried {ATTEMPTS} times: {cause}"
    return Sample(row, None, rejection=Rejection(Reason.SHARD_DAMAGED, message, loss))
