"""What each command can be told: a job a command, with its options, their defaults and their help.

The module of a command's name (`commands.encode`) does it. Nothing here imports what is heavy, so
that help and mistakes are answered at once.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from vqpipe.codec.config import AUDIT_SHARE, AskedRange, Device, DType
from vqpipe.commands.options import (
    ClusterOptions,
    DefinitionFile,
    GrowthOptions,
    How,
    ModelOptions,
    OneOrMore,
    Places,
    RunOptions,
    Shown,
    Source,
    Speed,
    What,
    When,
    check_files,
    check_least,
    check_uris,
)
from vqpipe.commands.recipes import RecipeName
from vqpipe.conditions.expression import parse
from vqpipe.errors import ConfigError
from vqpipe.hub.names import parse_data_set
from vqpipe.vector_layout import ASKED, AskedVectors, VectorDType

AskedKeys = Literal["auto", "first-dot", "last-dot"]
"""Where keys end, as an operator says it."""
RESERVED = {"key", "row", "image", "file", "bytes", "sha256", "width", "height"}
"""Columns that the output of decode has of its own."""
MOST_SHARDS = 64
"""Shards that samples are taken from; of a tar, everything before the last of them is read."""
COMPARED_SHARDS = 16
"""Shards of which `vqpipe diff` compares codes unless told otherwise."""


@dataclass(frozen=True, kw_only=True)
class Encode(GrowthOptions, RunOptions, ModelOptions, Places):
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
class Decode(GrowthOptions, RunOptions, ModelOptions, Places):
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


@dataclass(frozen=True, kw_only=True)
class Doctor(ModelOptions):
    """Say what a checkpoint is and what it bears: pixel range, code grid, safe precisions.

    Encodes and decodes a few packaged photos on this machine, without Ray. Every vqpipe encode
    begins with a quick form of it. A precision is safe if vqpipe encode takes it on this device and
    the network's numbers stay finite in it; how many codes it changes is another matter, and shown.

    Example: vqpipe doctor vqgan/
    """

    model: tyro.conf.Positional[str]
    """What to examine: see --model of vqpipe encode."""
    resolution: int | None = None
    """Side of the photos, in pixels; what the model takes nearest to 256 unless given."""
    pixel_range: AskedRange = "auto"
    """What to take the model for: signed is [-1, 1], unit is [0, 1]; auto finds out."""
    device: Device = "auto"
    """Where to run; precisions are judged on this device."""
    json: bool = False
    """Print one JSON object instead of tables."""

    def __post_init__(self) -> None:
        if self.resolution is not None and self.resolution < 1:
            raise ValueError(f"--resolution is {self.resolution}; it must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Convert(ModelOptions):
    """Write any checkpoint that vqpipe reads in diffusers' layout.

    The result is config.json and diffusion_pytorch_model.safetensors; tensors keep their dtype.
    Every name, shape and value is checked first. Needs no Ray.

    Example: vqpipe convert logs/vqgan/checkpoints/last.ckpt vqgan/
    """

    model: tyro.conf.Positional[str]
    """A folder (local or s3://) of a diffusers VQModel, a Hugging Face repository (org/name), or
    one file with weights (.ckpt, .pth, .pt, .safetensors, .bin), such as a VQGAN of CompVis."""
    out: tyro.conf.Positional[str]
    """Folder or s3://bucket/prefix to write; another checkpoint there is never overwritten."""


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Say what is in a sink: which run, how far, how fast, what was rejected, can I train on it.

    Takes two listings and a few small objects, and the footers in data/ of a run that is not
    complete yet. Of more than 2,000 objects it reads a share; numbers that are scaled up from it
    begin with "about". Needs no model and no Ray.

    Example: vqpipe inspect codes/
    """

    sink: tyro.conf.Positional[str]
    """Folder or s3://bucket/prefix of a run: of vqpipe encode, decode, evaluate or compact."""
    rejected: bool = False
    """Say why samples were rejected, with the first few of each reason."""
    exact: bool = False
    """Read every footer, a request each, however many there are."""
    json: bool = False
    """Print one JSON object instead of a table."""


@dataclass(frozen=True, kw_only=True)
class Diff:
    """Say how two runs differ: choices, shards, rejections, use of the codebook, codes, metrics.

    A report: the exit code is 0 whether or not they differ. Reads at most 2,000 footers of each,
    and codes of 16 shards unless told otherwise, picked by a hash of their names. Needs no model
    and no Ray.

    Example: vqpipe diff codes/ codes-bf16/
    """

    first: tyro.conf.Positional[str]
    """Folder or s3://bucket/prefix of a run, A."""
    second: tyro.conf.Positional[str]
    """Folder or s3://bucket/prefix of another one, B."""
    shards: int | None = None
    """Most shards to compare the codes of."""
    share: float | None = None
    """Share of the shards to compare the codes of, instead of a number; 1 is all."""
    json: bool = False
    """Print one JSON object instead of tables."""

    def __post_init__(self) -> None:
        if self.shards is not None and self.share is not None:
            raise ValueError("--shards and --share are both given; give one of them")
        if self.shards is not None and self.shards < 1:
            raise ValueError(f"--shards is {self.shards}; it must be at least 1")
        if self.share is not None and not 0 < self.share <= 1:
            raise ValueError(f"--share is {self.share}; it must be above 0 and at most 1")

    def most(self, shards: int) -> int:
        """Returns of how many shards codes are compared, of those that both have."""
        if self.share is not None:
            return max(1, round(self.share * shards))
        return self.shards or COMPARED_SHARDS


@dataclass(frozen=True, kw_only=True)
class Verify(ModelOptions):
    """Read a whole sink back and check every promise that a run makes of it.

    Reads all of data/, rejected/ and left_out/, and believes nothing that an object says of itself:
    rows, keys, codes and histograms are counted again. Needs no Ray, and no model but for --deep.

    Example: vqpipe verify codes/
    """

    sink: tyro.conf.Positional[str]
    """Folder or s3://bucket/prefix that vqpipe encode, decode or compact wrote."""
    deep: bool = False
    """Encode some shards again from their source, on this machine, and compare the codes."""
    share: float = 0.01
    """With --deep: share of the shards, picked by a hash of their names; at least one."""
    model: str = ""
    """With --deep: where the model is now, if not where the run had it."""
    device: Device = "auto"
    """With --deep: where to encode. Another kind of device than the run's rounds differently."""
    json: bool = False
    """Print one JSON object instead of a table."""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"--share is {self.share}; it must be above 0 and at most 1")


ExportFormat = Literal[
    "array_record",
    "emu3",
    "halton",
    "litdata",
    "llamagen",
    "lumina",
    "lumina_mgpt",
    "mds",
    "megatron",
    "npy",
    "rar",
    "webdataset",
]
"""The formats of `vqpipe export`, by name (`export.format.FORMATS`)."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write the codes of a sink in the format that a trainer takes.

    From any store to any other, in processes of this machine, with every row checked as it is read.
    Run the same command again to resume: shards that are done are not read again. Needs no model
    and no Ray.

    Example: vqpipe export codes/ codes-npy/ --to npy
    """

    sink: tyro.conf.Positional[str]
    """Folder or s3://bucket/prefix that vqpipe encode wrote."""
    out: tyro.conf.Positional[str]
    """Folder or s3://bucket/prefix to write to: an empty one, or one that this export began in."""
    to: Annotated[ExportFormat, Shown("FORMAT")]
    """array_record (of Grain), litdata, mds (of mosaicml-streaming), webdataset and npy, one array
    of all codes, are for loaders of any data. emu3, halton, llamagen, lumina (Lumina-DiMOO),
    lumina_mgpt (Lumina-mGPT, 2.0 as well), megatron and rar (RAR and TiTok) are what these train
    on."""
    label: str | None = None
    """Kept column of whole numbers that are labels; label or cls if that is the one there is, but
    of litdata and mds only if it is named: each row has to have one. Of array_record, halton,
    litdata, llamagen, mds, npy, rar, webdataset."""
    caption: str | None = None
    """Kept column of text; txt, caption or text if that is the one there is, but of litdata and mds
    only if it is named: each row has to have one. Of array_record, emu3, litdata, lumina,
    lumina_mgpt, mds, megatron, webdataset."""
    pickle: bool = False
    """Write pickles, which the trainer reads as it is, instead of npz or JSON, for which a line of
    its reader has to be changed. Of emu3, halton, lumina; of lumina_mgpt, whose one list
    of all else gets large."""
    seen_at: str | None = None
    """Path under which the trainer will see what is written, if that is not OUT. Of emu3, lumina,
    lumina_mgpt."""
    set_name: str = "imagenet"
    """Begins the names of the folders. Of llamagen."""
    tokenizer: str | None = None
    """tokenizer.json of Hugging Face's tokenizers, a file or s3:// object: the tokens of an image's
    caption come before its codes; of megatron, without one there is no text. Of
    lumina_mgpt, megatron."""
    offset: int | None = None
    """Id of code 0 among all tokens; 0 if there is no --tokenizer. Of megatron."""
    begin_token: int | None = None
    """Id of a token before the codes of each image, of megatron; of lumina_mgpt, before all."""
    row_token: int | None = None
    """Id of a token behind each row of codes, the last one too. Of megatron."""
    end_token: int | None = None
    """Id of a token behind the codes of each image. Of megatron."""
    eod_token: int | None = None
    """Id of a token at the end of each document, which is a view of an image. Of megatron."""
    rows_per_file: int = 10_000_000
    """Documents of a pair of files, about: a pair has whole shards. Of megatron."""
    workers: int | None = None
    """Processes, each at a shard of its own; by default one for every core."""
    generation: int | None = None
    """Leave out shards that the sink gained after this generation of its plan."""
    allow_incomplete: bool = False
    """Export what is committed of a sink that is not complete."""
    json: bool = False
    """Print one JSON object instead of a table."""

    def __post_init__(self) -> None:
        check_least(self, "workers")
        check_least(self, "generation", least=0)
        check_least(self, "rows_per_file")
        for name in ("offset", "begin_token", "row_token", "end_token", "eod_token"):
            check_least(self, name, least=0)
        check_uris(self, "sink", "out")


@dataclass(frozen=True, kw_only=True)
class Push:
    """Make a data set on the Hugging Face hub of a finished sink.

    Sends data/, what was rejected and left out, plan, run.json, summary and report, which has
    pictures in it; README.md becomes the card. What is there already is not sent again, so that the
    same command goes on where it was stopped. Signs in as `hf auth login` or HF_TOKEN says. Needs
    no Ray and no model.

    Example: vqpipe push codes/ hf://org/name --create --private
    """

    sink: tyro.conf.Positional[str]
    """Folder or s3://bucket/prefix that vqpipe encode wrote."""
    to: tyro.conf.Positional[str]
    """The data set: hf://org/name. One that holds another run, or other files, is refused."""
    create: bool = False
    """Make the data set, or the branch, if it is not there yet; a data set is public unless
    --private is given or its organisation wants it otherwise."""
    private: bool = False
    """Make it private; one that is there and public is refused."""
    revision: str | None = None
    """Branch to send to; main if not given."""
    license: str | None = None
    """Licence to name in the card, such as cc-by-4.0: images and model decide which it can be."""
    allow_incomplete: bool = False
    """Send what is there of a run that is not complete; it gets no _SUCCESS."""

    def __post_init__(self) -> None:
        found = parse_data_set(self.to)
        if found is None:
            raise ConfigError(
                "the second argument names no data set on the Hugging Face hub: give hf://org/name;"
                " credentials belong in HF_TOKEN, not in a URL"
            )
        if found[1] and self.revision and found[1] != self.revision:
            raise ConfigError(f"--revision is {self.revision}, and hf://...@ says {found[1]}")


@dataclass(frozen=True, kw_only=True)
class Submit:
    """Run a command as a job of a Ray cluster, follow its log, and end with its exit code.

    The cluster needs vqpipe installed (infra/Dockerfile) and its own access to source, sink and
    model: paths are the cluster's, and no credentials are sent.

    Example: vqpipe submit encode --address http://head:8265 -- --source s3://bucket/photos
    --sink s3://bucket/codes --model s3://bucket/vqgan
    """

    command: tyro.conf.Positional[Literal["encode", "decode", "evaluate", "compact"]]
    """What to run there."""
    address: str
    """Address of the cluster's dashboard, such as http://head:8265."""
    job: DefinitionFile = None
    """A job definition on this machine, a YAML file: its settings travel as options of the command.
    One on the cluster is an argument: -- --job FILE."""
    arguments: tyro.conf.Suppress[tuple[str, ...]] = ()
    """The command's own arguments: what follows -- on the command line."""

    def __post_init__(self) -> None:
        if "@" in self.address:
            raise ConfigError(
                "--address holds credentials; take them out: RAY_AUTH_TOKEN_PATH names a file with "
                "the cluster's token"
            )


Job = (
    Encode
    | Decode
    | Evaluate
    | Compact
    | Doctor
    | Convert
    | Inspect
    | Diff
    | Verify
    | Export
    | Push
    | Submit
)

JOBS: dict[str, type[Job]] = {
    "encode": Encode,
    "decode": Decode,
    "evaluate": Evaluate,
    "compact": Compact,
    "doctor": Doctor,
    "convert": Convert,
    "inspect": Inspect,
    "diff": Diff,
    "export": Export,
    "push": Push,
    "submit": Submit,
    "verify": Verify,
}
"""The commands by name, as help lists them; each is also the name of the module that runs it."""


def command_of(kind: type[Job]) -> str:
    """Returns the command of a kind of job."""
    return next(name for name, each in JOBS.items() if each is kind)


STAGES = ("encode", "decode", "evaluate", "compact")
"""The commands that run on Ray, can be submitted, and have job definitions."""
