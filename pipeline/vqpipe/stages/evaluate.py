"""The evaluate stage: views and their codes to scores, and a row of scores a sample in the sink.

    pick_rows      a committed shard           ->  which of its rows are looked at
    PairReader     its reader: picked samples, and the codes that a sink has of them
    measure_rows   views and their codes       ->  scores, and what the codes decode to
    Evaluating     its step: what codec and judges do in the process that has the device
    picture_rows   views and decoded images    ->  both as JPEGs, for a person to look at
    ScoresProduct  its product: what rows become in the sink

Rows travel as those of `encode` do, with two more columns: `place`, the row in the shard, since
`row` counts only the samples that were picked, and `codes`, which the sink has of them.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vqpipe import schema
from vqpipe.code_layout import CodeLayout
from vqpipe.codec.config import CodecConfig, Codes, OnBatch
from vqpipe.errors import SourceChangedError
from vqpipe.images import ImageFormat, compress
from vqpipe.picks import hash_of
from vqpipe.rejections import Reason, Rejection
from vqpipe.schema import PLACE, Sample, Shard, numbers_of
from vqpipe.sink import layout
from vqpipe.sink.objects import read_whole
from vqpipe.sink.plan import Plan
from vqpipe.sink.product import Finished, Write, not_null
from vqpipe.sink.ranges import Staged
from vqpipe.stages.attempts import Item
from vqpipe.stages.columns import all_but, images_by_shape, pixels_of, put_rejections
from vqpipe.stages.read import SampleReader, read_rows
from vqpipe.stages.step import MakeCodec, Ready, pixels_item

if TYPE_CHECKING:
    from vqpipe.quality.judges import Judge

PICTURE_SIDE = 256
"""Most pixels along a side of the JPEGs that are kept."""
_PICTURE = ImageFormat("jpeg", 90)

Pixels = npt.NDArray[np.uint8]
"""(N, H, W, 3) uint8 RGB."""


@dataclass(frozen=True)
class Measured:
    """What was found out about views and their codes."""

    decoded: Pixels
    """What the codes decode to."""
    finite: npt.NDArray[np.bool_]
    """(N,): which of them are finite throughout."""
    scores: Mapping[str, npt.NDArray[np.floating]]
    """One number a view (N,), or one vector (N, D), by name."""
    unlike: npt.NDArray[np.integer]
    """(N,): codes that differ from those of the view, encoded again in float32."""


Measure = Callable[[Pixels, npt.NDArray[np.int64]], Measured]
"""Views (N, H, W, 3) and the codes (N, h * w) that are stored of them."""


def pick_rows(keys: list[str], most: int) -> list[int]:
    """Returns at most so many places of a shard's keys, picked by a hash of each, in order."""
    hashes = [hash_of(key, what_for=b"evaluate", size=64) for key in keys]
    order = sorted(range(len(keys)), key=hashes.__getitem__)
    return sorted(order[:most])


def share_out(samples: int, counts: Mapping[str, int]) -> dict[str, int]:
    """Returns how many samples each shard gives: in proportion, and together as many as asked.

    What proportion leaves over goes to the largest remainders, ties by name (Hamilton's method).
    """
    total = sum(counts.values())
    wanted = min(samples, total)
    exact = {name: wanted * count / total for name, count in counts.items()} if total else {}
    quotas = {name: int(value) for name, value in exact.items()}
    left = wanted - sum(quotas.values())
    by_remainder = sorted(exact, key=lambda name: (quotas[name] - exact[name], name))
    for name in by_remainder[:left]:
        quotas[name] += 1
    return {name: quota for name, quota in quotas.items() if quota}


def measure_rows(table: pa.Table, measure: Measure, scores: list[pa.Field]) -> pa.Table:
    """Adds scores and decoded images to opened rows; a view that cannot be scored is rejected.

    Args:
        table: Opened rows with `place` and `codes`.
        measure: Decodes, compares and encodes again.
        scores: Columns to add.
    """
    rejections: list[Rejection | None] = [None] * len(table)
    decoded: list[bytes | None] = [None] * len(table)
    names = {each.name for each in scores}
    counts = {"code_count": pc.list_value_length(table["codes"])}
    known = counts if "code_count" in names else {}
    measured = [each for each in scores if each.name not in _KNOWN]
    values: dict[str, list[object]] = {each.name: [None] * len(table) for each in measured}
    for rows, views in images_by_shape(table):
        found = measure(views, numbers_of(table["codes"].take(pa.array(rows))).astype(np.int64))
        for place in rows[~found.finite]:
            rejections[place] = _NON_FINITE
        for place, image in zip(rows, found.decoded, strict=True):
            decoded[place] = image.tobytes()
        for name, scored in {**found.scores, "unlike": found.unlike}.items():
            _scatter(scored, rows, values[name])
    return pa.table(
        {
            **all_but(table, "codes"),
            **known,
            **put_rejections(table, rejections),
            **{each.name: pa.array(values[each.name], each.type) for each in measured},
            "decoded": pa.array(decoded, pa.large_binary()),
        }
    )


_NON_FINITE = Rejection(Reason.NON_FINITE, "the network's pixels hold NaN or infinity")


_KNOWN = {"view", "code_count"}
"""What scores say of views that nobody has to measure."""


def picture_rows(table: pa.Table, columns: list[str]) -> pa.Table:
    """Replaces pixels by JPEGs, and leaves out all columns but those named."""
    pictures = {
        "original": pa.array(map(_to_picture, pixels_of(table)), pa.binary()),
        "decoded": pa.array(map(_to_picture, pixels_of(table, "decoded")), pa.binary()),
    }
    known = {name: table[name] for name in columns if name not in pictures}
    return pa.table({**known, **pictures}).select(columns)


def _to_picture(pixels: Pixels | None) -> bytes | None:
    return None if pixels is None else compress(pixels, _PICTURE, PICTURE_SIDE)


def _scatter(
    values: npt.NDArray[np.generic], places: npt.NDArray[np.integer], target: list[object]
) -> None:
    """Puts values at their places in a column."""
    for place, value in zip(places, values, strict=True):
        target[place] = value if value.ndim else value.item()


@dataclass(frozen=True)
class Evaluating:
    """Pixels and codes to scores: decoded and encoded again in float32, whatever the run has."""

    how: CodecConfig
    shapes: tuple[tuple[int, int], ...]
    """Heights and widths that views may have, in pixels."""
    layout: CodeLayout
    """Of their codes."""
    multiple: int
    """Pixels along a side for which there is a code, or a stack of them."""
    has_views: bool = False
    """Whether scores say which view they are of, and how many codes it has."""
    lpips: "Judge | None" = None
    """LPIPS' weights, if they are at hand."""
    inception: "Judge | None" = None
    """Inception's weights, if they are at hand."""

    @property
    def item(self) -> Item:
        """The pixels; a grey image is a plain one."""
        return pixels_item(self.shapes[0])

    @property
    def row_bytes(self) -> int:
        """Bytes of the largest view."""
        return 3 * max(map(math.prod, self.shapes))

    @property
    def scores(self) -> list[pa.Field]:
        """Columns that are measured."""
        return schema.score_fields(
            has_lpips=bool(self.lpips),
            has_features=bool(self.inception),
            has_views=self.has_views,
        )

    def prepare(self, make: MakeCodec) -> Ready:
        """Makes a codec and the networks that compare images."""
        codec = make(replace(self.how, dtype="float32", eager=True), None)
        from vqpipe.quality.compare import load_comparisons  # noqa: PLC0415 - torch, in one worker

        compare = load_comparisons(self.lpips, self.inception, codec.device)

        def run(table: pa.Table, on_batch: OnBatch) -> pa.Table:
            def measure(views: Pixels, codes: Codes) -> Measured:
                decoded, finite = codec.decode(codes.reshape(-1, *self._shape_of(views)))
                again, _ = codec.encode(views, on_batch)
                unlike = (again.reshape(len(codes), -1) != codes).sum(1)
                scores = {name: value for each in compare for name, value in each(views, decoded)}
                return Measured(decoded, finite, scores, unlike)

            # a batch at a time: decoded pixels take memory, and whoever waits sees it move
            size = codec.batch_size
            batches = [table.slice(start, size) for start in range(0, max(len(table), 1), size)]
            return pa.concat_tables([measure_rows(each, measure, self.scores) for each in batches])

        return Ready(run, lambda: codec.warm_up(*self.shapes[0]))

    def _shape_of(self, views: Pixels) -> tuple[int, ...]:
        """Returns the shape of the codes of views (N, H, W, 3)."""
        height, width = views.shape[1:3]
        shape = self.layout.shape_of(height // self.multiple, width // self.multiple)
        assert shape is not None, "views have shapes of the run's"
        return shape


@dataclass(frozen=True)
class ScoresProduct:
    """The evaluate stage's: a row of scores a sample, with both pictures of it."""

    scores: tuple[pa.Field, ...]
    views: int = 1
    codebook_size: int = 0

    @property
    def rows(self) -> pa.Schema:
        """Columns of measured rows."""
        return schema.measured_schema(list(self.scores))

    @property
    def data(self) -> pa.Schema:
        """Columns of `data/`."""
        return schema.scores_schema(list(self.scores))

    def finish(
        self,
        good: Iterable[pa.Table],
        shard: str,
        before: Mapping[str, Any],  # noqa: ARG002 (rejections of this stage are not tried again)
        write: Write,
    ) -> Finished:
        """Writes the scores as they are."""
        for table in not_null(good, ("psnr_db", "unlike", "decoded"), "scores", shard):
            write(table)
        return Finished({}, {})


@dataclass(frozen=True)
class PairReader:
    """Reads some samples of each shard, and the codes that a sink has of a view of each."""

    images: SampleReader
    codes_sink: str
    quotas: dict[str, int]
    """How many views of each shard, by name."""

    def rows(self, plan: Plan, index: int) -> int | None:
        """Returns how many views are picked."""
        return self.quotas[plan.name(index)]

    def read(
        self, plan: Plan, index: int, staged: Staged, block_rows: int, deaths: int
    ) -> Iterator[pa.Table]:
        """Yields picked samples, a row a view, numbered anew, with `place`, `view` and `codes`.

        Raises:
            SourceChangedError: If the source has other samples than the sink.
        """
        name = plan.name(index)
        uri = layout.data_uri(self.codes_sink, name)
        stored = read_whole(uri, ["key", "row", "view", "codes"])
        picked = stored.take(pick_rows(_names(stored), self.quotas[name]))
        samples = self._picked(plan.shard(index), picked, deaths)
        for table in read_rows(samples, index, staged, self.images.kept, block_rows):
            numbers = pc.if_else(pc.greater_equal(table["row"], 0), table["row"], None)
            view, codes = (picked[name].take(numbers) for name in ("view", "codes"))
            yield (
                table.append_column(PLACE, picked["row"].take(numbers))
                .append_column(picked.schema.field("view"), pc.fill_null(view, 0))
                .append_column(picked.schema.field("codes"), codes)
            )

    def _picked(self, shard: Shard, picked: pa.Table, deaths: int) -> Iterator[Sample]:
        """Yields the picked samples of a shard, which is read no further than to the last one."""
        keys = dict(zip(picked["row"].to_pylist(), picked["key"].to_pylist(), strict=True))
        numbers: dict[int, list[int]] = {row: [] for row in keys}
        for number, row in enumerate(picked["row"].to_pylist()):
            numbers[row].append(number)
        for sample in _explained(self.images.samples(shard, deaths)):
            if sample.row in keys:
                _check_key(shard, sample, keys.pop(sample.row))
                for number in numbers[sample.row]:
                    yield replace(sample, row=number)
            if not keys:
                return
        raise SourceChangedError(
            f"{shard.files[0].uri} ends before row {min(keys)} of shard {shard.name}, of which the "
            "sink has codes: give the images that they were made of with --images"
        )


def _names(stored: pa.Table) -> list[str]:
    """Returns what views are picked by: the key, and with it the number of all but the first."""
    keys = zip(stored["key"].to_pylist(), stored["view"].to_pylist(), strict=True)
    return [f"{key}\0{view}" if view else key for key, view in keys]


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
