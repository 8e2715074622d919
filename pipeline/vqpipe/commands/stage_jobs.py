"""Commands that run on Ray, as plain data: one field an option, its help below it."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from vqpipe.codec.config import AUDIT_SHARE, AskedRange, DType
from vqpipe.commands.options import (
    ClusterOptions,
    DryRunOptions,
    GrowthOptions,
    How,
    ModelOptions,
    OneOrMore,
    PartOptions,
    Places,
    RunOptions,
    Source,
    Speed,
    What,
    When,
    check_files,
    check_least,
    check_uris,
)
from vqpipe.commands.part import parse_part
from vqpipe.commands.recipes import RecipeName
from vqpipe.conditions.expression import parse
from vqpipe.errors import ConfigError
from vqpipe.vector_layout import ASKED, AskedVectors, VectorDType

AskedKeys = Literal["auto", "first-dot", "last-dot"]
"""Where keys end, as an operator says it."""


RESERVED = {"key", "row", "image", "file", "bytes", "sha256", "width", "height"}
"""Columns that the output of decode has of its own."""


MOST_SHARDS = 64
"""Shards that samples are taken from; of a tar, everything before the last of them is read."""


@dataclass(frozen=True, kw_only=True)
class Encode(DryRunOptions, PartOptions, GrowthOptions, RunOptions, ModelOptions, Places):
    """Encode image shards into Parquet shards of discrete codes.

    Run the same command again to resume: finished shards are not read again. What is read and how
    it is encoded belong to the sink's identity; all other options may change between runs on it.

    Example: vqpipe encode --source photos/ --sink codes/ --model vqgan/
    """

    source: What[str]
    """Where the images are: a folder of .tar, .parquet or image files (links are followed), one
    such file, s3://bucket/prefix, or a quoted pattern like 's3://bucket/{000..127}.tar'."""
    sink: What[str]
    """Where the codes go: a folder or s3://bucket/prefix. One run, one sink."""
    format: What[Literal["webdataset", "parquet", "folder"] | None] = None
    """What the source holds; found from its files if not given, unless they are of several."""
    image: What[Annotated[tuple[str, ...] | None, OneOrMore()]] = None
    """Parquet column or tar extension with the image; found if there is only one. Of several, such
    as left.png right.png, and of a column of lists each image is a row, named in column image."""
    key: What[str | None] = None
    """Parquet column with each image's name; default: file name and row number."""
    key_until: What[AskedKeys] = "auto"
    """Where a key ends in the name of a tar's member: by the first dot 0001.seg.png is seg.png of
    0001, as webdataset has it; by the last one st.martin_001.jpg is an image of its own. auto looks
    at the names in some tars, and asks if they can be read either way."""
    label: What[Literal["folder"] | None] = None
    """folder: the first folder below the source is the class of an image; column label has its
    number, by sorted names, which Hugging Face's datasets shows."""
    keep: What[tuple[str, ...]] = ()
    """What to copy beside the codes: Parquet columns, such as caption; of tars extensions, such as
    txt or cls, and fields of JSON, such as json:width or json:exif.Model; of folders columns of
    metadata.csv, .jsonl or .parquet."""
    keep_all: What[bool] = False
    """Copy all that there is when the run begins: every Parquet column but images and keys, every
    member of text in tars, every column of metadata files in folders."""
    where: What[str | None] = None
    """Encode only images that meet this, such as "width >= 256 and height >= 256 and nsfw < 0.1";
    the others are left out, which left_out/ lists and no limit of rejections counts. width and
    height are the image's own, by its header; any other name is a stored column, of Parquet or
    kept. column["a name"] is one whose name is no single word, or is width or height. An image is
    left out too where a null keeps it unknown whether it meets this, as by WHERE of SQL."""
    limit: What[int | None] = None
    """Take only the first images, so many, by shards in order of name: a trial, of which nothing
    beyond is read. What is rejected or left out counts among them."""
    limit_shards: What[int | None] = None
    """Take only the first shards, so many, in order of name."""
    recipe: How[RecipeName | None] = None
    """Views, resize and shapes as a trainer has them: llamagen (ten crops of the image resized to
    1.1 and to 1.05 of the side, by ADM's resize), open-muse (short side, bilinear), 4m (a centre
    and nine random resized crops, flipped by lot), lumina (Lumina-DiMOO's shapes of 512 px). What
    is said beside it wins."""
    resolution: How[int] = 256
    """Side of the encoded square, in pixels. With --buckets or --fit, these say how large."""
    views: How[tuple[str, ...]] = ()
    """Which parts of an image are encoded, a row each: center (the default), five-crop, ten-crop,
    random-crop:N, random-resized:N; several may be named. ten-crop:1.1, the default, has crops of
    the corners and the middle of an image of 1.1 times the side, and the same of it flipped. Of
    random ones the first is the centre; the others depend on --seed and the image's key alone."""
    flip: How[Literal["none", "both", "random"] | None] = None
    """Whether views are there flipped as well (both), or each by lot (random); none by default."""
    resize: How[Literal["one-step", "crop-first", "short-side", "adm", "squash"] | None] = None
    """How a view is made: resampled in one step from where it lies (one-step, the default); cut,
    then resized (crop-first); the image resized to its short side, then cut (short-side); halved
    while it is twice as large, resized, then cut, as ADM, DiT and LlamaGen do (adm); or the whole
    image, whatever its proportions (squash)."""
    resample: How[Literal["bicubic", "lanczos", "bilinear", "box"] | None] = None
    """Filter of the resize; bicubic by default."""
    buckets: How[tuple[str, ...]] = ()
    """Shapes, of which each image gets the one that most of it goes into: 256 (about the pixels of
    that square, up to 2:1, in steps of the model's), lumina:512 (Lumina-DiMOO's, up to 4:1, in
    steps of 32), or a list such as 256x256 320x192 (width x height)."""
    fit: How[str | None] = None
    """inside:512 encodes whole images: the longer side 512, the other as the image has it, rounded
    to the model's multiple."""
    crop_area: How[tuple[float, float] | None] = None
    """Least and most of the image's area of random-resized; 0.08 to 1 by default."""
    crop_ratio: How[tuple[float, float] | None] = None
    """Least and most of width by height of random-resized; 0.75 to 1.3333 by default."""
    seed: How[int] = 0
    """Of random views and flips."""
    background: How[tuple[int, int, int]] = (255, 255, 255)
    """RGB, 0 to 255, that shows through transparent pixels."""
    max_pixels: How[int] = 100_000_000
    """Images whose header announces more pixels are rejected unopened."""
    draft: How[bool] = False
    """Decode large JPEGs at a half, a quarter or an eighth of their size, as long as that is at
    least twice what is encoded: of 12 megapixels in about a third of the time. Pixels differ a
    little, by far less than the model loses, and so do some codes."""
    pixel_range: How[AskedRange] = "auto"
    """What the model was trained on: signed is [-1, 1] (most VQGANs), unit is [0, 1] (aMUSEd).
    The wrong one gives plausible, wrong codes; auto finds out with photos, see vqpipe doctor."""
    dtype: How[DType] = "float32"
    """Arithmetic of the network; the codebook look-up is always float32. tf32 is float32 with
    products of 10-bit mantissas on GPUs that can. All but float32 change some codes; how many is
    measured on the way and stands in the summary."""
    latents: How[AskedVectors | None] = None
    """Vectors to store beside the codes, (channels, rows, columns) in one list: pre is what the
    encoder says, before the look-up, in the column latents; quantized is what the codes stand for,
    which the decoder takes, in the column of that name."""
    latents_dtype: How[VectorDType] = "float16"
    """Type of their numbers, rounded to nearest. bfloat16 is stored as uint16, its bits. An image
    whose numbers are too large for float16, above 65,504, is rejected."""
    drop_codes: How[bool] = False
    """Leave the column of codes out of data/, where --latents has others there. Codes are still
    counted, but cannot be decoded, evaluated or compared."""
    eager: How[bool] = False
    """Have GPUs run the network's kernels one by one, as CPUs always do, instead of fused ones,
    which torch.compile makes in a minute or two and which round a little differently."""
    audit: Speed[float] = AUDIT_SHARE
    """Share of the images, picked by a hash of their keys, and the first of every shard,
    whose codes are decoded again on the way: their PSNR stands in footers and summary and, in
    reduced precision, how many codes are unlike float32's. 0 looks at none."""
    retry_rejected: When[bool] = False
    """Try rejected samples again, after a fix or with another --max-pixels; shards where any of
    them passes now are updated."""
    skip_doctor: Speed[bool] = False
    """Start without looking how the model reconstructs photos; needs --pixel-range."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, "resolution", "max_pixels", "limit", "limit_shards")
        self._check_limit()
        self._check_part()
        parse(self.where)
        images = self.image or ()
        if len(set(images)) < len(images) or self.image == ():
            raise ValueError(f"--image is {' '.join(images) or 'empty'}; name each image once")
        if not 0 <= self.audit <= 1:
            raise ValueError(f"--audit is {self.audit}; it must be in 0 to 1")
        if self.skip_doctor and self.pixel_range == "auto":
            raise ValueError("--skip-doctor needs --pixel-range signed or unit; it is auto")
        self._check_latents()
        if not all(0 <= value <= 255 for value in self.background):
            raise ValueError(f"--background is {self.background}; each must be in 0 to 255")
        check_uris(self, "source", "sink")
        check_files(self, "model", "model_config")

    def _check_latents(self) -> None:
        """Refuses what is said of latents where none are asked for, and columns of their names."""
        if self.latents is None and self.drop_codes:
            raise ValueError("--drop-codes needs --latents: nothing else would be left of an image")
        if self.latents is None and self.latents_dtype != "float16":
            raise ValueError(f"--latents-dtype {self.latents_dtype} needs --latents")
        if self.latents and self.keep:
            from vqpipe.sources.names import check_keep  # noqa: PLC0415 (the room takes pyarrow)

            check_keep(self.keep, ASKED[self.latents])

    def _check_part(self) -> None:
        if parse_part(self.part) and self.retry_rejected:
            raise ConfigError(
                "--retry-rejected goes through all shards that have rejections: leave --part out"
            )

    def _check_limit(self) -> None:
        """Checks that what is limited does not grow."""
        is_limited = self.limit is not None or self.limit_shards is not None
        grows = {"--extend": self.extend, "--replace-changed": self.replace_changed}
        for name, is_asked in grows.items():
            if is_limited and is_asked:
                raise ConfigError(
                    f"{name} takes in more of a source, and --limit and --limit-shards take only "
                    "its beginning: leave one of them out, or encode all of it into another --sink"
                )


@dataclass(frozen=True, kw_only=True)
class Decode(DryRunOptions, PartOptions, GrowthOptions, RunOptions, ModelOptions, Places):
    """Decode Parquet shards of codes back into images.

    The source is a sink of vqpipe encode, which knows its model, or any Parquet files with a column
    of codes, given --model and --grid. Run the same command again to resume. What is read and how
    it is decoded belong to the sink's identity; all other options may change between runs on it.

    Example: vqpipe decode --source codes/ --sink images/
    """

    source: What[str]
    """Where the codes are: a sink of vqpipe encode, or a folder, file or pattern of .parquet."""
    sink: What[str]
    """Where the images go: a folder or s3://bucket/prefix. One run, one sink."""
    model: What[str] = ""
    """The model, as for vqpipe encode; default: that of the source's run. Another one must have the
    same codebook, such as one whose decoder was trained on."""
    format: How[Literal["jpeg", "png", "webp"]] = "jpeg"
    """Of the images; png has no losses."""
    quality: How[int] = 95
    """1 to 100, of jpeg and webp."""
    layout: How[Literal["webdataset", "parquet", "folder"]] = "webdataset"
    """A tar a shard, a Parquet file a shard, or a file an image. data/ lists the images of each
    shard in every layout."""
    codes: What[str] = "codes"
    """Column of the codes: lists of whole numbers, row-major."""
    latents: What[str | None] = None
    """Column of latents, to decode these instead of codes: lists of numbers as (channels, height,
    width), before the look-up in the codebook; in a sink of vqpipe encode, latents or quantized."""
    quantized: What[bool] = False
    """Take --latents of other tools for what codes stand for, and look nothing up. What a sink of
    vqpipe encode has, it knows."""
    grid: What[tuple[int, int] | None] = None
    """Rows and columns of codes in an image; a sink of vqpipe encode knows them."""
    key: What[str | None] = None
    """Column with each image's name; default: key in a sink of vqpipe encode, elsewhere file name
    and row number."""
    keep: What[tuple[str, ...] | None] = None
    """Columns to copy beside the images; default: what the source's run kept. In a tar, text
    becomes a member of that name, unless that is long; everything else goes to .json."""
    pixel_range: How[AskedRange] = "auto"
    """What the model was trained on: signed is [-1, 1], unit is [0, 1]; auto takes that of the
    source's run, or finds out with photos."""
    dtype: How[DType] = "float32"
    """Arithmetic of the network."""
    eager: How[bool] = False
    """Have GPUs run the network's kernels one by one instead of fused ones (torch.compile)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_part(self.part)
        if not 1 <= self.quality <= 100:
            raise ValueError(f"--quality is {self.quality}; it must be in 1 to 100")
        if self.latents is not None and self.codes != "codes":
            raise ValueError("--codes and --latents cannot go together: one of them is decoded")
        if self.quantized and self.latents is None:
            raise ValueError("--quantized needs --latents, the column that it is about")
        if self.grid is not None and min(self.grid) < 1:
            raise ValueError(f"--grid is {self.grid}; both must be at least 1")
        if self.keep:
            from vqpipe.sources.names import check_keep  # noqa: PLC0415 (the room takes pyarrow)

            check_keep(self.keep, RESERVED)
        check_uris(self, "source", "sink")
        check_files(self, "model_config", *(["model"] if self.model else []))

    @property
    def kind(self) -> Literal["codes", "latents"]:
        """What is decoded."""
        return "codes" if self.latents is None else "latents"


@dataclass(frozen=True, kw_only=True)
class Evaluate(RunOptions, ModelOptions, Source):
    """Evaluate codes: decode a sample of them, compare with the images, and write a report.

    Writes evaluation.json and report.html into the source, and the scores of every sample, with
    pictures, below its evaluation/. Run the same command again to resume.

    Example: vqpipe evaluate --source codes/
    """

    source: What[str]
    """The codes: a sink of vqpipe encode."""
    images: What[str | None] = None
    """Where the images are now, if not where the run had them."""
    samples: How[int] = 2048
    """How many samples to look at, picked by a hash of their keys."""
    shards: How[int] = MOST_SHARDS
    """How many shards they are taken from at most, picked by a hash of their names."""
    model: What[str] = ""
    """Where the model is now, if not where the run had it."""
    lpips: How[str | None] = None
    """Weights of LPIPS, to measure it: the state of the lpips package's LPIPS(net="alex") or "vgg",
    saved to a file, local, s3:// or hf://org/name/file."""
    inception: How[str | None] = None
    """Weights of Inception, to measure rFID: pytorch-fid's pt_inception-2015-12-05-6726825d.pth,
    local, s3:// or hf://org/name/file."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, "samples", "shards")
        check_uris(self, "source", "images")
        check_files(self, "model_config", *(["model"] if self.model else []), "lpips", "inception")


@dataclass(frozen=True, kw_only=True)
class Compact(ClusterOptions, Places):
    """Put the rows of a sink into evenly sized Parquet files in a new sink, shuffled if asked to.

    No code changes, nothing is lost and nothing is there twice: counts and code histograms of the
    new sink are held against those of the old one before it is complete. Column shard says which
    shard a row is of. Run the same command again to resume: files that are there are not made
    again. What source and sink hold, how many rows a file has and the order belong to the new
    sink's identity.

    Example: vqpipe compact codes/ codes-flat/ --rows-per-file 100000 --shuffle 0
    """

    source: What[tyro.conf.Positional[str]]
    """The sink whose rows are taken, of vqpipe encode or compact; it stays as it is."""
    sink: What[tyro.conf.Positional[str]]
    """Where the new files go: a folder or s3://bucket/prefix. One run, one sink."""
    rows_per_file: How[int]
    """Rows of every file but the last. All views of a sample stay together, so that it is rounded
    up to a multiple of their number."""
    shuffle: How[int | None] = None
    """Seed, a whole number: samples come in a random order, over all files, which depends on it and
    on their number alone. By default they come as the source has them, shards by name."""
    allow_incomplete: When[bool] = False
    """Take what is there of a source that is not complete, or lost images in damaged shards. What
    it gains later is left out, also by the same command run again."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, "rows_per_file")
        check_uris(self, "source", "sink")
