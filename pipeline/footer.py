"""What every object of a sink says about itself in its Parquet footer.

A reader of one file learns which run and shard it belongs to; totals need one small request a
shard and no pass over the codes; and a data object carries its shard's rejections as well, so that
`data/` alone decides what was encoded and what was rejected.
"""

import base64
import io
import json
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import SourceChangedError, StorageError
from pipeline.schema import REJECTED, File, Reason

ORIGIN = "vqpipe"
"""Key of a JSON object: run, shard and source; of a committed shard also grid and counts."""
HISTOGRAM = "vqpipe.histogram"
"""Key of a shard's code counts: base64 of zlib of little-endian uint32."""
REJECTIONS = "vqpipe.rejections"
"""Key of a shard's rejections: base64 of zlib of a JSON list of `rejected/`'s rows."""
IMAGE_BYTES = "image_bytes"
"""Of a decoded shard, in that JSON object: bytes of its tar or files, which lie beside `data/`."""

_GROUP_ROWS, _GROUP_BYTES = 2**20, 128 * 2**20
"""Most of a row group, by rows and by bytes before compression."""

_TAIL_BYTES = 128 * 2**10
_PARQUET_END_BYTES = 8  # footer length (uint32, little-endian) and the magic PAR1

Histogram = npt.NDArray[np.int64]
"""(codebook size,): how often each code occurs."""


@dataclass(frozen=True)
class Footer:
    """What the footer of one object says."""

    origin: dict[str, Any]
    histogram: Histogram
    """Empty but for data objects."""
    rejections: pa.Table
    """`schema.REJECTED`; empty but for data objects."""

    @property
    def total(self) -> int | None:
        """Rows of a committed shard; None if it could not be read to its end."""
        is_cut = Reason.SHARD_DAMAGED in self.rejections["reason"].to_pylist()
        return None if is_cut else int(self.origin["seen"])


def pack_histogram(histogram: Histogram) -> str:
    """Returns code counts as footer text."""
    return _pack(np.minimum(histogram, np.iinfo(np.uint32).max).astype("<u4").tobytes())


def unpack_histogram(text: str | bytes) -> Histogram:
    """Returns the code counts of footer text."""
    return np.frombuffer(_unpack(text), "<u4").astype(np.int64)


def pack_rejections(rejections: pa.Table) -> str:
    """Returns the rows of `rejected/` as footer text."""
    return _pack(json.dumps(rejections.to_pylist()).encode())


def _pack(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode()


def _unpack(text: str | bytes) -> bytes:
    return zlib.decompress(base64.b64decode(text))


def write_parquet(table: pa.Table, footer: dict[str, str]) -> bytes:
    """Returns a Parquet file, dictionary-encoded and zstd-compressed, with footer metadata."""
    buffer = io.BytesIO()
    with pq.ParquetWriter(
        buffer, table.schema, compression="zstd", write_page_checksum=True
    ) as writer:
        writer.write_table(table, row_group_size=_rows_of_group(table))
        writer.add_key_value_metadata(footer)
    return buffer.getvalue()


def _rows_of_group(table: pa.Table) -> int:
    """Returns how many rows a row group has, so that a reader needs no memory for a whole shard."""
    row_bytes = max(1, int(table.nbytes) // max(1, len(table)))
    return max(1, min(_GROUP_ROWS, _GROUP_BYTES // row_bytes))


def read_footer(file: File) -> Footer:
    """Returns what one object says of itself, by one request as a rule.

    Raises:
        FileNotFoundError: If it has been removed since it was listed.
        StorageError: If the object is not one of ours.
    """
    try:
        return _read_footer(file)
    except (StorageError, SourceChangedError):
        found = storage.stat(file.uri)
        if found == file:
            raise
        return _read_footer(found)  # it was replaced since it was listed


def _read_footer(file: File) -> Footer:
    tail = storage.read_tail(file, _TAIL_BYTES)
    needed = int.from_bytes(tail[-8:-4], "little") + _PARQUET_END_BYTES
    if len(tail) < needed <= file.size:
        tail = storage.read_tail(file, needed)
    try:
        return parse_footer(pq.read_metadata(pa.BufferReader(tail)).metadata)
    except (OSError, ValueError, KeyError, TypeError, zlib.error) as error:  # OSError: bad Thrift
        raise StorageError(f"{file.uri} is no object that vqpipe wrote; remove it") from error


def read_data(uri: str, columns: list[str] | None = None) -> tuple[pa.Table, Footer]:
    """Returns rows and footer of a data object, the checksums of what is read verified.

    Args:
        uri: Where it is.
        columns: What to read of it; None is all.

    Raises:
        StorageError: If the store does not give it.
        OSError, ValueError, KeyError, TypeError, zlib.error: If it is damaged or none of ours.
    """
    data = storage.read(uri)
    file = pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True)
    return file.read(columns), parse_footer(file.metadata.metadata or {})


def read_whole(uri: str, columns: list[str]) -> pa.Table:
    """Returns columns of a data object that has to be there and whole.

    Raises:
        StorageError: If it is not, or the store does not give it.
    """
    try:
        return read_data(uri, columns)[0]
    except FileNotFoundError:
        raise StorageError(f"{uri} was there and is gone; run the same command again") from None
    except (OSError, ValueError, KeyError, TypeError, zlib.error) as error:
        raise StorageError(f"{uri} is damaged; vqpipe verify says what to do about it") from error


def parse_footer(metadata: dict[bytes, bytes]) -> Footer:
    """Returns what the key-value metadata of an object says; KeyError if it is none of ours."""
    histogram, rejections = metadata.get(HISTOGRAM.encode()), metadata.get(REJECTIONS.encode())
    return Footer(
        origin=json.loads(metadata[ORIGIN.encode()]),
        histogram=unpack_histogram(histogram) if histogram else np.zeros(0, np.int64),
        rejections=pa.Table.from_pylist(
            json.loads(_unpack(rejections)) if rejections else [], schema=REJECTED
        ),
    )
