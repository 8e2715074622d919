"""The nouns of the pipeline and the Arrow schemas of everything it passes on or writes.

Between steps travel tables with one row a sample. Each step adds or replaces columns. Those of
`vqpipe encode`:

    read    `HEAD`, kept.*, image
    open    `HEAD`, kept.*, `VIEW`, `PIXELS`; one row a view, of which an image may have several
    encode  the same without `PIXELS`, with codes, flips and psnr_db, and latents or quantized where
            they are asked for; also what `staging/` holds
    commit  `data/`: key, row, view, codes, latents, quantized, width, height, crop, flip, then the
            kept columns; codes can be left out beside the other two; where grids differ, `GRID`
            stands behind them
            `rejected/`: key, row, reason, message, lost, lost_by
            `left_out/`: key, row, why

Of `vqpipe decode`, which reads codes or latents:

    read      `HEAD`, kept.*, codes or latents (as bytes, see `sources.codes`)
    decode    the same without these, with `PIXELS`
    compress  the same without `PIXELS`, with image (compressed); also what `staging/` holds
    commit    `data/`: key, row, image or file and bytes, width, height, then the kept columns

Of `vqpipe evaluate`, which reads images that were picked, and the codes that a sink has of them:

    read     as for `encode`, with place and codes
    open     as for `encode`, with place and codes
    measure  the same without codes, with scores and decoded (pixels)
    picture  `HEAD`, place, scores, original, decoded (JPEGs); also what `staging/` holds
    commit   `data/`: key, row, place, scores, original, decoded

Of `vqpipe compact`, which reads what a sink of codes has:

    read    columns of `data/` but row, kept.*, from.row, from.shard; for a shuffle file and spot
    commit  `data/`: as the source has it, with row from from.row, then the shard

A rejected sample stays in the stream as a row whose `reason` is set and whose image, pixels, codes
or latents are null, so that no row of a shard is ever missing. One such row may stand for many
images (`Loss`), above all the last one of a shard that cannot be read to its end. A sample that the
run leaves out travels in the same way, with `LEFT_OUT` as its reason and as message the condition
that it does not meet; it is no rejection, and is counted by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vqpipe.code_layout import CodeLayout
from vqpipe.rejections import Rejection
from vqpipe.vector_layout import VectorLayout

NO_FILE = "no file: "
"""Begins the version of what is listed in a source and cannot be opened."""


@dataclass(frozen=True, slots=True)  # of which there may be millions
class File:
    """One stored object: where it is and which version of it."""

    uri: str
    size: int
    """Bytes."""
    version: str
    """ETag, generation, or time of change and imprint (`storage.imprints`); `NO_FILE` and what it
    is of what stands in a source's folder and is no file."""

    @property
    def obstacle(self) -> str | None:
        """What stands in a file's place: a link that leads nowhere, a pipe; None for a file."""
        return self.version[len(NO_FILE) :] if self.version.startswith(NO_FILE) else None


ABOUT_IMAGES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""Names of files that say what is known of the images around them, as in Hugging Face's folders of
images (https://huggingface.co/docs/datasets/image_dataset#imagefolder)."""


def is_about_images(file: File) -> bool:
    """Tells whether a file has one of these names."""
    return file.uri.rpartition("/")[2] in ABOUT_IMAGES


@dataclass(frozen=True, slots=True)
class Shard:
    """One unit of work, failure, output and resume."""

    name: str
    """Stem of the output objects, `/`-separated, unique in the plan."""
    format: str
    """`webdataset`, `parquet` or `folder`; of what is decoded, `codes` or `latents`."""
    files: tuple[File, ...]
    """The one file of a tar or Parquet shard. The images of a folder shard, in order; where columns
    are kept of `ABOUT_IMAGES`, behind them those files too: a shard is made of them as well."""
    root: str = ""
    """Folder shards: the URI that keys are relative to."""
    row_groups: tuple[int, int] | None = None
    """Parquet: first (inclusive) and last (exclusive) row group; None is the whole file."""

    @property
    def images(self) -> tuple[File, ...]:
        """Its files without those that are only about images."""
        return tuple(file for file in self.files if not (self.root and is_about_images(file)))

    @property
    def about(self) -> tuple[File, ...]:
        """Folder shards: the files that say what is known of its images (`ABOUT_IMAGES`)."""
        return tuple(filter(is_about_images, self.files if self.root else ()))

    @property
    def size(self) -> int:
        """Bytes of all its images; of the whole file when the shard is a part of it."""
        return sum(file.size for file in self.images)

    @property
    def holds(self) -> str:
        """Column in which its rows carry what was read: `image`, `codes` or `latents`."""
        return self.format if self.format in {"codes", "latents"} else "image"


@dataclass(frozen=True)
class Sample:
    """One image of a shard as it is stored there, or its rejection while reading."""

    row: int
    """Place in the shard, from 0."""
    key: str | None
    """Name in the dataset; None where damage hides it."""
    data: bytes | None = None
    """A compressed image, or its codes or latents; None exactly when `rejection` is set."""
    rejection: Rejection | None = None
    kept: dict[str, pa.Array] = field(default_factory=dict)
    """Metadata that travels along, by column name: arrays of one value each."""
    passed_over: int = 0
    """Other images of the sample, which are not taken."""


IMAGE = "image"
"""Kept column that says which of a sample's images a row is, where there may be several."""
LABEL = "label"
"""Kept column that says by its number in which class folder an image is."""

KeyUntil = Literal["first-dot", "last-dot"]
"""Where in the name of a tar's member its key ends and its extension begins."""


@dataclass(frozen=True)
class Selection:
    """Which parts of a sample to read; the same for every shard of a run."""

    image: str | tuple[str, ...] | None = None
    """Parquet column or webdataset extension that holds the image; None finds it. A tuple where a
    sample has several: each that it names is a row of its own, and each entry of one that is a
    list, and the kept column `IMAGE` says which image a row is."""
    key: str | None = None
    """Parquet column that holds the key; None makes keys from the shard's name and the row."""
    keep: tuple[str, ...] = ()
    """What to copy into the output: columns of Parquet or of `ABOUT_IMAGES`, webdataset extensions,
    or fields of a JSON member (`json:caption`)."""
    key_until: KeyUntil = "first-dot"
    """Where keys of a webdataset end."""
    label: Literal["folder"] | None = None
    """Folders: whether the kept column `LABEL` says in which class folder an image is."""
    codes: str | None = None
    """Of what is decoded: Parquet column of the codes or latents."""
    shape: tuple[int, ...] = ()
    """Of what is decoded: such as (h, w) of codes, (C, h, w) of latents."""
    run: str | None = None
    """Of what is decoded: fingerprint of the run whose sink it is; None for files of others."""
    has_grids: bool = False
    """Of codes: whether images differ in their grids, and columns say which each has (`GRID`)."""
    parts: tuple[str, ...] = ()
    """Of what is decoded: columns that tell apart the rows of one key; keys get their values."""

    @property
    def images(self) -> tuple[str, ...]:
        """The columns or extensions that are named."""
        return (self.image,) if isinstance(self.image, str) else self.image or ()


_UNSIGNED = (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())


def code_type(codebook_size: int) -> pa.DataType:
    """Returns the smallest unsigned Arrow type that holds codes 0..codebook_size-1."""
    return next(each for each in _UNSIGNED if codebook_size <= 1 << each.bit_width)


HEAD = (
    pa.field("shard", pa.int32()),  # place in the plan
    pa.field("row", pa.int32()),  # -1: no sample; has the shard's staging looked at
    pa.field("total", pa.int32()),  # rows of the shard, on its last row; null on the others
    pa.field("key", pa.string()),
    pa.field("reason", pa.string()),  # null for a good sample
    pa.field("message", pa.string()),
    pa.field("lost", pa.int64()),  # images that a rejection stands for; null: one, or unknown
    pa.field("lost_by", pa.string()),  # how that is known (`LossBy`); null: it stands for one
    pa.field("passed_over", pa.int32()),  # other images of the sample, which are not taken
)
"""Columns that every stage carries."""

VIEW = (
    pa.field("view", pa.uint8()),
    pa.field("width", pa.int32()),  # pixels of the original after EXIF orientation
    pa.field("height", pa.int32()),
    pa.field("crop", pa.list_(pa.int32(), 4)),  # left, top, right, bottom in original pixels
    pa.field("flip", pa.bool_()),
)
"""Columns that say how a view was cut from its image."""

PIXELS = (
    pa.field("pixels", pa.large_binary()),  # HWC uint8 RGB
    pa.field("pixels_height", pa.int32()),
    pa.field("pixels_width", pa.int32()),
)
"""Columns of pixels, which travel between stages and stand in no sink; a row's have any shape."""

FLIPS = pa.field("flips", pa.int32())
"""Codes of an audited image that differ from float32's; null for all other images."""
PSNR = pa.field("psnr_db", pa.float32())
"""PSNR in dB of what an audited image's codes decode to; null for all other images."""
AUDITED = (FLIPS, PSNR)
"""Columns of what an audit found."""


KEPT = "kept."
"""Prefix of kept metadata's column names between stages, so that they clash with nothing."""


def kept_fields(kept: pa.Schema) -> list[pa.Field]:
    """Returns the columns in which kept metadata travels between stages."""
    return [field.with_name(KEPT + field.name) for field in kept]


def read_schema(kept: pa.Schema, holds: str = "image") -> pa.Schema:
    """Returns the schema of rows that have been read.

    Args:
        kept: The kept columns.
        holds: Column of what was read: `image`, `codes` or `latents`.
    """
    return pa.schema([*HEAD, *kept_fields(kept), pa.field(holds, pa.large_binary())])


def opened_schema(kept: pa.Schema) -> pa.Schema:
    """Returns the schema of rows between opening and encoding."""
    return pa.schema([*HEAD, *kept_fields(kept), *VIEW, *PIXELS])


GRID = (pa.field("grid_h", pa.uint16()), pa.field("grid_w", pa.uint16()))
"""Columns with rows and columns of an image's grid of codes, where images differ."""


def codes_field(codes: CodeLayout) -> pa.Field:
    """Returns the codes column: all codes of an image, in one list, of a fixed length if it can."""
    length = -1 if codes.differs else codes.length
    return pa.field("codes", pa.list_(code_type(codes.codebook_size), length))


def has_grid(lists: pa.Field) -> bool:
    """Tells whether `GRID` goes with a column of lists, these being of any length."""
    return not pa.types.is_fixed_size_list(lists.type)


def _with_grid(made: list[pa.Field]) -> list[pa.Field]:
    """Returns columns that the codec makes, and what says of which shape they are."""
    return [*made, *(GRID if any(map(has_grid, made)) else ())]


def flat_of(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """Returns all numbers in a column of lists, such as codes; null lists are left out."""
    flat: npt.NDArray[Any] = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return flat


_NUMBERS = {"float16": pa.float16(), "float32": pa.float32(), "uint16": pa.uint16()}


def vectors_field(vectors: VectorLayout) -> pa.Field:
    """Returns a column of vectors: an image's in one list, of a fixed length if it can."""
    kind = pa.list_(_NUMBERS[vectors.stored_as], vectors.length or -1)
    return pa.field(vectors.name, kind, metadata=vectors.metadata())


def numbers_of(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """Returns a column of lists that are all of one length, such as codes, as an array.

    Args:
        column: Lists of n numbers: of codes, all of an image.

    Returns:
        (N, n), of the column's own type of numbers. N is the lists that are there: null ones are
        left out.
    """
    if pa.types.is_fixed_size_list(column.type):
        return flat_of(column).reshape(-1, column.type.list_size)
    return flat_of(column).reshape(len(column) - column.null_count, -1)


def lists_in(column: pa.ChunkedArray) -> list[npt.NDArray[Any]]:
    """Returns the lists of a column without nulls, one array (n,) each, of whatever lengths."""
    lengths = pc.list_value_length(column).to_numpy()
    return np.split(flat_of(column), np.cumsum(lengths)[:-1]) if len(column) else []


def encoded_schema(kept: pa.Schema, codes: pa.Field, vectors: Sequence[pa.Field] = ()) -> pa.Schema:
    """Returns the schema of rows between encoding and commit, and of `staging/`."""
    own = _with_grid([codes, *vectors])
    return pa.schema([*HEAD, *kept_fields(kept), *VIEW, *own, *AUDITED])


def data_schema(
    kept: pa.Schema, codes: pa.Field | None, vectors: Sequence[pa.Field] = ()
) -> pa.Schema:
    """Returns the schema of `data/`.

    Args:
        kept: The kept columns.
        codes: That of the codes; None where they are left out.
        vectors: Those of latents and quantized, if there are any.
    """
    view, *rest = VIEW
    names = (pa.field("key", pa.string()), pa.field("row", pa.int32()))
    made = _with_grid([*([codes] if codes else []), *vectors])
    return pa.schema([*names, view, *made, *rest, *kept], metadata=kept.metadata)


def images_schema(kept: pa.Schema, *, has_files: bool) -> pa.Schema:
    """Returns the schema of the decode stage's `data/`.

    Args:
        kept: The kept columns.
        has_files: Whether images are in files of their own (`vqpipe.sink.beside`), not in a column.
    """
    image = [pa.field("image", pa.large_binary())]  # those of one shard may exceed 2 GiB
    files = [
        pa.field("file", pa.string()),  # member of the tar, or path below the folder
        pa.field("bytes", pa.int64()),
        pa.field("sha256", pa.string()),  # of the image, hexadecimal
    ]
    return pa.schema(
        [
            pa.field("key", pa.string()),
            pa.field("row", pa.int32()),
            *(files if has_files else image),
            pa.field("width", pa.int32()),  # pixels
            pa.field("height", pa.int32()),
            *kept,
        ],
        metadata=kept.metadata,
    )


FEATURES = 2048
"""Length of a vector of Inception's."""


def score_fields(*, has_lpips: bool, has_features: bool, has_views: bool = False) -> list[pa.Field]:
    """Returns the columns of scores, as they travel and as they stand in `data/`.

    Args:
        has_lpips: Whether LPIPS is measured.
        has_features: Whether Inception's features are.
        has_views: Whether images have several views, or differ in their numbers of codes.
    """
    views = [pa.field("view", pa.uint8()), pa.field("code_count", pa.int32())]
    vector = pa.list_(pa.float32(), FEATURES)
    features = [pa.field("features_original", vector), pa.field("features_decoded", vector)]
    return [
        *(views if has_views else []),
        pa.field("psnr_db", pa.float64()),  # inf where nothing differs
        pa.field("ssim", pa.float64()),
        pa.field("l1", pa.float64()),  # 0 to 1
        *([pa.field("lpips", pa.float64())] if has_lpips else []),
        *(features if has_features else []),
        pa.field("unlike", pa.int32()),  # codes that differ when encoded again in float32
    ]


PLACE = pa.field("place", pa.int32())
"""Row of a sample in its shard."""
PICTURES = (pa.field("original", pa.binary()), pa.field("decoded", pa.binary()))
"""JPEGs of a view and of what its codes decode to, `PICTURE_SIDE` pixels at most."""


def measured_schema(scores: list[pa.Field]) -> pa.Schema:
    """Returns the schema of rows between the last stage and the commit."""
    return pa.schema([*HEAD, PLACE, *scores, *PICTURES])


def scores_schema(scores: list[pa.Field]) -> pa.Schema:
    """Returns the schema of the evaluate stage's `data/`."""
    names = (pa.field("key", pa.string()), pa.field("row", pa.int32()))
    return pa.schema([*names, PLACE, *scores, *PICTURES])


REJECTED = pa.schema(
    [
        pa.field("key", pa.string()),
        pa.field("row", pa.int32()),
        pa.field("reason", pa.string()),
        pa.field("message", pa.string()),
        pa.field("lost", pa.int64()),  # as in `HEAD`
        pa.field("lost_by", pa.string()),
    ]
)
"""Schema of `rejected/`."""

LEFT_OUT = pa.schema(
    [
        pa.field("key", pa.string()),
        pa.field("row", pa.int32()),
        pa.field("why", pa.string()),  # the condition that it does not meet
    ]
)
"""Schema of `left_out/`."""
