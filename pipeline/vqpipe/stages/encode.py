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
from vqpipe.stages.latents import VectorColumns
from vqpipe.stages.step import MakeCodec, Ready, pixels_item
from vqpipe.vector_layout import VectorLayout, document_of

if TYPE_CHECKING:
    from vqpipe.codec.codec import Codec

Encode = Callable[
    [npt.NDArray[np.uint8]],
    tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_], *tuple[npt.NDArray[Any], ...]],
]
"""Pixels (N, H, W, 3) in; codes (N, ...), a mask (N,) of finite latents, and vectors out."""


def encode_rows(
    table: pa.Table,
    encode: Encode,
    codes: pa.Field,
    audit: Audit = NO_AUDIT,
    vectors: Sequence[pa.Field] = (),
) -> pa.Table:
    """Replaces pixels by codes; an image with non-finite latents becomes a rejection.

    Args:
        table: Opened rows.
        encode: The codec of the run.
        codes: The codes column to add.
        audit: Which images are looked at twice, and how.
        vectors: The columns of vectors to add, in the order in which the codec gives them.
    """
    groups: list[tuple[Places, npt.NDArray[np.int64]]] = []
    good, bad = (np.zeros(len(table), bool) for _ in range(2))
    flips, psnr_db = (np.full(len(table), np.nan) for _ in range(2))
    picked, looks, beside = audit.pick(table), [], VectorColumns(vectors, len(table))
    for rows, images in images_by_shape(table):
        found, finite, *more = encode(images)
        groups.append((rows, found))
        good[rows], bad[rows] = beside.put(rows, finite, more), ~finite
        looked = good[rows] & picked[rows]
        looks.append((rows[looked], audit.look(images[looked], found[looked])))
    columns = {
        **all_but(table, *(each.name for each in schema.PIXELS)),
        **put_rejections(
            table,
            [_NON_FINITE if bad[i] else fault for i, fault in enumerate(beside.faults)],
        ),
        codes.name: scattered(groups, good, codes.type),
        **beside.columns(good),
        **(_grid_columns(groups, good) if schema.has_grid(codes) else {}),
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
    vectors: tuple[VectorLayout, ...] = ()
    """Latents or quantized that go beside the codes."""

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
        vectors = [schema.vectors_field(each) for each in self.vectors]

        def run(table: pa.Table, on_batch: OnBatch) -> pa.Table:
            encode = functools.partial(
                codec.encode_vectors, vectors=self.vectors, on_batch=on_batch
            )
            return encode_rows(table, encode, self.codes, audit, vectors)

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
    vectors: tuple[VectorLayout, ...] = ()
    """Latents or quantized that go beside the codes."""
    has_codes: bool = True
    """Whether `data/` has them; the histogram counts them in any case."""

    @property
    def codebook_size(self) -> int:
        """Bins of the histogram."""
        return self.layout.codebook_size

    @property
    def rows(self) -> pa.Schema:
        """Columns of encoded rows."""
        return schema.encoded_schema(self.kept, self.codes, self._fields)

    @property
    def data(self) -> pa.Schema:
        """Columns of `data/`."""
        codes = self.codes if self.has_codes else None
        return schema.data_schema(self.kept, codes, self._fields)

    @property
    def _fields(self) -> list[pa.Field]:
        return [schema.vectors_field(each) for each in self.vectors]

    def finish(
        self,
        good: Iterable[pa.Table],
        shard: str,  # noqa: ARG002 (codes lie in data/ alone)
        before: Mapping[str, Any],
        write: Write,
    ) -> Finished:
        """Writes the codes, after checking their number and range, and counts them."""
        histogram, counted = self._counted(before)
        without = 0
        audits = _Audits(*(before.get(name, 0) for name in _Audits._fields))
        for table in good:
            self.check_vectors(table)
            histogram += self.count(table)
            without += table[self.codes.name].null_count
            audits = audits.add(table)
            write(table)
        if without != counted:
            raise AccountingError(f"{without} images have no codes, where {counted} may have none")
        facts: Facts = {
            "layout": self.layout.document(),
            "codebook_size": self.codebook_size,
            **({"latents": document_of(self.vectors)} if self.vectors else {}),
            **audits._replace(psnr_db_sum=round(audits.psnr_db_sum, 4))._asdict(),
        }
        return Finished(facts, {HISTOGRAM: pack_histogram(histogram)})

    def _counted(self, before: Mapping[str, Any]) -> tuple[npt.NDArray[np.int64], int]:
        """Returns codes that are counted already, and of how many images.

        They are those of an object that is revised and has no codes in it.
        """
        if self.has_codes or not before:
            return np.zeros(self.codebook_size, np.int64), 0
        return before[HISTOGRAM].copy(), before["good"] * before.get("views", 1)

    def count(self, good: pa.Table) -> npt.NDArray[np.int64]:
        """Returns how often some rows have each code, after checking number and range of these.

        Raises:
            AccountingError: If codes are missing, or none of the codebook's.
        """
        return np.bincount(self._flat(good), minlength=self.codebook_size)

    def check_vectors(self, good: pa.Table) -> None:
        """Checks that no row lacks its latents or quantized, where these are there.

        Raises:
            AccountingError: If one does.
        """
        for each in self.vectors:
            missing = good[each.name].null_count
            if missing:
                raise AccountingError(f"{each.name} of {missing} images are missing")

    def _flat(self, good: pa.Table) -> npt.NDArray[np.unsignedinteger]:
        """Returns the codes of rows that have any as one array, after checking number and range."""
        column = good[self.codes.name]
        codes: npt.NDArray[np.unsignedinteger] = schema.flat_of(column)
        expected = self._count(good.filter(pc.is_valid(column)) if column.null_count else good)
        if len(codes) != expected:
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
