"""Commands that look at a sink or pass it on, as plain data: one field an option."""

import re
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from vqpipe.codec.config import Device
from vqpipe.commands.options import (
    ModelOptions,
    Shown,
    check_least,
    check_uris,
)
from vqpipe.errors import ConfigError
from vqpipe.hub.names import is_repository, parse_data_set

COMPARED_SHARDS = 16
"""Shards of which `vqpipe diff` compares codes unless told otherwise."""
_PLAIN = re.compile(r"[\w:/.-]+")
"""What has no credentials in it."""


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
                f"{self._name_wrong()} names no data set on the Hugging Face hub: give "
                f"{self._guess()}; credentials belong in HF_TOKEN, not in a URL"
            )
        if found[1] and self.revision and found[1] != self.revision:
            raise ConfigError(f"--revision is {self.revision}, and hf://...@ says {found[1]}")

    def _name_wrong(self) -> str:
        """Returns what was given in place of a data set, unless a password may be in it."""
        return self.to if _PLAIN.fullmatch(self.to) else "the second argument"

    def _guess(self) -> str:
        """Returns what may be meant by it."""
        path = re.sub(r"^[a-z]+://([^/]+\.[a-z]+/)?", "", self.to).removeprefix("datasets/")
        return f"hf://{path}" if is_repository(path) else "hf://org/name"
