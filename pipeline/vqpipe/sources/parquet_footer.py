"""Parquet footers, read without giving the file a say in what runs.

A footer may hold an Arrow schema that names extension types, and Arrow then calls the Python class
registered under such a name, with bytes from the file. Ray Data registers classes that unpickle
these bytes (`ray/air/util/tensor_extensions/arrow.py`), so that opening a file could run its code.
Here the marks of extension types are renamed before Arrow sees them: columns come out in their
storage types, and the renamed mark says which ones they are.
"""

import base64
import struct
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from vqpipe import storage
from vqpipe.schema import File

MAX_FOOTER_BYTES = 2**24
"""Larger footers are not read (16 MiB, some 50,000 row groups): Arrow needs up to 120 bytes for
every byte of one."""

_TAIL_BYTES = 64 * 2**10
_BUFFER_BYTES = 2**20  # a column: without it Arrow reads whole column chunks into memory
_MAGIC = b"PAR1"
_TRAILER = struct.Struct("<I4s")  # length of the footer, magic
_SCHEMA = b"ARROW:schema"
_HIDDEN_SCHEMA = b"VQPIPEschema"
_MARK = b"ARROW:extension:name"
_RENAMED_MARK = b"VQPIPE:extension-was"
assert (len(_HIDDEN_SCHEMA), len(_RENAMED_MARK)) == (len(_SCHEMA), len(_MARK)), "lengths are stored"


def read_metadata(file: BinaryIO) -> pq.FileMetaData:
    """Returns the footer of an open file with every extension type's mark renamed.

    Raises:
        ValueError: If the file is no Parquet file or its footer is damaged.
    """
    size = file.seek(0, 2)
    file.seek(max(0, size - _TRAILER.size))
    length = _footer_length(file.read(_TRAILER.size), size)
    file.seek(size - _TRAILER.size - length)
    return _renamed(file.read(length))


def open_parquet(file: BinaryIO) -> pq.ParquetFile:
    """Returns a reader that checks what can be checked and makes nothing of extension types."""
    return pq.ParquetFile(
        file,
        metadata=read_metadata(file),
        buffer_size=_BUFFER_BYTES,
        pre_buffer=False,
        page_checksum_verification=True,
        arrow_extensions_enabled=False,
    )


def fetch_schema(file: File) -> pa.Schema:
    """Returns the columns of a file, read by one request as a rule, as `read_metadata` has them.

    Raises:
        ValueError: If the file is no Parquet file or its footer is damaged.
    """
    tail = storage.read_tail(file, _TAIL_BYTES)
    length = _footer_length(tail[-_TRAILER.size :], file.size)
    if len(tail) < length + _TRAILER.size:
        tail = storage.read_tail(file, length + _TRAILER.size)
    return schema_of(_renamed(tail[-length - _TRAILER.size : -_TRAILER.size]))


def schema_of(footer: pq.FileMetaData) -> pa.Schema:
    """Returns the columns of `read_metadata`."""
    nothing = pa.BufferReader(b"")
    return pq.ParquetFile(nothing, metadata=footer, arrow_extensions_enabled=False).schema_arrow


def _renamed(data: bytes) -> pq.FileMetaData:
    hidden = _parse(data.replace(_SCHEMA, _HIDDEN_SCHEMA))  # parsing alone calls the classes
    stored = (hidden.metadata or {}).get(_HIDDEN_SCHEMA)
    if stored is None:
        return hidden
    if data.count(_SCHEMA) + data.count(_HIDDEN_SCHEMA) != 1:
        raise ValueError("the footer holds several Arrow schemas")
    schema = base64.b64decode(stored, validate=True)
    renamed = base64.b64encode(schema.replace(_MARK, _RENAMED_MARK))
    return _parse(data.replace(stored, renamed))


def parse_schema(data: bytes) -> pa.Schema:
    """Returns a schema in Arrow's format, with every extension type's mark renamed."""
    return pa.ipc.read_schema(pa.py_buffer(data.replace(_MARK, _RENAMED_MARK)))


def extension_name(column: pa.Field) -> str | None:
    """Returns the name of the extension type that a column of `read_metadata` has or contains."""
    if column.metadata and _RENAMED_MARK in column.metadata:
        return str(column.metadata[_RENAMED_MARK].decode(errors="backslashreplace"))
    if isinstance(column.type, pa.BaseExtensionType):
        return str(column.type)
    kind = column.type
    names = (extension_name(kind.field(index)) for index in range(kind.num_fields))
    return next((name for name in names if name is not None), None)


def _footer_length(trailer: bytes, size: int) -> int:
    if len(trailer) < _TRAILER.size or trailer[4:] != _MAGIC:
        raise ValueError("not a Parquet file, or its end is missing: no magic bytes at the end")
    length: int = _TRAILER.unpack(trailer)[0]
    if length + _TRAILER.size + len(_MAGIC) > size:
        raise ValueError(f"the footer claims {length} bytes of a file of {size}")
    if length > MAX_FOOTER_BYTES:
        raise ValueError(f"a footer of {length} bytes; at most {MAX_FOOTER_BYTES} are read")
    return length


def _parse(footer: bytes) -> pq.FileMetaData:
    whole = _MAGIC + footer + _TRAILER.pack(len(footer), _MAGIC)
    return pq.read_metadata(pa.BufferReader(whole))
