"""Parquet files put together by hand, to say what no writer would.

Thrift's compact protocol and the structs of parquet.thrift:
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

import struct

I32, I64, BINARY, LIST, STRUCT = 5, 6, 8, 9, 12
_BYTE_ARRAY, _REQUIRED, _OPTIONAL, _ZSTD = 6, 0, 1, 6


def _varint(number):
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def integer(number):
    return _varint((number << 1) if number >= 0 else (-number << 1) - 1)


def text(data):
    return _varint(len(data)) + data


def items(kind, values):
    head = bytes([len(values) << 4 | kind]) if len(values) < 15 else bytes([0xF0 | kind])
    return head + (b"" if len(values) < 15 else _varint(len(values))) + b"".join(values)


def fields(*entries):
    """Returns a struct of `(id, kind, bytes)` in the order of ids, at most 15 apart."""
    before = [0, *(number for number, _, _ in entries)]
    return (
        b"".join(
            bytes([(number - last) << 4 | kind]) + value
            for last, (number, kind, value) in zip(before, entries, strict=False)
        )
        + b"\0"
    )


def column(name=b"jpg", *, optional=False):
    repetition = _OPTIONAL if optional else _REQUIRED
    return fields(
        (1, I32, integer(_BYTE_ARRAY)), (3, I32, integer(repetition)), (4, BINARY, text(name))
    )


def branch(name, children):
    return fields(
        (3, I32, integer(_REQUIRED)), (4, BINARY, text(name)), (5, I32, integer(children))
    )


def chunk(*, at=4, stored=0, size=0, values=0, codec=_ZSTD, name=b"jpg"):
    meta = fields(
        (1, I32, integer(_BYTE_ARRAY)),
        (2, LIST, items(I32, [integer(0), integer(3)])),
        (3, LIST, items(BINARY, [text(name)])),
        (4, I32, integer(codec)),
        (5, I64, integer(values)),
        (6, I64, integer(size)),
        (7, I64, integer(stored)),
        (9, I64, integer(at)),
    )
    return fields((2, I64, integer(at)), (3, STRUCT, meta))


def row_group(chunks, rows, size=0):
    return fields(
        (1, LIST, items(STRUCT, chunks)), (2, I64, integer(size)), (3, I64, integer(rows))
    )


def page(data, values, *, size=None, stored=None):
    """Returns a data page of plain values, not nullable, and its header, which may lie."""
    header = fields(
        (1, I32, integer(0)),
        (2, I32, integer(len(data) if size is None else size)),
        (3, I32, integer(len(data) if stored is None else stored)),
        (
            5,
            STRUCT,
            fields(
                *(
                    (number, I32, integer(n))
                    for number, n in zip((1, 2, 3, 4), (values, 0, 3, 3), strict=True)
                )
            ),
        ),
    )
    return header + data


def plain(values):
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


def file(columns, groups, rows, pages=b""):
    """Returns a file with a flat schema unless one of the columns is a branch."""
    root = branch(b"schema", sum(1 for _ in columns))
    return raw_file([root, *columns], groups, rows, pages)


def raw_file(elements, groups, rows, pages=b""):
    footer = fields(
        (1, I32, integer(1)),
        (2, LIST, items(STRUCT, elements)),
        (3, I64, integer(rows)),
        (4, LIST, items(STRUCT, groups)),
    )
    return b"PAR1" + pages + footer + struct.pack("<I4s", len(footer), b"PAR1")
