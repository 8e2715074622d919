"""What a file without an extension is, judged by its first bytes."""

from collections.abc import Sequence

from vqpipe import storage
from vqpipe.errors import SourceChangedError
from vqpipe.schema import File
from vqpipe.storage.ahead import map_ahead

HEAD_BYTES = 512
"""What of a file tells which format it has: the header of a tar's first member is that long."""

_LOOKED_AT = 16
_READERS = 8
_BMP_HEADERS = {12, 16, 40, 52, 56, 64, 108, 124}
"""Sizes of the header that follows a BMP's first 14 bytes; two letters alone say too little."""
_STARTS = (
    b"\xff\xd8\xff",  # JPEG
    b"\x89PNG\r\n\x1a\n",
    b"GIF87a",
    b"GIF89a",
    b"II*\0",  # TIFF
    b"MM\0*",
    b"II+\0",  # BigTIFF
    b"MM\0+",
    b"\xff\x0a",  # JPEG XL, bare and in boxes
    b"\0\0\0\x0cJXL \r\n\x87\n",
)
_BRANDS = {b"avif", b"avis", b"mif1", b"heic", b"heix", b"heim", b"heis"}
_BRANDS |= {b"hevc", b"hevx", b"hevm", b"hevs"}
"""Of AVIF and HEIC; `mif1` is what either may call itself alone."""


def is_image(head: bytes) -> bool:
    """Tells whether the first `HEAD_BYTES` of a file are those of an image that may be opened."""
    if head.startswith(_STARTS):
        return True
    if head[:4] == b"RIFF":
        return head[8:12] == b"WEBP"
    if head[:2] == b"BM":
        return int.from_bytes(head[14:18], "little") in _BMP_HEADERS
    if head[4:8] == b"ftyp":  # ISO BMFF's first box
        brands = head[8 : max(16, int.from_bytes(head[:4], "big"))]
        return any(brands[i : i + 4] in _BRANDS for i in range(0, len(brands), 4))
    return False


def find_formats(files: Sequence[File]) -> set[str]:
    """Returns the formats of a source's files by what begins some of them, evenly picked.

    Raises:
        StorageError: If the store fails.
    """
    step = max(1, -(-len(files) // _LOOKED_AT))
    formats = map_ahead(_find_format, iter(files[::step]), _READERS)
    return {found for found in formats if found is not None}


def _find_format(file: File) -> str | None:
    try:
        with storage.open_file(file) as opened:
            head = opened.read(HEAD_BYTES)
    except SourceChangedError:
        return None  # no part of a data set: something writes it
    if head[257:262] == b"ustar":
        return "webdataset"
    if head.startswith(b"PAR1"):
        return "parquet"
    return "folder" if is_image(head) else None
