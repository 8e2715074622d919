"""What every object of a sink says about itself in its Parquet footer.

A reader of one file learns which run and shard it belongs to, and totals need one small request a
shard and no pass over the codes. A footer stays below a few megabytes whatever is in the shard, and
is held against its seal before any of it is believed.
"""

import base64
import json
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from vqpipe import storage
from vqpipe.errors import DamagedError, SourceChangedError, StorageError
from vqpipe.schema import File
from vqpipe.sink import seal
from vqpipe.sink.layout import Order

ORIGIN = "vqpipe"
"""Key of a JSON object: run, shard and source; of a committed shard also grid and counts."""
HISTOGRAM = "vqpipe.histogram"
"""Key of a shard's code counts: base64 of zlib of little-endian uint32."""
REJECTIONS_BYTES = "rejections_bytes"
"""Of a committed shard, in ORIGIN's object: bytes of its samples without a row, which end where the
seal begins (`vqpipe.sink.objects`)."""
EXAMPLES = "examples"
"""Of a committed shard, in ORIGIN's object: the first few rejections of each reason."""
IMAGE_BYTES = "image_bytes"
"""Of a decoded shard, in that JSON object: bytes of its tar or files, which lie beside `data/`."""

_TAIL_BYTES = 128 * 2**10

Histogram = npt.NDArray[np.int64]
"""(codebook size,): how often each code occurs."""


@dataclass(frozen=True)
class Footer:
    """What the footer of one object says."""

    origin: dict[str, Any]
    histogram: Histogram
    """Empty but for data objects."""

    @property
    def order(self) -> Order:
        """Place of a committed shard's object among all of its shard: a higher one replaces it."""
        return self.origin["generation"], self.origin["revision"]

    @property
    def said(self) -> dict[str, Any]:
        """`origin`, with the histogram under its key."""
        return {**self.origin, HISTOGRAM: self.histogram}

    @property
    def total(self) -> int | None:
        """Rows of a committed shard; None if it could not be read to its end."""
        return None if self.origin["damage"] else int(self.origin["seen"])


def pack_histogram(histogram: Histogram) -> str:
    """Returns code counts as footer text."""
    return _pack(np.minimum(histogram, np.iinfo(np.uint32).max).astype("<u4").tobytes())


def unpack_histogram(text: str | bytes) -> Histogram:
    """Returns the code counts of footer text."""
    return np.frombuffer(_unpack(text), "<u4").astype(np.int64)


def pack_counts(histogram: Histogram) -> str:
    """Returns the code counts of many shards as text, which may be too high for a footer's."""
    return _pack(histogram.astype("<i8").tobytes())


def unpack_counts(text: str) -> Histogram:
    """Returns the code counts of `pack_counts`."""
    return np.frombuffer(_unpack(text), "<i8").astype(np.int64)


def _pack(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode()


def _unpack(text: str | bytes) -> bytes:
    return zlib.decompress(base64.b64decode(text))


def read_footer(file: File) -> Footer:
    """Returns what one object says of itself, by one request as a rule.

    Raises:
        FileNotFoundError: If it has been removed since it was listed.
        DamagedError: If the footer is not as it was written, or the object none of ours.
    """
    return read_tail(file)[0]


def read_tail(file: File) -> tuple[Footer, File, bytes]:
    """Returns the footer of an object, which object that is now, and its last bytes, seal included.

    Raises:
        FileNotFoundError: If it has been removed since it was listed.
        DamagedError: If the footer is not as it was written, or the object none of ours.
    """
    try:
        return _read_tail(file)
    except (StorageError, SourceChangedError):
        found = storage.stat(file.uri)
        if found == file:
            raise
        return _read_tail(found)  # it was replaced since it was listed


def _read_tail(file: File) -> tuple[Footer, File, bytes]:
    tail = storage.read_tail(file, _TAIL_BYTES)
    needed = seal.tail_bytes(tail)
    if len(tail) < needed <= file.size:
        tail = storage.read_tail(file, needed)
    try:
        seal.check_footer(tail)
        footer = parse_footer(pq.read_metadata(pa.BufferReader(tail)).metadata)
    except (OSError, ValueError, KeyError, TypeError, zlib.error) as error:  # OSError: bad Thrift
        said = f"{error}. " if isinstance(error, seal.SealError) else ""
        raise DamagedError(
            f"{file.uri} is damaged, or no object that vqpipe wrote: {said}Restore it from a copy, "
            "or remove it and run the command that made it again, which makes just this one anew"
        ) from error
    return footer, file, tail


def parse_footer(metadata: dict[bytes, bytes]) -> Footer:
    """Returns what the key-value metadata of an object says; KeyError if it is none of ours."""
    histogram = metadata.get(HISTOGRAM.encode())
    return Footer(
        origin=json.loads(metadata[ORIGIN.encode()]),
        histogram=unpack_histogram(histogram) if histogram else np.zeros(0, np.int64),
    )
