"""Digests of values, by their canonical JSON."""

import hashlib
import json

import pyarrow as pa

_ROWS = 2**16
"""Of a column that are in memory as Python's numbers and texts at a time."""


def digest_of_lists(columns: list[pa.ChunkedArray]) -> str:
    """Returns `digest` of columns as lists, of which few rows are in memory at a time."""
    sha256 = hashlib.sha256()
    for number, column in enumerate(columns):
        sha256.update(b",[" if number else b"[[")
        for first in range(0, len(column), _ROWS):
            text = canonical(column.slice(first, _ROWS).to_pylist())
            sha256.update((text[1:-1] if first == 0 else "," + text[1:-1]).encode())
        sha256.update(b"]")
    sha256.update(b"]")
    return sha256.hexdigest()


def canonical(value: object) -> str:
    """Returns a value's canonical JSON."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def digest(value: object) -> str:
    """Returns the SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()
