"""Which types the kept members of tars and fields of JSON have, by the first ones of some tars.

They are found once, before a run begins, and stand in its `run.json` from then on.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from vqpipe.errors import ConfigError
from vqpipe.schema import Selection, Shard
from vqpipe.sources import members
from vqpipe.sources.fields import Part, array_of, find, kind_of, parse, parts_of, whole_number
from vqpipe.sources.kinds import common_kind, plain_kind
from vqpipe.storage.ahead import map_ahead

_TARS = 4
_BYTES = 2**26
"""Most bytes of members that are read of a tar (64 MiB)."""


@dataclass
class _Tar:
    """What was seen of one tar."""

    uri: str
    found: list[tuple[str, bytes]] = field(default_factory=list)
    """Extension and content of members to keep."""
    is_whole: bool = False
    """Whether these are all of it."""


def find_types(shards: Sequence[Shard], selection: Selection) -> pa.Schema:
    """Returns the kept columns of tars: text, but for classes and fields of JSON.

    A class that is no whole number in the tars looked at is text; a field that is null in all of
    them is too. Members that cannot be read have no say: each costs its sample later.

    Args:
        shards: All of the source.
        selection: What to keep, and where keys end.

    Raises:
        ConfigError: If no type holds the values of a field, or no document has it.
    """
    parts = parts_of(selection.keep)
    wanted = {part.member for part in parts if part.has_type}
    tars: list[_Tar] = []
    if wanted:
        picked = iter(members.pick_tars(shards))
        tars = list(map_ahead(lambda shard: _look(shard, selection, wanted), picked, _TARS))
    return pa.schema([(part.column, _type_of(part, tars)) for part in parts])


def _look(shard: Shard, selection: Selection, wanted: set[str]) -> _Tar:
    seen, left = _Tar(shard.files[0].uri), _BYTES

    def see(archive: Any, member: Any) -> None:  # noqa: ANN401 (as `members.visit` has them)
        nonlocal left
        extension = members.split_name(member.name, selection.key_until)[1]
        if extension in wanted and member.isfile() and not member.issparse():
            left -= member.size
            if left >= 0:
                seen.found.append((extension, archive.read(member)))

    seen.is_whole = members.visit(shard, selection, see) and left >= 0
    return seen


def _type_of(part: Part, tars: list[_Tar]) -> pa.DataType:
    if part.path:
        return _Field(part).type_in(tars)
    if part.is_number and all(_is_whole(each) for tar in tars for each in _of(part, tar)):
        return pa.int64()
    return pa.string()


def _of(part: Part, tar: _Tar) -> list[bytes]:
    return [data for extension, data in tar.found if extension == part.member]


def _is_whole(data: bytes) -> bool:
    try:
        whole_number(data)
    except ValueError:
        return False
    return True


@dataclass
class _Field:
    """One field of JSON, as some tars have it."""

    part: Part
    common: pa.DataType = field(default_factory=pa.null)
    values: list[tuple[Any, pa.DataType, str]] = field(default_factory=list)
    """Each with its own type, and the tar that it is in."""
    names: set[str] = field(default_factory=set)
    """Fields that stand where this one is looked for."""
    documents: int = 0

    def type_in(self, tars: list[_Tar]) -> pa.DataType:
        """Returns the type that holds all values in some tars."""
        for tar in tars:
            for data in _of(self.part, tar):
                self._read(data, tar.uri)
        if self.part.path[-1] not in self.names:
            self._check_missing(is_whole=all(tar.is_whole for tar in tars))
        kind = plain_kind(pa.list_(self.common), pa.string()).value_type
        for value, own, uri in self.values:
            if _fits(value, plain_kind(own)) and not _fits(value, kind):
                self._refuse(own, uri)
        return kind

    def _read(self, data: bytes, uri: str) -> None:
        try:
            document = parse(data)
            around = find(document, self.part.path[:-1]) or {}
            value = find(document, self.part.path)
            own = kind_of(value)
        except (ValueError, RecursionError):
            return
        self.documents += 1
        self.names.update(around)
        if own is None:
            raise ConfigError(
                f"--keep {self.part.asked} holds lists in {uri} of values that have no type in "
                f"common: {self._cure}"
            )
        common = common_kind(self.common, own)
        if common is None:
            self._refuse(own, uri)
        self.common = common
        self.values.append((value, own, uri))

    def _refuse(self, kind: pa.DataType, uri: str) -> None:
        """Refuses a value's type, naming one that does not go with it."""
        others = [(own, where) for _, own, where in self.values if own != kind]
        apart = (each for each in others if common_kind(each[0], kind) is None)
        told = (each for each in others if not pa.types.is_null(each[0]))
        other, where = next(apart, None) or next(told)
        raise ConfigError(
            f"--keep {self.part.asked} is {other} in {where}, and {kind} in {uri}; no type holds "
            f"the values of both just as they are: {self._cure}"
        )

    @property
    def _cure(self) -> str:
        return (
            f"keep the text of the whole member with --keep {self.part.member}, or write the tars "
            "anew"
        )

    def _check_missing(self, *, is_whole: bool) -> None:
        """Refuses a field that no document has for sure, or that nearly has another's name."""
        near = difflib.get_close_matches(self.part.path[-1], self.names, 1)
        if self.documents and (is_whole or near):
            there = ", ".join(sorted(self.names)[:_SHOWN]) or "none"
            meant = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(
                f"--keep {self.part.asked} names a field which none of the {self.documents:,} "
                f"documents has that were looked at; there are {there}{meant}"
            )


_SHOWN = 20


def _fits(value: object, kind: pa.DataType) -> bool:
    try:
        array_of(value, kind)
    except ValueError:
        return False
    return True
