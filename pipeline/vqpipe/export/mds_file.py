"""A file of MDS, the format of mosaicml-streaming: samples of columns, each found by its place.

    samples         uint32, n
    places          uint32, n + 1: where in the file each sample begins, and where the last one ends
    columns         JSON: names, encodings and sizes
    sample by sample: sizes, uint32, of those columns whose values differ in size; all values

Columns are in order of name. All numbers are little-endian.

Sources: https://github.com/mosaicml/streaming/blob/6b768e6fe8a0767d2facc8193f4aa4d961fee3b3/streaming/base/format/mds/writer.py
and https://github.com/mosaicml/streaming/blob/df799fd711690bc68c086b61e1ee1dfbc52c7e9b/streaming/base/format/mds/encodings.py
"""

import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vqpipe.export.records import Codes

SIZE_LIMIT = 1 << 26
"""Bytes of a file at most, but for a single sample; mosaicml-streaming's own default."""
_WORD = 4
"""Bytes of a place or of a size."""
_VERSION = 2


@dataclass(frozen=True)
class Column:
    """One column."""

    name: str
    encoding: str
    """As mosaicml-streaming names it."""
    size: int | None
    """Bytes of a value; None where they differ."""


@dataclass(frozen=True)
class MdsShape:
    """What all files of a dataset have in common."""

    columns: tuple[Column, ...]
    """In order of name."""

    def config(self) -> dict[str, Any]:
        """Returns what files and the index say of it."""
        return {
            "version": _VERSION,
            "format": "mds",
            "compression": None,
            "hashes": [],
            "size_limit": SIZE_LIMIT,
            "column_names": [each.name for each in self.columns],
            "column_encodings": [each.encoding for each in self.columns],
            "column_sizes": [each.size for each in self.columns],
        }

    def _head(self) -> bytes:
        return json.dumps(self.config(), sort_keys=True).encode()

    def describe(self, basename: str, size: int, samples: int) -> dict[str, Any]:
        """Returns what the index says of a file.

        Args:
            basename: Where it is, below the index.
            size: Its bytes.
            samples: How many it has.
        """
        raw = {"basename": basename, "bytes": size, "hashes": {}}
        return {"samples": samples, "raw_data": raw, "zip_data": None, **self.config()}

    def pack(self, values: Mapping[str, bytes]) -> bytes:
        """Returns a sample of values by name."""
        sizes = [len(values[each.name]) for each in self.columns if each.size is None]
        head = struct.pack(f"<{len(sizes)}I", *sizes)
        return head + b"".join(values[each.name] for each in self.columns)

    def split(self, samples: Iterable[bytes]) -> Iterator[list[bytes]]:
        """Yields the samples of each file, as many as it may hold."""
        empty = 2 * _WORD + len(self._head())
        group: list[bytes] = []
        size = empty
        for sample in samples:
            if group and size + len(sample) + _WORD > SIZE_LIMIT:
                yield group
                group, size = [], empty
            group.append(sample)
            size += len(sample) + _WORD
        if group:
            yield group

    def file(self, samples: list[bytes]) -> bytes:
        """Returns the file of some samples."""
        head = self._head()
        first = _WORD * (len(samples) + 2) + len(head)
        places = np.cumsum([first, *map(len, samples)]).astype("<u4")
        return b"".join([struct.pack("<I", len(samples)), places.tobytes(), head, *samples])


def pack_array(codes: Codes, *, has_shape: bool) -> bytes:
    """Returns an array of a type that its column knows.

    Args:
        codes: Of any shape.
        has_shape: Whether the column knows the shape as well; if not, it stands before the numbers:
            a byte with the number of sides times 4, and of what type these are, then the sides.
    """
    data = codes.astype(codes.dtype.newbyteorder("<")).tobytes()
    if has_shape:
        return data
    kind = max(codes.shape).bit_length() > 8
    sides = np.asarray(codes.shape, "<u2" if kind else "u1")
    return bytes([codes.ndim << 2 | kind]) + sides.tobytes() + data
