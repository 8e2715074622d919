"""What the rows of a stage become in its sink: columns of `data/`, footers, what lies beside.

The commit (`vqpipe.sink.commit`) is the same for every stage: which rows there are, whose they are,
whether all are there. What is in them is a product's matter.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vqpipe import schema
from vqpipe.errors import AccountingError
from vqpipe.images import ImageFormat
from vqpipe.sink.beside import Beside, sha256
from vqpipe.sink.filenames import drop_endings, safe_name, safe_names
from vqpipe.sink.footer import HISTOGRAM, IMAGE_BYTES, pack_histogram
from vqpipe.sources.extensions import IMAGE_EXTENSIONS
from vqpipe.sources.texts import documents, is_text
from vqpipe.stages.tars import write_tar

_MAX_ENDING_BYTES = 40
"""Of a member of a tar that is called as a column is: its name begins with up to
`filenames.MAX_BYTES` of the key's, and file systems take 255 in all."""

Facts = dict[str, object]
Write = Callable[[pa.Table], None]


class Product(Protocol):
    """What a stage makes; sent to every writer."""

    @property
    def rows(self) -> pa.Schema:
        """Columns of the rows between the last stage and the commit, and of `staging/`."""

    @property
    def data(self) -> pa.Schema:
        """Columns of `data/`, kept ones last."""

    @property
    def codebook_size(self) -> int:
        """Bins of the histogram in every footer; 0 where there is none."""

    def finish(
        self, good: Iterable[pa.Table], shard: str, before: Mapping[str, Any], write: Write
    ) -> "Finished":
        """Writes the rows of a shard's object in `data/`, and returns what goes with them.

        Args:
            good: The shard's rows that were not rejected, in order (`rows`), some at a time.
            shard: Its name.
            before: What the footer said of the object that is revised, if one is.
            write: Is given all columns of `data/`, kept ones by their names between stages.

        Raises:
            AccountingError: If the rows are not what they must be.
        """


@dataclass(frozen=True)
class Finished:
    """What goes with the rows of a shard's object in `data/`, and before it."""

    facts: Facts
    """What the footer says, beside the counts of every shard."""
    footer: dict[str, str]
    """Keys and values of the footer of their own."""
    beside: Beside | None = None
    """Files that lie beside it."""


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
        column = good[self.codes.name].combine_chunks()
        codes: npt.NDArray[np.unsignedinteger] = column.flatten().to_numpy(zero_copy_only=False)
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
    size: tuple[int, int]
    """Height and width of every image, in pixels."""
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
            for table in _not_null(good, ("image",), "images", shard):
                write(_sized(table, self.size))
            return Finished(facts, {})
        none = self.rows.empty_table()
        whole = pa.concat_tables([none, *_not_null(good, ("image",), "images", shard)])
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
        rows = _texts(columns, self.how.extension)
        for file, image, texts in zip(files, _images(good), rows, strict=True):
            yield file, image
            stem = file.removesuffix(f".{self.how.extension}")
            for ending, text in texts:
                yield f"{stem}.{ending}", text.encode()


@dataclass(frozen=True)
class ScoresProduct:
    """The evaluate stage's: a row of scores a sample, with both pictures of it."""

    scores: tuple[pa.Field, ...]
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
        for table in _not_null(good, ("psnr_db", "unlike", "decoded"), "scores", shard):
            write(table)
        return Finished({}, {})


def _not_null(
    tables: Iterable[pa.Table], names: tuple[str, ...], what: str, shard: str
) -> Iterator[pa.Table]:
    """Yields tables, after checking that some of their columns have every value."""
    for table in tables:
        missing = sum(table[name].null_count for name in names)
        if missing:
            raise AccountingError(f"{missing} {what} of {shard} are missing")
        yield table


def _texts(kept: pa.Table, taken: str) -> Iterator[list[tuple[str, str]]]:
    """Yields ending and text of each member of a tar that holds what was kept of an image.

    Text is a member of its own, unless its column has a long name; all else is a field in one of
    JSON. What is null is left out.

    Args:
        kept: Kept values, a row an image.
        taken: The images' own ending.
    """
    columns = {each.name: kept[each.name].combine_chunks() for each in kept.schema}
    values = {name: documents(each) for name, each in columns.items()}
    is_there = {name: each.is_valid().to_pylist() for name, each in columns.items()}
    strings = {each.name for each in kept.schema if is_text(each.type) and _is_ending(each.name)}
    for row in range(len(kept)):
        found = {name: each[row] for name, each in values.items() if is_there[name][row]}
        texts = {name: value for name, value in found.items() if name in strings}
        rest = {name: value for name, value in found.items() if name not in strings}
        yield list(_members_of(texts, rest, taken))


def _members_of(
    texts: Mapping[str, str], rest: Mapping[str, Any], taken: str
) -> Iterator[tuple[str, str]]:
    endings = {taken}
    for name, text in texts.items():
        yield _free(_ending_of(name), "txt", endings), text
    if rest:
        document = json.dumps(rest, ensure_ascii=False, allow_nan=False)
        yield _free("json", "json", endings), document


def _ending_of(column: str) -> str:
    return safe_name(column).replace("/", "%2F")


def _is_ending(column: str) -> bool:
    """Tells whether a member's name has room for a column's, whatever the key is."""
    return len(_ending_of(column)) <= _MAX_ENDING_BYTES


def _free(ending: str, more: str, taken: set[str]) -> str:
    """Returns an ending that no other member of the same image has, and takes it."""
    while ending.lower() in taken:
        ending = f"{ending}.{more}"
    taken.add(ending.lower())
    return ending


def _images(good: pa.Table) -> Iterator[bytes]:
    return (value.as_buffer().to_pybytes() for value in good["image"])


def _sized(good: pa.Table, size: tuple[int, int]) -> pa.Table:
    height, width = (pa.array([side] * len(good), pa.int32()) for side in size)
    return good.append_column("width", width).append_column("height", height)
