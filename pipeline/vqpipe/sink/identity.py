"""What `run.json` says of a run, stage by stage: its identity, and what else is to be known of it.

The fields of a class stand in the order in which they are written. One without a default is in the
`run.json` of every run of its stage; one with a default may be missing there. What another version
of vqpipe has written besides is kept as it is: it counts where two identities are held against each
other, and in the fingerprint.

What is read is checked as far as its JSON type (`find_wrong`): words and numbers in it are those
that vqpipe wrote.
"""

import json
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from types import UnionType
from typing import Any, Literal, Self, Union, get_args, get_origin

from vqpipe.code_layout import CodeLayout
from vqpipe.schema import KeyUntil
from vqpipe.vector_layout import AskedVectors, VectorDType, VectorLayout, read_document

# As `codec.config` has them, of which a sink knows nothing: the type checker compares the two
# where one becomes the other.
_DType = Literal["float32", "tf32", "bfloat16", "float16"]
_PixelRange = Literal["signed", "unit"]


_LATER = "later"
"""Marks a field that came after version 0.1.0: it is left out where it has its default, so that
runs which do without it have the fingerprints that they had."""


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A part of `run.json`, read and written field by field."""

    said: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """What the JSON object was that this was read from, if it is not what would be written of it:
    it has fields that are not known here, lacks some, or has them in another order."""

    @classmethod
    def find_wrong(cls, said: Mapping[str, Any]) -> list[str]:
        """Returns which fields a JSON object lacks, or has of a wrong type."""
        return [
            each.name
            for each in _written(cls)
            if each.default is MISSING and not _is_of(each.type, said.get(each.name, MISSING))
        ]

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> Self:
        """Returns what a JSON object says in which nothing is wrong (`find_wrong`)."""
        names = [each.name for each in _written(cls) if each.init and each.name in said]
        found = cls(**{name: _frozen(said[name]) for name in names})
        is_all = json.dumps(found.document()) == json.dumps(said)
        return found if is_all else replace(found, said=said)

    def document(self) -> dict[str, Any]:
        """Returns the JSON object: of what was read and not replaced, just what it was."""
        own = {each: getattr(self, each.name) for each in _written(type(self))}
        known = {
            each.name: _thawed(value)
            for each, value in own.items()
            if value != each.default or self._says(each)
        }
        return {**self.said, **known}

    def _says(self, each: Field[Any]) -> bool:
        """Tells whether a field stands in the JSON object though it has its default."""
        return each.name in self.said if self.said else not each.metadata.get(_LATER)


def _written(part: type[_Part]) -> list[Field[Any]]:
    """Returns the fields that a part has in JSON, in their order there."""
    return [each for each in fields(part) if each.name != "said"]


def _frozen(value: Any) -> Any:  # noqa: ANN401 - fields have different types
    return tuple(value) if isinstance(value, list) else value


def _thawed(value: Any) -> Any:  # noqa: ANN401 - fields have different types
    return list(value) if isinstance(value, tuple) else value


_JSON_TYPES: dict[object, type] = {tuple: list, Mapping: dict, Literal: str}


def _is_of(kind: object, value: object) -> bool:
    """Tells whether a value from JSON is of the type of a field, as far as JSON tells types."""
    origin = get_origin(kind)
    if origin in {Union, UnionType}:
        return any(_is_of(each, value) for each in get_args(kind))
    found = _JSON_TYPES.get(origin, kind)
    assert isinstance(found, type), f"no JSON type stands for {kind}"
    return isinstance(value, found)


class Identity(_Part):
    """Every choice that changes results, in any stage; together with the plan, the fingerprint."""

    stage: str
    """The command, as the table of stages has it (`sink.run`)."""
    source: str
    """URI of what was read, as normalised by `storage`."""
    model_sha256: str
    """Digest of the weights (`codec.weights`), in hexadecimal."""


class Facts(_Part):
    """What a reader of the results needs, and with what they were made, in any stage."""

    created: str
    """When the run began, UTC: `2026-01-02T03:04:05Z`."""
    versions: Mapping[str, str]
    """Versions of Python and of the packages that may change a result, by name."""


@dataclass(frozen=True, kw_only=True)
class EncodeIdentity(Identity):
    """What the codes of `vqpipe encode` depend on."""

    stage: Literal["encode"] = field(default="encode", init=False)
    source: str
    """URI of the images: a folder, a file or a pattern."""
    format: str
    """`webdataset`, `parquet` or `folder`."""
    image: str | tuple[str, ...] | None
    """Column or extension of the images; None where every image is taken. Several, or one column of
    lists, where a sample may have several images, of which each is a row."""
    key: str | None
    """Column of the keys; None where they are made of names and row numbers."""
    key_until: KeyUntil | None
    """Where a key ends in the name of a tar's member; None where the source has no tars."""
    label: Literal["folder"] | None = field(default=None, metadata={_LATER: True})
    """From where classes are taken that are kept as numbers: the folders of images."""
    keep: tuple[str, ...]
    """Columns, extensions or fields that are copied beside the codes, in order."""
    where: str | None = field(default=None, metadata={_LATER: True})
    """What an image had to meet (`conditions`), else it was left out; None where all were taken."""
    limit: int | None = field(default=None, metadata={_LATER: True})
    """How many samples were taken, the first ones; None is all."""
    limit_shards: int | None = field(default=None, metadata={_LATER: True})
    """How many shards were taken, the first ones in order of name; None is all."""
    resolution: int
    """Pixels along a side of the view that is encoded, from 1."""
    resample: str
    """Filter of the resize: `bicubic` or `lanczos`."""
    background: tuple[int, int, int]
    """RGB, 0..255, under transparent pixels."""
    max_pixels: int
    """Images of more pixels, by their header, were rejected unopened; from 1."""
    draft: bool = field(default=False, metadata={_LATER: True})
    """Whether large JPEGs were decoded at a part of their size."""
    resize: str = field(default="one-step", metadata={_LATER: True})
    """How views are made of an image (`images.frame`)."""
    views: tuple[str, ...] = field(default=("center",), metadata={_LATER: True})
    """Kinds of views (`images.crops`), in order."""
    flip: str = field(default="none", metadata={_LATER: True})
    """`none`, `both` or `random`."""
    seed: int = field(default=0, metadata={_LATER: True})
    """Of what is drawn; 0 where nothing is."""
    shapes: tuple[str, ...] = field(default=(), metadata={_LATER: True})
    """Width x height of the views that there may be; none where all are squares of `resolution`."""
    inside: bool = field(default=False, metadata={_LATER: True})
    """Whether a view is the whole image, and of the shape nearest to its proportions."""
    crop_area: tuple[float, ...] = field(default=(), metadata={_LATER: True})
    """Least and most of the image's area of views drawn at random; none where none are."""
    crop_ratio: tuple[float, ...] = field(default=(), metadata={_LATER: True})
    """Least and most of width by height of these."""
    dtype: _DType
    """Arithmetic of the network."""
    pixel_range: _PixelRange
    """What the network was trained on: [-1, 1] or [0, 1]."""
    latents: AskedVectors | None = field(default=None, metadata={_LATER: True})
    """Which vectors stand beside the codes."""
    latents_dtype: VectorDType | None = field(default=None, metadata={_LATER: True})
    """Type to which they were rounded; None where there are none."""
    drop_codes: bool = field(default=False, metadata={_LATER: True})
    """Whether codes were left out of `data/`."""
    eager: bool
    """Whether a GPU runs the network's kernels one by one."""
    model_sha256: str
    model_config: Mapping[str, Any] | None = None
    """Architecture of the model, as diffusers names it."""

    @property
    def has_several_images(self) -> bool:
        """Whether a sample may have several images, which the kept column `image` tells apart."""
        return isinstance(self.image, tuple)

    @property
    def resizing(self) -> str:
        """How images became views, in words."""
        parts = [
            self.resample,
            *([self.resize] if self.resize != "one-step" else []),
            *(["large JPEGs drafted"] if self.draft else []),
        ]
        return ", ".join(parts)

    @property
    def sizing(self) -> str:
        """How large views are, in words."""
        if not self.shapes:
            return f"{self.resolution} px"
        first, last = self.shapes[0], self.shapes[-1]
        several = f"{len(self.shapes):,} shapes, {first} to {last} px"
        return several if len(self.shapes) > 1 else f"{first} px"

    @property
    def viewing(self) -> str:
        """Which views there are of an image, in words."""
        drawn = f", seed {self.seed}" if self.seed else ""
        flips = {"none": "", "both": ", each flipped too", "random": ", flipped by lot"}
        return f"{' + '.join(self.views)}{flips.get(self.flip, '')}{drawn}"


@dataclass(frozen=True, kw_only=True)
class EncodeFacts(Facts):
    """What a reader of codes needs, and with what they were made."""

    layout: Mapping[str, Any]
    """How the codes of an image lie in their list (`code_layout`)."""
    codebook_size: int
    """Entries of the codebook: codes are from 0 to below it."""
    codebook_sha256: str
    """Digest of the codebook alone: models that share it give codes the same meaning."""
    views: int = field(default=1, metadata={_LATER: True})
    """Of each image, a row each."""
    downsample_factor: int | None = None
    """Pixels per code along a side."""
    model: str
    """Where the weights were: a URI, or a repository on the hub."""
    model_commit: str | None = None
    """Commit of a repository on the hub."""
    model_options: Mapping[str, Any]
    """Arguments of `codec.weights.Weights.load` that load the same weights again."""
    kept: Mapping[str, str]
    """Kept columns: Arrow's names of their types, by name, in the order of `data/`."""
    kept_schema: str | None = None
    """The same as Arrow has it: base64 of a serialised schema. It may name extension types, whose
    code must not run: `sources.parquet_footer.parse_schema` reads it."""
    keep_all: bool = field(default=False, metadata={_LATER: True})
    """Whether what is kept is all that there was when the run began."""
    classes: tuple[str, ...] | None = field(default=None, metadata={_LATER: True})
    """Names of the classes of `label`, by their numbers."""
    created: str
    versions: Mapping[str, str]
    where_schema: str | None = field(default=None, metadata={_LATER: True})
    """Columns that `where` asks for and that are not kept, packed as `kept_schema`."""
    limit_last: tuple[str, int] | None = field(default=None, metadata={_LATER: True})
    """Of `limit`: the shard that is cut, and how many of its samples were taken."""
    doctor: Mapping[str, Any] | None = None
    """What `codec.doctor.check_start` found out about the model; None if nobody looked."""
    model_family: Mapping[str, Any] | None = field(default=None, metadata={_LATER: True})
    """Of which family of checkpoints the weights were, and what was done to them
    (`tokenizers.families`); None of a diffusers model."""
    latents: Mapping[str, Any] | None = field(default=None, metadata={_LATER: True})
    """What columns of vectors hold (`vector_layout`), by name; None where there are none."""

    @property
    def vectors(self) -> tuple[VectorLayout, ...]:
        """What columns of vectors there are, in order."""
        return read_document(self.latents)

    @property
    def codes(self) -> CodeLayout:
        """How the codes of an image lie in their list."""
        return CodeLayout.read(self.layout)

    @property
    def unit(self) -> str:
        """What a row is about, in words."""
        return "a view" if self.views > 1 else "an image"


@dataclass(frozen=True, kw_only=True)
class DecodeIdentity(Identity):
    """What the images of `vqpipe decode` depend on."""

    stage: Literal["decode"] = field(default="decode", init=False)
    source: str
    """URI of the codes: a sink of `vqpipe encode`, or Parquet files."""
    codes: str | None = None
    """Fingerprint of the run that made the codes; None for codes of another tool."""
    kind: str
    """`codes`, `latents` before the look-up in the codebook, or `quantized` behind it."""
    column: str | None = None
    """Column that was decoded."""
    parts: tuple[str, ...] = field(default=(), metadata={_LATER: True})
    """Columns whose values are parts of the keys: rows of the codes that have one key."""
    key: str | None = None
    """Column of the keys; None where they are made of file names and row numbers."""
    keep: tuple[str, ...] = ()
    """Columns that are copied beside the images, in order."""
    code_layout: Mapping[str, Any] | None = None
    """How the codes of an image lie in their list, as in `EncodeFacts`."""
    format: str
    """`jpeg`, `png` or `webp`."""
    quality: int | None = None
    """1 to 100; None for png, which has no losses."""
    layout: str
    """`webdataset`, `parquet` or `folder`."""
    dtype: _DType
    """Arithmetic of the network."""
    pixel_range: _PixelRange
    """What the network was trained on: [-1, 1] or [0, 1]."""
    eager: bool | None = None
    """Whether a GPU runs the network's kernels one by one."""
    model_sha256: str


@dataclass(frozen=True, kw_only=True)
class DecodeFacts(Facts):
    """What a reader of decoded images needs, and with what they were made."""

    size: tuple[int, int] | None
    """Height and width of every image, in pixels; None where they differ."""
    model: str
    """Where the weights were: a URI, or a repository on the hub."""
    model_commit: str | None = None
    """Commit of a repository on the hub."""
    model_options: Mapping[str, Any] | None = None
    """As in `EncodeFacts`; None where they are those of the run that made the codes."""
    kept: Mapping[str, str]
    """As in `EncodeFacts`."""
    kept_schema: str | None = None
    """As in `EncodeFacts`."""
    created: str
    versions: Mapping[str, str]
    doctor: Mapping[str, Any] | None = None
    """As in `EncodeFacts`."""


@dataclass(frozen=True, kw_only=True)
class EvaluateIdentity(Identity):
    """What the scores of `vqpipe evaluate` depend on."""

    stage: Literal["evaluate"] = field(default="evaluate", init=False)
    source: str
    """URI of the sink of codes."""
    codes: str
    """Fingerprint of the run that made them."""
    samples: int | None = None
    """Most samples that were looked at, from 1."""
    shards: int | None = None
    """Most shards that they were taken from, from 1."""
    picked: str | None = None
    """Digest of how many samples of which objects were taken."""
    model_sha256: str
    lpips: str | None = None
    """Digest of LPIPS' weights; None if it was not measured."""
    inception: str | None = None
    """Digest of Inception's weights; None if rFID was not measured."""


@dataclass(frozen=True, kw_only=True)
class EvaluateFacts(Facts):
    """What a reader of scores needs, and with what they were made."""

    picture_px: int
    """Pixels along a side of the pictures in `data/`."""
    has_views: bool = field(default=False, metadata={_LATER: True})
    """Whether rows say which view they are of, and how many codes it has."""
    created: str
    versions: Mapping[str, str]
    networks: Mapping[str, str | None]
    """Where the weights of `lpips` and `inception` were; None of one that was not at hand."""


@dataclass(frozen=True, kw_only=True)
class CompactIdentity(Identity):
    """What the files of `vqpipe compact` depend on."""

    stage: Literal["compact"] = field(default="compact", init=False)
    source: str
    """URI of the sink whose rows they hold."""
    codes: str
    """Fingerprint of its run."""
    snapshot: str
    """Digest of which objects of it there were, and what they held (`sink.snapshot`)."""
    rows_per_file: int
    """Rows of every file but the last, whole samples; from 1."""
    shuffle: int | None
    """Seed of the order of samples (`permutation`); None is that of shards by name, then rows."""
    encode: Mapping[str, Any]
    """Identity of the run of `vqpipe encode` that made the codes."""
    model_sha256: str

    @classmethod
    def find_wrong(cls, said: Mapping[str, Any]) -> list[str]:
        """Returns which fields a JSON object lacks, or has of a wrong type, those inside too."""
        inner = said.get("encode")
        wrong = EncodeIdentity.find_wrong(inner) if isinstance(inner, Mapping) else []
        return [*super().find_wrong(said), *(f"encode.{name}" for name in wrong)]

    @property
    def encoding(self) -> EncodeIdentity:
        """How the codes were made."""
        return EncodeIdentity.read(self.encode)

    @property
    def drop_codes(self) -> bool:
        """Whether codes were left out of `data/`."""
        return self.encoding.drop_codes

    @property
    def has_several_images(self) -> bool:
        """As in `EncodeIdentity`."""
        return self.encoding.has_several_images


@dataclass(frozen=True, kw_only=True)
class CompactFacts(EncodeFacts):
    """What a reader of codes needs, as the run that made them has it, and where they were."""

    shard_column: str = "shard"
    """Column with the name of the shard that a row is of: `row` is its place there."""
    source_run: Mapping[str, Any]
    """Of the run whose rows these are: its fingerprint, when it began, and with what versions."""
    source_totals: Mapping[str, Any]
    """What the objects of the snapshot add up to, as a summary has it: what was rejected or left
    out, and what an audit found, is told here alone."""
    source_histogram: str
    """SHA-256 of how often they have each code, little-endian int64 by code."""
