"""What a worker reads of a shard, as tables of rows; the first operator of every stage's graph."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from vqpipe.errors import SourceChangedError
from vqpipe.schema import PLACE, Sample, Selection, Shard
from vqpipe.sink import layout
from vqpipe.sink.layout import Staged
from vqpipe.sink.objects import read_whole
from vqpipe.sink.plan import Plan
from vqpipe.sources import read_shard
from vqpipe.stages.attempts import ATTEMPTS, keep_reading
from vqpipe.stages.evaluate import pick_rows
from vqpipe.stages.quarantine import claimed_rows, read_quarantined
from vqpipe.stages.read import read_rows


class Reader(Protocol):
    """Reads one shard; plain data, sent to every worker."""

    def rows(self, plan: Plan, index: int) -> int | None:
        """Returns how many rows a shard will have, all staged ones among them, if that is known."""

    def read(
        self, plan: Plan, index: int, staged: Staged, block_rows: int, deaths: int
    ) -> Iterator[pa.Table]:
        """Yields the rows of a shard that are not staged yet.

        Args:
            plan: The run's.
            index: The shard's place in it.
            staged: Rows to leave out.
            block_rows: Most rows of one table.
            deaths: How many processes have begun it and not come to its end.
        """


@dataclass(frozen=True)
class SampleReader:
    """Reads all samples of a shard."""

    selection: Selection
    kept: pa.Schema

    def rows(self, plan: Plan, index: int) -> int | None:
        """Returns how many samples the shard claims to have, if it does."""
        return claimed_rows(plan.shard(index))

    def read(
        self, plan: Plan, index: int, staged: Staged, block_rows: int, deaths: int
    ) -> Iterator[pa.Table]:
        """Yields the shard's samples as they are stored (`schema.read_schema`)."""
        samples = self.samples(plan.shard(index), deaths)
        return read_rows(samples, index, staged, self.kept, block_rows)

    def samples(self, shard: Shard, deaths: int) -> Iterator[Sample]:
        """Returns a shard's samples; over one where processes keep dying none of ours shall."""
        if deaths >= ATTEMPTS:
            return read_quarantined(shard, self.selection, self.kept)
        return keep_reading(
            lambda: read_shard(shard, self.selection, self.kept),
            shard.name,
            lambda: claimed_rows(shard),
        )


@dataclass(frozen=True)
class PairReader:
    """Reads some samples of each shard, and the codes that a sink has of them."""

    images: SampleReader
    codes_sink: str
    quotas: dict[str, int]
    """How many samples of each shard, by name."""

    def rows(self, plan: Plan, index: int) -> int | None:
        """Returns how many samples are picked."""
        return self.quotas[plan.name(index)]

    def read(
        self, plan: Plan, index: int, staged: Staged, block_rows: int, deaths: int
    ) -> Iterator[pa.Table]:
        """Yields picked samples, numbered anew, with `place` and `codes` (`evaluating`).

        Raises:
            SourceChangedError: If the source has other samples than the sink.
        """
        name = plan.name(index)
        uri = layout.data_uri(self.codes_sink, name)
        stored = read_whole(uri, ["key", "row", "codes"])
        picked = stored.take(pick_rows(stored["key"].to_pylist(), self.quotas[name]))
        samples = self._picked(plan.shard(index), picked, deaths)
        for table in read_rows(samples, index, staged, self.images.kept, block_rows):
            numbers = pc.if_else(pc.greater_equal(table["row"], 0), table["row"], None)
            yield table.append_column(PLACE, picked["row"].take(numbers)).append_column(
                picked.schema.field("codes"), picked["codes"].take(numbers)
            )

    def _picked(self, shard: Shard, picked: pa.Table, deaths: int) -> Iterator[Sample]:
        """Yields the picked samples of a shard, which is read no further than to the last one."""
        keys = dict(zip(picked["row"].to_pylist(), picked["key"].to_pylist(), strict=True))
        numbers = {row: number for number, row in enumerate(keys)}
        for sample in _explained(self.images.samples(shard, deaths)):
            if sample.row in keys:
                _check_key(shard, sample, keys.pop(sample.row))
                yield replace(sample, row=numbers[sample.row])
            if not keys:
                return
        raise SourceChangedError(
            f"{shard.files[0].uri} ends before row {min(keys)} of shard {shard.name}, of which the "
            "sink has codes: give the images that they were made of with --images"
        )


def _explained(samples: Iterator[Sample]) -> Iterator[Sample]:
    """Yields samples; of a source that has changed, it says what helps here."""
    try:
        yield from samples
    except SourceChangedError as error:
        raise SourceChangedError(
            f"{error.message}. If the images are the same ones, name them: --images SOURCE"
        ) from error


def _check_key(shard: Shard, sample: Sample, key: str) -> None:
    if sample.key != key:
        raise SourceChangedError(
            f"row {sample.row} of shard {shard.name} is {sample.key!r} in {shard.files[0].uri}, "
            f"and {key!r} in the sink: give the images that the codes were made of with --images"
        )
