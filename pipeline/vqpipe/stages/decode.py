"""The decode stage: codes or latents to pixels, and compressed images in the sink.

    decode_rows    codes or latents, as bytes  ->  pixels
    Decoding       its step: what the codec does in the process that has the device
    compress_rows  pixels                      ->  compressed images
    ImagesProduct  its product: what rows become in the sink

The rows that come in are those of `schema.read_schema`: `codes` or `latents` hold what
`sources.codes` found in a row, int64 or float32, little-endian. No row is dropped on the way: one
that fails becomes a row with a reason.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vqpipe import schema
from vqpipe.code_layout import CodeLayout
from vqpipe.codec.config import CodecConfig, Images, Mask, OnBatch
from vqpipe.images import ImageFormat, compress, size_of
from vqpipe.rejections import Reason, Rejection
from vqpipe.sink.beside import Beside, sha256
from vqpipe.sink.filenames import drop_endings, safe_names
from vqpipe.sink.footer import IMAGE_BYTES
from vqpipe.sink.product import Facts, Finished, Write, not_null
from vqpipe.sources.extensions import IMAGE_EXTENSIONS
from vqpipe.stages.attempts import Item
from vqpipe.stages.columns import all_but, pixels_of, put_rejections, size_columns
from vqpipe.stages.step import MakeCodec, Ready
from vqpipe.stages.tars import texts_of, write_tar
from vqpipe.vector_layout import QUANTIZED

if TYPE_CHECKING:
    from vqpipe.codec.codec import Codec

Decode = Callable[[npt.NDArray[Any]], tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]]
"""Codes (N, ...) or latents (N, C, ...) in; pixels (N, H, W, 3) and a mask (N,) out."""


@dataclass(frozen=True)
class Form:
    """What the codes or latents of one image look like."""

    layout: CodeLayout
    """Of the codes."""
    latents: tuple[int, ...] = ()
    """Shape of an image's latents, such as (C, h, w), or of the largest's; empty for codes."""
    is_quantized: bool = False
    """Whether latents are from behind the look-up in the codebook: what codes stand for."""

    @property
    def column(self) -> str:
        """In which rows carry them: `codes` or `latents`."""
        return "latents" if self.latents else "codes"

    @property
    def kind(self) -> str:
        """What is decoded: `codes`, `latents` or `quantized`."""
        return QUANTIZED if self.is_quantized else self.column

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an image's codes or latents; empty where images differ in it."""
        if self.layout.differs:
            return ()
        return self.latents or self.layout.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the bytes that a row holds."""
        return np.dtype("<f4" if self.latents else "<i8")

    def plain(self) -> bytes:
        """Returns codes or latents that are all 0."""
        if not self.layout.differs:
            return bytes(math.prod(self.shape) * self.dtype.itemsize)
        rows, columns = self.layout.shapes[0][:2]
        zeros = [0] * math.prod(self._shape_of(rows, columns))
        return np.array([rows, columns, *zeros], self.dtype).tobytes()

    def parse(self, data: bytes) -> npt.NDArray[Any]:
        """Returns the numbers of a row, in their shape.

        Raises:
            ValueError: If there are not as many as there must be, or a code is out of range.
        """
        found, shape = np.frombuffer(data, self.dtype), self.shape
        if self.layout.differs:
            shape, found = self._shape_of(*map(int, found[:2])), found[2:]
        expected = math.prod(shape)
        if len(found) != expected:
            sides = " x ".join(map(str, shape))
            raise ValueError(f"{len(found)} numbers, where {sides} make {expected}")
        size = self.layout.codebook_size
        if not self.latents and not 0 <= found.min() <= found.max() < size:
            outside = found[(found < 0) | (found >= size)]
            raise ValueError(f"code {outside[0]} is not in 0 to {size - 1}")
        return found.reshape(shape)

    def _shape_of(self, rows: int, columns: int) -> tuple[int, ...]:
        shape = self.layout.shape_of(rows, columns)
        if shape is None:
            raise ValueError(f"a grid of {rows} x {columns} is none that the run may have")
        return (self.latents[0], rows, columns) if self.latents else shape


def decode_rows(table: pa.Table, decode: Decode, form: Form) -> pa.Table:
    """Replaces codes by pixels; what is no codes, or gives no finite image, becomes a rejection.

    Args:
        table: Rows as they were read.
        decode: The codec.
        form: What codes look like.
    """
    parsed = [_parse(value, form) for value in table[form.column]]
    good = {i: each for i, each in enumerate(parsed) if isinstance(each, np.ndarray)}
    rejections = [each if isinstance(each, Rejection) else None for each in parsed]
    pixels: list[bytes | None] = [None] * len(table)
    sizes: list[tuple[int, int] | None] = [None] * len(table)
    for places in _alike(good):
        images, finite = decode(np.stack([good[place] for place in places]))
        for i, image, is_finite in zip(places, images, finite, strict=True):
            pixels[i], sizes[i] = (image.tobytes(), image.shape[:2]) if is_finite else (None, None)
            rejections[i] = None if is_finite else _NON_FINITE
    return pa.table(
        {
            **all_but(table, form.column),
            **put_rejections(table, rejections),
            "pixels": pa.array(pixels, pa.large_binary()),
            **size_columns(sizes),
        }
    )


_NON_FINITE = Rejection(Reason.NON_FINITE, "the network's pixels hold NaN or infinity")


def _alike(good: Mapping[int, npt.NDArray[Any]]) -> Iterator[list[int]]:
    """Yields the places of codes that are of one shape."""
    for shape in sorted({each.shape for each in good.values()}):
        yield [place for place, each in good.items() if each.shape == shape]


def _parse(value: pa.Scalar, form: Form) -> npt.NDArray[Any] | Rejection | None:
    if not value.is_valid:
        return None  # rejected while reading
    try:
        return form.parse(value.as_buffer())
    except ValueError as error:
        return Rejection(Reason.BAD_CODES, str(error))


def compress_rows(table: pa.Table, how: ImageFormat) -> pa.Table:
    """Replaces the pixels of decoded rows by compressed images."""
    images = [None if each is None else compress(each, how) for each in pixels_of(table)]
    rest = all_but(table, *(each.name for each in schema.PIXELS))
    return pa.table({**rest, "image": pa.array(images, pa.large_binary())})


@dataclass(frozen=True)
class Decoding:
    """Codes or latents to pixels."""

    form: Form
    how: CodecConfig
    size: tuple[int, int]
    """Height and width of the images, in pixels; where they differ, of the largest."""

    @property
    def item(self) -> Item:
        """The codes; those that are all 0 are plain ones."""
        return Item(self.form.column, {self.form.column: self.form.plain()})

    @property
    def row_bytes(self) -> int:
        """Bytes of a decoded image."""
        return math.prod(self.size) * 3

    def prepare(self, make: MakeCodec) -> Ready:
        """Makes a codec."""
        codec = make(self.how, None)
        decode = self._choose(codec)

        def run(table: pa.Table, on_batch: OnBatch) -> pa.Table:
            known = functools.partial(decode, on_batch=on_batch)
            return decode_rows(table, known, self.form)

        def warm_up() -> float:
            return codec.warm_up_by(lambda: decode(self.form.parse(self.form.plain())[np.newaxis]))

        return Ready(run, warm_up)

    def _choose(self, codec: "Codec") -> Callable[..., tuple[Images, Mask]]:
        if self.form.is_quantized:
            return codec.decode_quantized
        return codec.decode_latents if self.form.latents else codec.decode


Layout = Literal["webdataset", "parquet", "folder"]


@dataclass(frozen=True)
class ImagesProduct:
    """The decode stage's: images in one of three layouts, and in `data/` one row for each.

    webdataset  a tar: each image, then what was kept of it; data/ has the members
    folder      a file an image; data/ has their paths
    parquet     data/ has the images themselves

    Where tar and files lie is told in `vqpipe.sink.beside`.
    """

    kept: pa.Schema
    how: ImageFormat
    layout: Layout
    size: tuple[int, int] | None
    """Height and width of every image, in pixels; None where they differ."""
    views: int = 1
    codebook_size: int = 0

    @property
    def rows(self) -> pa.Schema:
        """Columns of compressed images."""
        return schema.read_schema(self.kept)

    @property
    def data(self) -> pa.Schema:
        """Columns of `data/`."""
        return schema.images_schema(self.kept, has_files=self.layout != "parquet")

    def finish(
        self,
        good: Iterable[pa.Table],
        shard: str,
        before: Mapping[str, Any],  # noqa: ARG002 (rejections of this stage are not tried again)
        write: Write,
    ) -> Finished:
        """Writes the images, or which files they are in; of these, a shard's are in memory."""
        facts: Facts = {"images": {"format": self.how.name, "layout": self.layout}}
        if self.layout == "parquet":
            for table in not_null(good, ("image",), "images", shard):
                write(_sized(table, self.size))
            return Finished(facts, {})
        none = self.rows.empty_table()
        whole = pa.concat_tables([none, *not_null(good, ("image",), "images", shard)])
        return self._with_files(whole, shard, facts, write)

    def _with_files(self, good: pa.Table, shard: str, facts: Facts, write: Write) -> Finished:
        files = [f"{name}.{self.how.extension}" for name in self._names(good)]
        table = _sized(good, self.size).append_column("file", pa.array(files, pa.string()))
        sizes = pa.array(map(len, _images(good)), pa.int64())
        digests = pa.array(map(sha256, _images(good)), pa.string())
        write(table.append_column("bytes", sizes).append_column("sha256", digests))
        if self.layout == "folder":
            named = zip(files, _images(good), strict=True)
            said: Facts = {IMAGE_BYTES: pc.sum(sizes).as_py() or 0}
            return Finished(facts | said, {}, Beside(shard, dict(named)))
        beside = Beside.of_tar(shard, write_tar(self._members(good, files)))
        said = {IMAGE_BYTES: len(beside.files[""]), "tar": {"sha256": beside.digest}}
        return Finished(facts | said, {}, beside)

    def _names(self, good: pa.Table) -> list[str]:
        keys = drop_endings(good["key"].to_pylist(), IMAGE_EXTENSIONS)
        return safe_names(keys, dots=self.layout != "webdataset")

    def _members(self, good: pa.Table, files: list[str]) -> Iterator[tuple[str, bytes]]:
        """Yields name and content of each member: an image, then its text, then all else of it."""
        kept = [field.name for field in self.kept]
        columns = good.select([schema.KEPT + name for name in kept]).rename_columns(kept)
        rows = texts_of(columns, self.how.extension)
        for file, image, texts in zip(files, _images(good), rows, strict=True):
            yield file, image
            stem = file.removesuffix(f".{self.how.extension}")
            for ending, text in texts:
                yield f"{stem}.{ending}", text.encode()


def _images(good: pa.Table) -> Iterator[bytes]:
    return (value.as_buffer().to_pybytes() for value in good["image"])


def _sized(good: pa.Table, size: tuple[int, int] | None) -> pa.Table:
    """Returns rows with height and width of their images, which tell it where they differ."""
    sizes = [size] * len(good) if size else list(map(size_of, _images(good)))
    height, width = (pa.array([each[axis] for each in sizes], pa.int32()) for axis in (0, 1))
    return good.append_column("width", width).append_column("height", height)
