"""`tf.train.Example`, the record that TensorFlow and JAX input pipelines parse, without TensorFlow.

    Example { Features { map<name, Feature> } }, all of them field 1
    Feature { 1: bytes_list | 2: float_list | 3: int64_list }, each a list in field 1

Sources: https://github.com/tensorflow/tensorflow/blob/0dd22230aaff38b9fd59a8bc7f585727ddb19991/tensorflow/core/example/feature.proto
and https://protobuf.dev/programming-guides/encoding/
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Feature = bytes | Sequence[int] | npt.NDArray[np.integer[Any]]
"""One value of bytes, or integers of 64 bits."""

_LENGTH_DELIMITED = 2
_BYTES_LIST, _INT64_LIST = 1, 3
_SEVENS = np.arange(0, 70, 7, dtype=np.uint64)
"""Shifts of the groups of 7 bits, of which a number of 64 bits has ten."""


def pack_example(features: Mapping[str, Feature]) -> bytes:
    """Returns an example as protobuf has it, its features in the order of their names."""
    entries = (
        _field(1, _field(1, name.encode()) + _field(2, _feature(features[name])))
        for name in sorted(features)
    )
    return _field(1, b"".join(entries))


def _feature(value: Feature) -> bytes:
    if isinstance(value, bytes):
        return _field(_BYTES_LIST, _field(1, value))
    packed = _varints(np.asarray(value, np.int64))
    return _field(_INT64_LIST, _field(1, packed) if packed else b"")


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


def _varints(numbers: npt.NDArray[np.int64]) -> bytes:
    """Returns numbers, (n,), as protobuf packs them: 7 bits a byte, the lowest first."""
    groups = numbers.astype(np.uint64)[:, None] >> _SEVENS
    has_more = groups > 0x7F
    is_there = np.column_stack([np.ones(len(numbers), bool), has_more[:, :-1]])
    coded = (groups & np.uint64(0x7F)) | (has_more.astype(np.uint64) << np.uint64(7))
    return bytes(coded[is_there].astype(np.uint8))
