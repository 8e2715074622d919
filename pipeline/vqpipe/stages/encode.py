"""The encode stage: pixels to codes, and a row of codes a view in the sink.

encode_rows   uint8 views -> codes; an image with non-finite latents becomes a rejection
Encoding      its step: what the codec does in the process that has the device
CodesProduct  its product: what rows become in the sink
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vqpipe import schema
from vqpipe.codec.config import AUDIT_SHARE, CodecConfig, OnBatch
from vqpipe.errors import AccountingError
from vqpipe.rejections import Reason, Rejection
from vqpipe.sink.footer import HISTOGRAM, pack_histogram
from vqpipe.sink.product import Facts, Finished, Write
from vqpipe.stages.attempts import Item
from vqpipe.stages.audit import NO_AUDIT, Audit
from vqpipe.stages.columns import all_but, images_of, lists_of, put_rejections
from vqpipe.stages.step import GREY, MakeCodec, Ready

if TYPE_CHECKING:
    from vqpipe.codec.codec import Codec

Encode = Callable[[npt.NDArray[np.uint8]], tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]]
"""Pixels (N, R, R, 3) in; codes (N, h, w) and a mask (N,) of finite latents out."""


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
    column = table["pixels"].combine_chunks()
    valid = np.asarray(column.is_valid())
    values = np.zeros((len(table), codes.type.list_size), codes.type.value_type.to_pandas_dtype())
    finite = np.ones(len(table), bool)
    looked = {each.name: pa.nulls(len(table), each.type) for each in schema.AUDITED}
    if valid.any():
        images = images_of(column)
        found, finite[valid] = encode(images if valid.all() else images[valid])
        values[valid] = found.reshape(len(found), -1)
        grid = values.reshape(len(table), *found.shape[1:]).astype(np.int64, copy=False)
        looked = audit.look(images, grid, valid & finite & audit.pick(table))
    rejections = [None if ok else _NON_FINITE for ok in finite]
    return pa.table(
        {
            **all_but(table, "pixels"),
            **put_rejections(table, rejections),
            codes.name: lists_of(values, valid & finite, codes.type),
            **looked,
        }
    )


_NON_FINITE = Rejection(Reason.NON_FINITE, "the network's latents hold NaN or infinity")


@dataclass(frozen=True)
class Encoding:
    """Pixels to codes."""

    codes: pa.Field
    how: CodecConfig
    resolution: int
    audit: float = AUDIT_SHARE
    """Share of the images that are looked at twice."""

    @property
    def item(self) -> Item:
        """The pixels; a grey image is a plain one."""
        return Item("pixels", bytes([GREY]) * self.row_bytes)

    @property
    def row_bytes(self) -> int:
        """Bytes of a view."""
        return self.resolution**2 * 3

    def prepare(self, make: MakeCodec) -> Ready:
        """Makes a codec, and those for audits: a batch is padded, and they see single images."""
        codec = make(self.how, None)
        audit = self._audit(codec, make) if self.audit else NO_AUDIT

        def run(table: pa.Table, on_batch: OnBatch) -> pa.Table:
            encode = functools.partial(codec.encode, on_batch=on_batch)
            return encode_rows(table, encode, self.codes, audit)

        return Ready(run, lambda: codec.warm_up(self.resolution, self.resolution))

    def _audit(self, codec: "Codec", make: MakeCodec) -> Audit:
        """Returns what looks at images twice; on a CPU, whose batch is one, with the same codec."""
        single = codec if codec.batch_size == 1 else make(replace(self.how, eager=True), 1)
        exact = replace(self.how, dtype="float32", eager=True)
        reference = None if self.how.dtype == "float32" else make(exact, 1).encode
        return Audit(self.audit, single.decode, reference)


@dataclass(frozen=True)
class CodesProduct:
    """The encode stage's: a row of codes a view, and their histogram."""

    kept: pa.Schema
    codes: pa.Field
    grid: tuple[int, int]
    codebook_size: int

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
            "grid": list(self.grid),
            "codebook_size": self.codebook_size,
            **audits._replace(psnr_db_sum=round(audits.psnr_db_sum, 4))._asdict(),
        }
        return Finished(facts, {HISTOGRAM: pack_histogram(histogram)})

    def _flat(self, good: pa.Table) -> npt.NDArray[np.unsignedinteger]:
        """Returns all codes of some rows as one array, after checking their number and range."""
        column = good[self.codes.name]
        codes: npt.NDArray[np.unsignedinteger] = schema.numbers_of(column).ravel()
        expected = len(good) * self.codes.type.list_size
        if column.null_count or len(codes) != expected:
            raise AccountingError(f"{expected - len(codes)} of {expected} codes are missing")
        if len(codes) and codes.max() >= self.codebook_size:
            raise AccountingError(f"code {codes.max()} is not below {self.codebook_size}")
        return codes


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
