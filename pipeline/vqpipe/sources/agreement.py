"""What all Parquet files of a source have in common: the columns to keep, and their types.

Footers are small, so that those of all files are read before a run is planned. A file that does not
go with the others is then named, and nothing has been begun that would have to be undone.
"""

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from vqpipe.errors import ConfigError, MismatchError
from vqpipe.schema import File
from vqpipe.sources.columns import find_schema, no_footer
from vqpipe.sources.features import FEATURES, describe, features_of
from vqpipe.sources.kinds import common_kind, plain_kind
from vqpipe.storage.ahead import map_ahead

_READERS = 32
_NAMED = 3
_MAX_FEATURES_BYTES = 2**20  # they stand in every object of the sink

Check = Callable[[str, pa.Schema], None]
"""Raises a `ConfigError` if a file, named by its URI, lacks a selected column."""


@dataclass(frozen=True)
class Begun:
    """What a run keeps that has begun."""

    kept: pa.Schema
    files: Container[File]
    """Which files it was held against."""


def kept_by_all(
    files: Iterable[File],
    keep: Sequence[str],
    check: Check,
    begun: Begun | None = None,
    find: Callable[[File], pa.Schema | None] = find_schema,
) -> pa.Schema:
    """Returns kept columns with the types that hold the values of all files.

    Files without a readable footer have no say; reading them makes rejections of them.

    Args:
        files: All of the source.
        keep: The columns.
        check: What else a file has to have.
        begun: The run, if it has begun; only files that are new are looked at then.
        find: Returns the columns of a file; None if they cannot be read.

    Raises:
        ConfigError: If files lack a column, or have types that no type holds the values of, or if
            none can be read.
        MismatchError: If a new file does not go with the types of a run.
    """
    known: Container[File] = begun.files if begun else frozenset()
    files = list(dict.fromkeys(each for each in files if each not in known))
    found = _Agreement(tuple(keep), check, begun)
    for file, schema in zip(files, map_ahead(find, files, _READERS), strict=True):
        if schema is not None:
            found.add(file.uri, schema)
    return found.schema(files)


@dataclass
class _Agreement:
    keep: tuple[str, ...]
    check: Check
    begun: Begun | None
    seen: dict[str, dict[pa.DataType, str]] = field(default_factory=dict)
    """Types of each column, and the first file that has it so."""
    common: dict[str, pa.DataType] = field(default_factory=dict)
    features: dict[str, tuple[Any, str]] = field(default_factory=dict)
    """What `datasets` says of each column, and the first file that does."""
    described: set[bytes] = field(default_factory=set)
    good: int = 0
    strangers: int = 0
    named: list[str] = field(default_factory=list)

    def add(self, uri: str, schema: pa.Schema) -> None:
        """Takes in a file."""
        try:
            self.check(uri, schema)
        except ConfigError as error:
            self.strangers += 1
            self.named += [str(error)] if len(self.named) < _NAMED else []
            return
        self.good += 1
        for name in self.keep:
            kind = schema.field(name).type
            if kind not in self.seen.setdefault(name, {}):
                self._unify(name, kind, uri)
                self.seen[name][kind] = uri
        self._describe(uri, (schema.metadata or {}).get(FEATURES, b""))

    def _unify(self, name: str, kind: pa.DataType, uri: str) -> None:
        if self.begun:
            self._check_begun(name, kind, uri)
        before = self.common.get(name)
        found = plain_kind(kind) if before is None else common_kind(before, kind)
        if found is None:
            others = self.seen[name].items()
            pair = next((each for each in others if common_kind(each[0], kind) is None), None)
            other, where = pair or next(iter(others))
            raise ConfigError(
                f"column {name!r} is {other} in {where}, and {kind} in {uri}; no type holds the "
                "values of both: leave it out of --keep, or write one of the two files anew"
            )
        self.common[name] = found

    def _check_begun(self, name: str, kind: pa.DataType, uri: str) -> None:
        assert self.begun is not None
        began = self.begun.kept.field(name).type
        if common_kind(began, kind) != began:
            raise MismatchError(
                f"the run keeps column {name!r} as {began}, and in {uri}, which is new, it is "
                f"{kind}: write that file anew, leave it out, or use another --sink"
            )

    def _describe(self, uri: str, text: bytes) -> None:
        """Takes in what `datasets` says of kept columns."""
        if text in self.described or len(text) > _MAX_FEATURES_BYTES:
            return
        self.described.add(text)
        for name, said in features_of(text).items():
            if name not in self.keep:
                continue
            before, where = self.features.setdefault(name, (said, uri))
            if _classes(before) != _classes(said):
                raise ConfigError(
                    f"the classes of column {name!r} have other names in {uri} than in {where}, so "
                    "that its numbers would not go together: encode them into two sinks, or leave "
                    "it out of --keep"
                )

    def schema(self, files: Sequence[File]) -> pa.Schema:
        """Returns the kept columns."""
        if self.strangers:
            raise ConfigError(self._describe_strangers(len(files)))
        if self.begun:
            return self.begun.kept
        if not self.good:
            raise ConfigError(no_footer(files))
        features = {name: said for name, (said, _) in self.features.items()}
        # Arrow 26 damages lists of nulls when it casts them, even to the type that they have
        kinds = [(name, plain_kind(self.common[name], pa.string())) for name in self.keep]
        return pa.schema(kinds, metadata=describe(features))

    def _describe_strangers(self, files: int) -> str:
        if not (self.good or self.begun):
            return self.named[0]
        more = f"\n  and {self.strangers - _NAMED:,} more" if self.strangers > _NAMED else ""
        return (
            f"{self.strangers:,} of {files:,} Parquet file(s) do not go with the others:\n  "
            + "\n  ".join(self.named)
            + f"{more}\nTake them out of the source, or leave them out by a pattern, such as "
            "--source 'folder/train-*.parquet'. Nothing was begun."
        )


def _classes(said: object) -> object:
    return said.get("names") if isinstance(said, dict) else None
