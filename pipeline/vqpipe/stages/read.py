"""The stages before the commit, tables in, tables out, for any engine or a plain loop.

    read_rows    samples of one shard  -> tables of compressed samples
    open_rows    compressed samples    -> uint8 views
    encode_rows  uint8 views           -> codes

The schemas are in `vqpipe.schema`. No row is dropped on the way: a sample that fails becomes a
row with a reason.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vqpipe import schema
from vqpipe.images import Opened, Preprocess, View, open_images
from vqpipe.schema import UNKNOWN, Loss, Reason, Rejection, Sample
from vqpipe.sink.layout import Staged
from vqpipe.stages.audit import NO_AUDIT, Audit
from vqpipe.stages.samples import columns_of, kept_bytes

BLOCK_BYTES = 32 * 2**20
"""Most bytes of images and text in a table that is read, unless one sample has more."""

NO_ROW = -1
"""Row number of a row that is no sample: it has the shard's staging looked at."""

Opener = Callable[[Sequence[memoryview | None], npt.NDArray[np.uint8], Preprocess], list[Opened]]
"""`vqpipe.images.views.open_images` or one like it."""

Encode = Callable[[npt.NDArray[np.uint8]], tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]]
"""Pixels (N, R, R, 3) in; codes (N, h, w) and a mask (N,) of finite latents out."""


def read_rows(
    samples: Iterable[Sample], index: int, staged: Staged, kept: pa.Schema, block_rows: int
) -> Iterator[pa.Table]:
    """Yields the rows of a shard that are not staged yet, in order.

    Args:
        samples: All of the shard, in order; not even begun if all of it is staged.
        index: Its place in the plan.
        staged: Rows to leave out: they are safe already.
        kept: Schema of the kept metadata.
        block_rows: Most rows of one table.
    """
    block: list[Sample] = []
    size, total, seen = 0, None, 0
    all_samples = _fill_up(() if staged.complete else samples, staged)
    for sample, is_last in _mark_last(all_samples):
        seen = sample.row + 1
        if staged.holds(sample.row):
            continue
        taken = len(sample.image or b"") + kept_bytes(sample)
        if len(block) == block_rows or (block and size + taken > BLOCK_BYTES):
            yield _table(index, block, None, kept)
            block, size = [], 0
        block.append(sample)
        total = seen if is_last else None
        size += taken
    if not block:
        block, total = [Sample(NO_ROW, None)], staged.total if staged.complete else seen
    yield _table(index, block, total, kept)


def gather_tables(tables: Iterable[pa.Table], most_rows: int) -> Iterator[pa.Table]:
    """Yields tables as they come, small ones together.

    Args:
        tables: Rows of any shards.
        most_rows: Most rows of what is put together.
    """
    held: list[pa.Table] = []
    for table in tables:
        if held and sum(map(len, held)) + len(table) > most_rows:
            yield pa.concat_tables(held)
            held = []
        held.append(table)
        rows, size = sum(map(len, held)), sum(each.nbytes for each in held)
        if 2 * rows >= most_rows or 2 * size >= BLOCK_BYTES:
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)


def _fill_up(samples: Iterable[Sample], staged: Staged) -> Iterator[Sample]:
    """Yields samples; what stands for an unreadable rest does so for all of it that was once read.

    Rows behind it may be staged, by a command that could read on. Those that are missing among them
    are lost now, one by one; and behind them nobody knows, if no one came to the end of the shard.
    """
    for sample in samples:
        if sample.rejection is None or sample.rejection.reason != Reason.SHARD_DAMAGED:
            yield sample
            continue
        end = max(sample.row, staged.end) + 1 if staged.total is None else staged.total
        for row in range(sample.row, max(end, sample.row + 1)):
            is_one = row + 1 < end or staged.total is not None
            loss = Loss(1, "known") if is_one else _lost_from(row, sample)
            yield replace(sample, row=row, rejection=replace(sample.rejection, loss=loss))


def _lost_from(row: int, sample: Sample) -> Loss:
    """Returns what is lost from a row on, given what stands for all that is from its own on."""
    loss = (sample.rejection and sample.rejection.loss) or UNKNOWN
    return Loss(loss.images and max(1, loss.images - (row - sample.row)), loss.by)


def _mark_last(samples: Iterator[Sample]) -> Iterator[tuple[Sample, bool]]:
    previous = next(samples, None)
    for sample in samples:
        assert previous is not None
        yield previous, False
        previous = sample
    if previous is not None:
        yield previous, True


def _table(index: int, samples: list[Sample], total: int | None, kept: pa.Schema) -> pa.Table:
    """Returns samples as rows; `total` stands on the last one."""
    columns = {
        "shard": pa.array([index] * len(samples), pa.int32()),
        "total": pa.array([None] * (len(samples) - 1) + [total], pa.int32()),
        **columns_of(samples, kept),
    }
    target = schema.read_schema(kept)
    return pa.table([columns[name] for name in target.names], schema=target)


def open_rows(table: pa.Table, how: Preprocess, opener: Opener = open_images) -> pa.Table:
    """Replaces compressed images by uint8 views; an image that fails becomes a rejection.

    Args:
        table: Rows as they were read.
        how: How images become views.
        opener: What opens them: here, or in a process of their own.
    """
    # Arrow's allocator keeps pages; numpy's would fault in new ones, at a gigabyte a second. For
    # the same reason each image goes to its place at once: a list of them would need new pages.
    buffer = pa.allocate_buffer(len(table) * how.resolution**2 * 3)
    pixels = _as_images(buffer, len(table), how.resolution)
    images = [image.as_buffer() for image in table["image"]]
    opened = opener([None if each is None else memoryview(each) for each in images], pixels, how)
    views = [view if isinstance(view, View) else None for view in opened]
    columns = {
        **_columns(table, *(name for name in table.column_names if name != "image")),
        **put_rejections(table, [view if isinstance(view, Rejection) else None for view in opened]),
        "view": _map(views, lambda _: 0, pa.uint8()),
        "width": _map(views, lambda view: view.width, pa.int32()),
        "height": _map(views, lambda view: view.height, pa.int32()),
        "crop": _map(views, lambda view: list(view.crop), pa.list_(pa.int32(), 4)),
        "flip": _map(views, lambda _: False, pa.bool_()),
        "pixels": _pixels(views, pixels),
    }
    return pa.table(columns)


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
        images = _images(column)
        found, finite[valid] = encode(images if valid.all() else images[valid])
        values[valid] = found.reshape(len(found), -1)
        grid = values.reshape(len(table), *found.shape[1:]).astype(np.int64, copy=False)
        looked = audit.look(images, grid, valid & finite & audit.pick(table))
    rejections = [None if ok else _NON_FINITE for ok in finite]
    names = [name for name in table.column_names if name != "pixels"]
    return pa.table(
        {
            **_columns(table, *names),
            **put_rejections(table, rejections),
            codes.name: _lists(values, valid & finite, codes.type),
            **looked,
        }
    )


def put_rejections(table: pa.Table, found: Sequence[Rejection | None]) -> dict[str, pa.Array]:
    """Returns the columns `reason` and `message` with newly found rejections in them."""
    reasons, messages = table["reason"].to_pylist(), table["message"].to_pylist()
    for i, rejection in enumerate(found):
        if rejection is not None:
            reasons[i], messages[i] = rejection.reason.value, rejection.message
    return {"reason": pa.array(reasons, pa.string()), "message": pa.array(messages, pa.string())}


_NON_FINITE = Rejection(Reason.NON_FINITE, "the network's latents hold NaN or infinity")


def _columns(table: pa.Table, *names: str) -> dict[str, pa.ChunkedArray]:
    return {name: table[name] for name in names}


def _map(
    views: Sequence[View | None], get: Callable[[View], object], kind: pa.DataType
) -> pa.Array:
    return pa.array([None if view is None else get(view) for view in views], kind)


def _pixels(views: Sequence[View | None], pixels: npt.NDArray[np.uint8]) -> pa.Array:
    """Returns the pixels of views (N, R, R, 3) as fixed-size binary, without a copy."""
    valid = _bitmap(np.array([view is not None for view in views], bool))
    kind = pa.binary(math.prod(pixels.shape[1:]))
    return pa.Array.from_buffers(kind, len(views), [valid, pa.py_buffer(pixels)])


def _images(column: pa.FixedSizeBinaryArray) -> npt.NDArray[np.uint8]:
    """Returns fixed-size binary as (N, R, R, 3) uint8, without a copy."""
    width = column.type.byte_width
    rows = column.buffers()[1].slice(column.offset * width, len(column) * width)
    return _as_images(rows, len(column), round((width // 3) ** 0.5))


def _as_images(buffer: pa.Buffer, count: int, side: int) -> npt.NDArray[np.uint8]:
    return np.frombuffer(buffer, np.uint8).reshape(count, side, side, 3)


def _lists(
    values: npt.NDArray[np.generic], valid: npt.NDArray[np.bool_], kind: pa.DataType
) -> pa.Array:
    items = pa.array(values.ravel(), kind.value_type)
    return pa.Array.from_buffers(kind, len(values), [_bitmap(valid)], children=[items])


def _bitmap(valid: npt.NDArray[np.bool_]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(valid, bitorder="little"))
