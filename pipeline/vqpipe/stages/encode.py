"""The encode stage: pixels to codes, and a row of codes a view in the sink.

encode_rows   uint8 views -> codes; an image with non-finite latents becomes a rejection
Encoding      its step: what the codec does in the process that has the device
CodesProduct  its product: what rows become in the sink
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vqpipe import schema
from vqpipe.code_layout import CodeLayout
from vqpipe.codec.config import AUDIT_SHARE, CodecConfig, OnBatch
from vqpipe.errors import AccountingError
from vqpipe.rejections import Reason, Rejection
from vqpipe.sink.footer import HISTOGRAM, pack_histogram
from vqpipe.sink.product import Facts, Finished, Write
from vqpipe.stages.attempts import Item
from vqpipe.stages.audit import NO_AUDIT, Audit, audited_columns
from vqpipe.stages.columns import Places, all_but, images_by_shape, put_rejections, scattered
from vqpipe.stages.step import MakeCodec, Ready, pixels_item

if TYPE_CHECKING:
    from vqpipe.codec.codec import Codec

Encode = Callable[[npt.NDArray[np.uint8]], tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]]
"""Pixels (N, H, W, 3) in; codes (N, ...) and a mask (N,) of finite latents out."""


def encode_rows(
    table: pa.Table, encode: Encode, codes: pa.Field, audit: Audit = NO_AUDIT
) -> pa.Table:
    """Replaces pixels by codes; an image with non-finite latents becomes a rejection.

    Args:
        table: Opened rows.
        encode: The codec of the run.
        codes: The codes column to add.
        audit: Which images are looked at twice, and how.
    """
    groups: list[tuple[Places, npt.NDArray[np.int64]]] = []
    good, bad = (np.zeros(len(table), bool) for _ in range(2))
    flips, psnr_db = (np.full(len(table), np.nan) for _ in range(2))
    picked, looks = audit.pick(table), []
    for rows, images in images_by_shape(table):
        found, finite = encode(images)
        groups.append((rows, found))
        good[rows], bad[rows] = finite, ~finite
        looked = finite & picked[rows]
        looks.append((rows[looked], audit.look(images[looked], found[looked])))
    columns = {
        **all_but(table, *(each.name for each in schema.PIXELS)),
        **put_rejections(table, [_NON_FINITE if each else None for each in bad]),
        codes.name: scattered(groups, good, codes.type),
        **(_grid_columns(groups, good) if schema.grid_fields(codes) else {}),
    }
    for rows, wait in looks:
        flips[rows], psnr_db[rows] = wait()
    return pa.table({**columns, **audited_columns(flips, psnr_db)})


def _grid_columns(
    groups: Sequence[tuple[Places, npt.NDArray[np.int64]]], good: npt.NDArray[np.bool_]
) -> dict[str, pa.Array]:
    """Returns rows and columns of each grid of codes (`schema.GRID`), null where there is none."""
    sides = np.zeros((len(good), 2), np.int64)
    for rows, found in groups:
        sides[rows] = found.shape[1:3]
    pairs = zip(schema.GRID, sides.T, strict=True)
    return {each.name: pa.array(side, each.type, mask=~good) for each, side in pairs}


_NON_FINITE = Rejection(Reason.NON_FINITE, "the network's latents hold NaN or infinity")


@dataclass(frozen=True)
class Encoding:
    """Pixels to codes."""

    codes: pa.Field
    how: CodecConfig
    shapes: tuple[tuple[int, int], ...]
    """Heights and widths that views may have, in pixels."""
    audit: float = AUDIT_SHARE
    """Share of the images that are looked at twice."""

    @property
    def item(self) -> Item:
        """The pixels; a grey image is a plain one."""
        return pixels_item(self.shapes[0])

    @property
    def row_bytes(self) -> int:
        """Bytes of the largest view."""
        return 3 * max(map(math.prod, self.shapes))

    def prepare(self, make: MakeCodec) -> Ready:
        """Makes a codec, and those for audits: a batch is padded, and they see single images."""
        codec = make(self.how, None)
        audit = self._audit(codec, make) if self.audit else NO_AUDIT

        def run(table: pa.Table, on_batch: OnBatch) -> pa.Table:
            encode = functools.partial(codec.encode, on_batch=on_batch)
            return encode_rows(table, encode, self.codes, audit)

        return Ready(run, lambda: codec.warm_up(*self.shapes[0]))

    def _audit(self, codec: "Codec", make: MakeCodec) -> Audit:
        """Returns what looks at images twice; on a CPU, whose batch is one, with the same codec."""
        single = codec if codec.batch_size == 1 else make(replace(self.how, eager=True), 1)
        exact = replace(self.how, dtype="float32", eager=True)
        reference = None if self.how.dtype == "float32" else make(exact, 1).begin_encode
        return Audit(self.audit, single.begin_decode, reference)


@dataclass(frozen=True)
class CodesProduct:
    """The encode stage's: a row of codes a view, and their histogram."""

    kept: pa.Schema
    codes: pa.Field
    layout: CodeLayout
    """What the codes of an image are."""
    views: int = 1

    @property
    def codebook_size(self) -> int:
        """Bins of the histogram."""
        return self.layout.codebook_size

    @property
    def rows(self) -> pa.Schema:
        """Columns of encoded rows."""
        return schema.encoded_schema(self.kept, self.codes)

    @property
    def data(self) -> pa.Schema:
        """Columns of `data/`."""
        return schema.data_schema(self.kept, self.codes)

    def finish(
        self,
        good: Iterable[pa.Table],
        shard: str,  # noqa: ARG002 (codes lie in data/ alone)
        before: Mapping[str, Any],
        write: Write,
    ) -> Finished:
        """Writes the codes, after checking their number and range, and counts them."""
        histogram = np.zeros(self.codebook_size, np.int64)
        audits = _Audits(*(before.get(name, 0) for name in _Audits._fields))
        for table in good:
            histogram += np.bincount(self._flat(table), minlength=self.codebook_size)
            audits = audits.add(table)
            write(table)
        facts: Facts = {
            "layout": self.layout.document(),
            "codebook_size": self.codebook_size,
            **audits._replace(psnr_db_sum=round(audits.psnr_db_sum, 4))._asdict(),
        }
        return Finished(facts, {HISTOGRAM: pack_histogram(histogram)})

    def _flat(self, good: pa.Table) -> npt.NDArray[np.unsignedinteger]:
        """Returns all codes of some rows as one array, after checking their number and range."""
        column = good[self.codes.name]
        codes: npt.NDArray[np.unsignedinteger] = schema.flat_of(column)
        expected = self._count(good)
        if column.null_count or len(codes) != expected:
            raise AccountingError(f"{expected - len(codes)} of {expected} codes are missing")
        if len(codes) and codes.max() >= self.codebook_size:
            raise AccountingError(f"code {codes.max()} is not below {self.codebook_size}")
        return codes

    def _count(self, good: pa.Table) -> int:
        """Returns how many codes some rows have to have."""
        if not self.layout.differs:
            return len(good) * self.layout.length
        grids = zip(*(good[each.name].to_pylist() for each in schema.GRID), strict=True)
        shapes = [self.layout.shape_of(*grid) for grid in grids if None not in grid]
        return sum(math.prod(shape) for shape in shapes if shape is not None)


class _Audits(NamedTuple):
    """What the footer says of the audited images of a shard."""

    audited: int
    flips: int
    psnr_images: int
    """Images whose PSNR is known."""
    psnr_db_sum: float

    def add(self, good: pa.Table) -> "_Audits":
        """Returns this with some rows added; those that were there before have no values."""
        flips, psnr = good["flips"], good["psnr_db"]
        found = (
            len(flips) - flips.null_count,
            pc.sum(flips).as_py() or 0,
            len(psnr) - psnr.null_count,
            pc.sum(pc.cast(psnr, pa.float64())).as_py() or 0.0,
        )
        return _Audits(*(a + b for a, b in zip(self, found, strict=True)))
