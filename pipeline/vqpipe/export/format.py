"""What a format does with rows: the protocol that each one follows, and the table of them.

A format is a frozen dataclass of plain data, and its fields are options of `vqpipe export`. To add
one: a module with its class, a line in `FORMATS`, its name at `to` in `commands.sink_jobs.Export`,
and there its options, if it has any that are new.
"""

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self, cast

import pyarrow as pa

from vqpipe.export.subject import Subject


@dataclass(frozen=True)
class Made:
    """What has been written."""

    rows: int = 0
    """Rows of the sink that are in it."""
    files: int = 0
    """Of these, pieces of joined files are none: what joins them counts the file."""
    bytes: int = 0

    def __add__(self, other: "Made") -> "Made":
        return Made(self.rows + other.rows, self.files + other.files, self.bytes + other.bytes)


class Format(Protocol):
    """One way in which a trainer wants its codes; fields are what can be chosen of it.

    Every file is a function of the subject and these fields alone: the same bytes each time, in
    whatever process. Files are written by `storage`, one step each. Everything may be done again,
    after it was killed or at the same time.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def settle(self, subject: Subject) -> Self:
        """Returns it with the columns named that it takes labels and captions from.

        All else is called on what this returns, and nothing has been written before.

        Raises:
            ConfigError: It cannot; says what to do instead.
        """

    def columns(self, subject: Subject) -> list[str]:
        """Returns which columns of rows it reads."""

    def write_shard(
        self, subject: Subject, index: int, groups: Iterator[pa.Table], out: str
    ) -> Made:
        """Writes all that is made of one shard.

        Args:
            subject: What is exported.
            index: Which shard.
            groups: Its rows in order of row and view, whole samples, in tables that memory has room
                for; none or empty ones of a shard without. All has been checked before the first
                is given, so that files may be written on the way.
            out: Where to: files below it, or pieces (`export.pieces`) of those that are joined.

        Returns:
            What was written; `rows` are those that were taken from `groups`.
        """

    def finish(self, subject: Subject, out: str) -> Made:
        """Writes what is about all shards, once all of these are written; pieces stay there.

        Returns:
            Files and bytes that were written here or by an earlier attempt; no rows.
        """

    def read_with(self, subject: Subject, out: str) -> str:
        """Returns in a line how a trainer reads what was written."""


FORMATS = {
    "array_record": "vqpipe.export.array_record:ArrayRecord",
    "emu3": "vqpipe.export.emu3:Emu3",
    "halton": "vqpipe.export.halton:Halton",
    "litdata": "vqpipe.export.litdata:LitData",
    "llamagen": "vqpipe.export.llamagen:LlamaGen",
    "lumina": "vqpipe.export.lumina:Lumina",
    "lumina_mgpt": "vqpipe.export.lumina_mgpt:LuminaMgpt",
    "mds": "vqpipe.export.mds:Mds",
    "megatron": "vqpipe.export.megatron:Megatron",
    "npy": "vqpipe.export.npy:Npy",
    "rar": "vqpipe.export.rar:Rar",
    "webdataset": "vqpipe.export.webdataset:WebDataset",
}
"""By the name that `--to` takes: module and class."""


def load_format(name: str) -> type[Format]:
    """Returns the class of a format; its module is imported now and not before."""
    module, _, kind = FORMATS[name].partition(":")
    return cast(type[Format], getattr(importlib.import_module(module), kind))
