"""Bounded attempts: what keeps failing is tried three times, then taken apart.

    an exception in the codec      the batch again, then image by image, each bounded too
    the codec's process dies       the same, counted in a ledger that outlives the process
    an exception in the reader     the shard again, up to the row where it fails for the third time

What then fails by itself is a rejection, but only if the codec still takes a plain grey image: else
the device, the checkpoint or the machine is to blame, which stops the run. So do errors of ours
(a refusing store, say) and want of memory, at once.

A machine that is reclaimed leaves the same traces in the ledger as an input that kills. So traces
only make work slower; it takes three deaths at one image alone to reject it.
"""

import contextlib
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import EncoderError, VqpipeError, WorkersLostError, in_one_line
from pipeline.schema import Reason, Rejection, Sample

ATTEMPTS = 3
"""How often anything is tried before it is taken apart or given up."""

FEWEST_TO_JUDGE = 8
"""Images of a block from which on it is no accident if none has finite latents."""

_GREY = 128
NOT_THE_INPUT = (VqpipeError, MemoryError, ImportError)
"""Errors that say by themselves that no input is to blame."""

Encode = Callable[[pa.Table], pa.Table]
"""Opened rows in, encoded rows out, as many and in the same order."""


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


def encode_bounded(table: pa.Table, encode: Encode, ledger: Ledger) -> pa.Table:
    """Returns encoded rows; an image that keeps failing becomes a rejection.

    Args:
        table: Opened rows (`schema.opened_schema`).
        encode: What encodes them; rows must not depend on their neighbours.
        ledger: Where beginnings and ends are noted.

    Raises:
        EncoderError: If a plain image fails too, or not one image of many has finite latents.
        WorkersLostError: If the process dies at a plain image too.
        VqpipeError: Whatever `encode` raises of our own.
    """
    return _check_finite(_encode_all(table, encode, ledger) if len(table) else encode(table))


def _encode_all(table: pa.Table, encode: Encode, ledger: Ledger) -> pa.Table:
    """Returns encoded rows: in one go, or else each by itself."""
    with noted(ledger, _name(table)) as deaths:
        if deaths < ATTEMPTS:
            encoded = _try(encode, table)
            if isinstance(encoded, pa.Table):
                return encoded
        rows = (table.slice(i, 1) for i in range(len(table)))
        return pa.concat_tables([_encode_one(row, encode, ledger) for row in rows])


def _name(table: pa.Table) -> str:
    """Returns what the ledger calls some rows."""
    first, last = (f"{table['shard'][i]}/{table['row'][i]}" for i in (0, len(table) - 1))
    return f"encode {first} to {last}"


def _try(encode: Encode, table: pa.Table) -> pa.Table | Exception:
    """Returns encoded rows, or the error of the last attempt."""
    for _ in range(ATTEMPTS):
        try:
            return encode(table)
        except NOT_THE_INPUT:
            raise
        except Exception as error:  # noqa: BLE001 (which ones a codec raises nobody knows)
            failed = error
    return failed


def _encode_one(row: pa.Table, encode: Encode, ledger: Ledger) -> pa.Table:
    """Returns one encoded row, or its rejection."""
    if row["pixels"].null_count:
        return encode(row)
    name = f"{_name(row)} alone"
    deaths = ledger.begin(name)
    if deaths >= ATTEMPTS:  # noted as begun for ever: a batch may hold a second such image
        found = Rejection(Reason.ENCODER_CRASHED, f"the codec's process died {deaths} times")
    else:
        encoded = _try(encode, row)
        ledger.end(name)
        if isinstance(encoded, pa.Table):
            return encoded
        found = Rejection(Reason.ENCODER_FAILED, in_one_line(encoded))
    _check_codec(row, encode, ledger, found)
    return encode(_reject(row, found))


def _check_codec(row: pa.Table, encode: Encode, ledger: Ledger, found: Rejection) -> None:
    """Raises an error if the codec cannot encode a grey image instead of the one in a row."""
    with noted(ledger, f"{_name(row)} in grey") as deaths:
        if deaths >= ATTEMPTS:
            raise WorkersLostError(
                f"the process of the codec dies whatever it is given; the last time {deaths} times "
                "at a plain grey image. Look at the workers' machines: memory, driver, torch"
            )
        encoded = _try(encode, _grey(row))
    if isinstance(encoded, Exception):
        raise EncoderError(
            f"the codec fails whatever it is given, a plain grey image too: {in_one_line(encoded)} "
            f"(and before: {found.message}). Nothing was rejected for it: vqpipe doctor shows "
            "what the checkpoint bears; then run the same command again"
        ) from encoded


def _grey(row: pa.Table) -> pa.Table:
    kind = row.schema.field("pixels").type
    grey = pa.array([np.full(kind.byte_width, _GREY, np.uint8).tobytes()], kind)
    return row.set_column(row.schema.get_field_index("pixels"), row.schema.field("pixels"), grey)


def _reject(row: pa.Table, found: Rejection) -> pa.Table:
    """Returns an opened row as a rejection, without pixels."""
    values = {"reason": found.reason.value, "message": found.message, "pixels": None}
    for name, value in values.items():
        at, field = row.schema.get_field_index(name), row.schema.field(name)
        row = row.set_column(at, field, pa.array([value], field.type))
    return row


def _check_finite(encoded: pa.Table) -> pa.Table:
    """Returns encoded rows as they are, unless not one image of many has finite latents."""
    count = len(encoded) - encoded["view"].null_count  # those that had pixels
    bad = pc.sum(pc.equal(encoded["reason"], Reason.NON_FINITE.value)).as_py() or 0
    if bad == count >= FEWEST_TO_JUDGE:
        raise EncoderError(
            f"the network's latents hold NaN or infinity for every one of {count} images, so that "
            "it is not the images: try --dtype float32 or bfloat16 on a new sink, or see with "
            "vqpipe doctor what the checkpoint bears"
        )
    return encoded


def keep_reading(start: Callable[[], Iterator[Sample]], shard: str) -> Iterator[Sample]:
    """Yields a shard's samples; one that fails at a row for the third time ends in a rejection.

    Args:
        start: Begins to read the shard, always the same samples.
        shard: Its name.
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
                yield ended(row, shard, in_one_line(error))
                return
        else:
            return


def ended(row: int, shard: str, cause: str) -> Sample:
    """Returns the last sample of a shard that cannot be read past `row`."""
    message = f"{shard} cannot be read from row {row} on, tried {ATTEMPTS} times: {cause}"
    return Sample(row, None, rejection=Rejection(Reason.SHARD_DAMAGED, message))
