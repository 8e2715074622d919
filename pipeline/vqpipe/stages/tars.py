"""Tars that are the same, byte for byte, for the same members."""

import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from vqpipe.sink.filenames import safe_name
from vqpipe.texts import documents, is_text


def write_tar(members: Iterable[tuple[str, bytes]]) -> bytes:
    """Returns a tar of members in the order given, without times or owners.

    The format is POSIX.1-1988 (ustar), and GNU's for names that it has no room for.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


_MAX_ENDING_BYTES = 40
"""Of a member of a tar that is called as a column is: its name begins with up to
`filenames.MAX_BYTES` of the key's, and file systems take 255 in all."""


def texts_of(kept: pa.Table, taken: str) -> Iterator[list[tuple[str, str]]]:
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
