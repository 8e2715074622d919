"""AVIF and HEIC: which colours what is shown has, and whether the data of a HEIC are there.

    ftyp | meta: pitm, iloc, iref, iprp (ipco, ipma), ... | mdat     items, of which one is shown
    ftyp | moov: trak, mdia, minf, stbl, stsd, ... | mdat            frames

A property in `ipco` is that of the items that `ipma` names, by its place, and an image of tiles
(`grid`) may have its colours itself or at the tiles. Only those of what is shown count: those of a
gain map are beside the point. Boxes are those of ISO 14496-12 and 23008-12. What only the coded
data say of colours, where there is no box, is not looked for.

Of a HEIC of tiles, as phones make them, libheif leaves those black that it cannot decode, and says
nothing that reaches Pillow. So the data of every item have to be in the file, and to be whole units
of HEVC, which end with another byte than zero (ITU-T H.265, 7.4.2): a file whose end was never
written is zeros there.
"""

import struct
from collections.abc import Iterable, Iterator

from vqpipe.images import hdr
from vqpipe.images.isobmff import Box, boxes, inside

_TO_PROPERTIES = (b"iprp", b"ipco")
_TO_FRAMES = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd")
_STSD_BYTES = 8  # of its version and its count, before the entries
_ENTRY_BYTES = 78  # of a VisualSampleEntry, before its boxes; ISO 14496-12, 12.1.3
_IN_FILE, _IN_IDAT = 0, 1  # ways in which items are stored; 8.11.3
_LENGTH_SIZE = 21  # where hvcC says, in its lowest bits, how many bytes a length has; 14496-15
_ZEROS = bytes(4)


def find_unsupported(data: bytes) -> str | None:
    """Returns why an AVIF or HEIC would come out wrong, or None.

    Raises:
        SyntaxError: If its boxes are no such.
    """
    try:
        found = [hdr.find_unsupported(transfer) for transfer in _transfers(data)]
    except (struct.error, IndexError):
        raise SyntaxError("the boxes that describe the image end early") from None
    return next(filter(None, found), None)


def find_missing(data: bytes) -> str | None:
    """Returns which item of a HEIC lacks data, for a person; None if none does.

    Raises:
        SyntaxError: If its boxes are no such.
    """
    try:
        for meta in _metas(data):
            widths = _hevc_items(data, meta)
            for item, coded in _items(data, meta):
                if coded is None or (item in widths and not _is_whole(coded, widths[item])):
                    return f"the data of its item {item} end early"
    except (struct.error, IndexError):
        raise SyntaxError("the boxes that describe the image end early") from None
    return None


def _metas(data: bytes) -> Iterator[Box]:
    for meta in inside(data, Box(b"", 0, len(data)), b"meta"):
        yield meta._replace(start=meta.start + 4)


def _transfers(data: bytes) -> Iterator[int]:
    """Yields the transfer functions of what is shown, by the numbers of H.273."""
    for meta in _metas(data):
        shown = set(_shown(data, meta))
        for item, box in _properties(data, meta):
            if item in shown:
                yield from _transfers_of(data, (box,))
    for stsd in inside(data, Box(b"", 0, len(data)), *_TO_FRAMES):
        for entry in boxes(data, stsd.start + _STSD_BYTES, stsd.end):
            inner = entry._replace(start=entry.start + _ENTRY_BYTES)
            yield from _transfers_of(data, inside(data, inner, b"colr"))


def _transfers_of(data: bytes, properties: Iterable[Box]) -> Iterator[int]:
    for box in properties:
        body = data[box.start : box.end]
        if box.kind == b"colr" and body.startswith(b"nclx"):
            yield struct.unpack_from(">H", body, 6)[0]


def _shown(data: bytes, meta: Box) -> Iterator[int]:
    """Yields the primary item, and those that it is made of."""
    for pitm in inside(data, meta, b"pitm"):
        fields = _Fields(data[pitm.start : pitm.end])
        primary = fields.read(4 if fields.version else 2)
        yield primary
        yield from _parts(data, meta, primary)


def _parts(data: bytes, meta: Box, item: int) -> Iterator[int]:
    for iref in inside(data, meta, b"iref"):
        width = 4 if data[iref.start] else 2
        for box in boxes(data, iref.start + 4, iref.end):
            fields = _Fields(data[box.start : box.end], at=0)
            if box.kind == b"dimg" and fields.read(width) == item:
                yield from (fields.read(width) for _ in range(fields.read(2)))


def _properties(data: bytes, meta: Box) -> Iterator[tuple[int, Box]]:
    """Yields items, each with one of its properties, which `ipma` counts from 1."""
    found = [
        box
        for ipco in inside(data, meta, *_TO_PROPERTIES)
        for box in boxes(data, ipco.start, ipco.end)
    ]
    for ipma in inside(data, meta, b"iprp", b"ipma"):
        fields = _Fields(data[ipma.start : ipma.end])
        width = 2 if fields.flags & 1 else 1
        for _ in range(fields.read(4)):
            item = fields.read(4 if fields.version else 2)
            for _ in range(fields.read(1)):
                place = fields.read(width) & (0x7FFF if width == 2 else 0x7F)
                if place:
                    yield item, found[place - 1]


def _hevc_items(data: bytes, meta: Box) -> dict[int, int]:
    """Returns which items are HEVC, and in how many bytes each of them has its lengths."""
    return {
        item: (data[box.start + _LENGTH_SIZE] & 3) + 1
        for item, box in _properties(data, meta)
        if box.kind == b"hvcC"
    }


def _items(data: bytes, meta: Box) -> Iterator[tuple[int, bytes | None]]:
    """Yields items and their data, None where some of it is not there; those of other files not."""
    idat = next((data[box.start : box.end] for box in inside(data, meta, b"idat")), b"")
    for iloc in inside(data, meta, b"iloc"):
        for item, way, extents in _places(_Fields(data[iloc.start : iloc.end])):
            if way in {_IN_FILE, _IN_IDAT}:
                yield item, _join(idat if way == _IN_IDAT else data, extents)


def _join(stored: bytes, extents: list[tuple[int, int]]) -> bytes | None:
    parts = [stored[at : at + size if size else None] for at, size in extents]  # 0: all the rest
    are_there = all(len(part) >= size for part, (_, size) in zip(parts, extents, strict=True))
    return b"".join(parts) if are_there else None


def _places(fields: "_Fields") -> Iterator[tuple[int, int, list[tuple[int, int]]]]:
    """Yields items, how they are stored (-1 in another file), and where: offsets and sizes."""
    offset_size, length_size = divmod(fields.read(1), 16)
    base_size, index_size = divmod(fields.read(1), 16)
    is_wide, has_way = fields.version == 2, fields.version > 0
    for _ in range(fields.read(4 if is_wide else 2)):
        item = fields.read(4 if is_wide else 2)
        way = fields.read(2) & 15 if has_way else _IN_FILE
        way = -1 if fields.read(2) else way
        base, extents = fields.read(base_size), []
        for _ in range(fields.read(2)):
            fields.read(index_size if has_way else 0)
            extents.append((base + fields.read(offset_size), fields.read(length_size)))
        yield item, way, extents


def _is_whole(coded: bytes, width: int) -> bool:
    """Tells whether data are units of HEVC to the end, each behind its length in so many bytes."""
    at = 0
    while at < len(coded):
        start = at + width
        at = start + int.from_bytes(coded[at:start], "big")
        if at < start + 2 or at > len(coded) or coded[at - 4 : at] == _ZEROS:
            return False
    return True


class _Fields:
    """What is in a box, read number by number; most begin with a version and flags."""

    def __init__(self, body: bytes, at: int = 4) -> None:
        self._body, self._at = body, at
        self.version, self.flags = body[0], int.from_bytes(body[1:4], "big")

    def read(self, width: int) -> int:
        """Returns a number of so many bytes.

        Raises:
            IndexError: If the box ends before.
        """
        self._at += width
        if self._at > len(self._body):
            raise IndexError(self._at)
        return int.from_bytes(self._body[self._at - width : self._at], "big")
