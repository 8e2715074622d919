"""Kinds of TIFF: what the tags say of the samples, and which kinds Pillow would open as others.

Each rule of `find_unsupported` is a kind that Pillow 13 opens without a word as something else than
libtiff does, or of which nothing says what its numbers mean. Numbers of tags and their values are
those of TIFF 6.0.

What is not compressed Pillow reads by itself, and does not look whether a strip or a tile is there:
one that begins at 0, as where a writer left it out, is read from the file's header. `find_missing`
does.
"""

import io
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from PIL import TiffTags
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    COLORMAP,
    COMPRESSION,
    COMPRESSION_INFO,
    EXTRASAMPLES,
    IMAGELENGTH,
    IMAGEWIDTH,
    PHOTOMETRIC_INTERPRETATION,
    PLANAR_CONFIGURATION,
    ROWSPERSTRIP,
    SAMPLEFORMAT,
    SAMPLESPERPIXEL,
    STRIPBYTECOUNTS,
    STRIPOFFSETS,
    TILEBYTECOUNTS,
    TILELENGTH,
    TILEOFFSETS,
    TILEWIDTH,
    YCBCRSUBSAMPLING,
    ImageFileDirectory_v2,
)

BIG_ENDIAN_64 = b"MM\0\x2b"
"""Begins a big-endian TIFF of 64-bit offsets, whose tags Pillow looks for in the wrong place."""

_INK_SET = 332
_USUAL_YCBCR = {529: (0.299, 0.587, 0.114), 532: (0, 255, 128, 255, 128, 255)}
"""What YCbCrCoefficients and ReferenceBlackWhite have to be for Pillow's conversion, JFIF's."""
_RAW, _OLD_JPEG, _JPEG = 1, 6, 7
_END_OF_JPEG = b"\xff\xd9"
_MOST_BEHIND_JPEG = 2**16  # bytes of padding; a search that is longer could be made endless
_FAX_OR_JPEG = {2, 3, 4, 6, 7}
_WHITE_IS_ZERO, _RGB, _CMYK, _YCBCR, _CIELAB = 0, 2, 5, 6, 8
_SIGNED, _FLOAT = 2, 3

Tags = Mapping[int, Any]


def find_unsupported(tags: Tags) -> str | None:
    """Returns why a TIFF that Pillow opens would come out wrong, or None."""
    return next((reason for applies, reason in _RULES if applies(tags)), None)


def find_missing(tags: Tags, data: bytes) -> str | None:
    """Returns which of a TIFF's strips or tiles lacks data, for a person; None if none does.

    A TIFF of the old kind of JPEG is left to libtiff: its data may be elsewhere.
    """
    if _first(tags, COMPRESSION, _RAW) == _OLD_JPEG:
        return None
    layout = _layout(tags)
    offsets, counts = (_all(tags, tag) for tag in layout.tags)
    if len(offsets) < layout.pieces:
        return f"only {len(offsets)} of its {layout.pieces} {layout.name}s are there"
    has_counts = layout.tags[1] in tags and layout.pieces > 1  # a lone one has what there is
    if has_counts and len(counts) < layout.pieces:
        return f"only {len(counts)} of its {layout.pieces} {layout.name}s have a size"
    for index in range(layout.pieces):
        count = counts[index] if has_counts else None
        if lack := _find_lack(tags, data, offsets[index], count, layout.least_bytes(index)):
            return f"{layout.name} {index + 1} of {layout.pieces} {lack}"
    return None


def kind_of(data: bytes) -> str | None:
    """Returns what kind of TIFF a file is, for a person; None if its tags cannot be read."""
    if data.startswith(BIG_ENDIAN_64):
        return "64-bit offsets, big-endian"
    try:
        tags = _read_tags(data)
        if not tags.get(256) or not tags.get(257):
            return None
        return _describe(tags, "big" if tags.prefix == b"MM" else "little")
    except Exception:  # noqa: BLE001 (tags may be anything; the image is rejected either way)
        return None


def white_level(tags: Tags) -> int:
    """Returns the greatest value that a sample can have."""
    return int(2 ** _first(tags, BITSPERSAMPLE, 1)) - 1


def is_negative(tags: Tags) -> bool:
    """Returns whether 0 is white."""
    return _first(tags, PHOTOMETRIC_INTERPRETATION, 1) == _WHITE_IS_ZERO


def palette_of_bytes(tags: Tags) -> bytes | None:
    """Returns the red, green and blue levels of a palette that has 0..255 where 0..65535 belong.

    Old writers made them so; libtiff takes a palette without any greater value for one of these.
    """
    levels = tags.get(COLORMAP)
    if not isinstance(levels, tuple) or max(levels) > 255:
        return None
    third = len(levels) // 3
    return bytes(level for entry in range(third) for level in levels[entry::third])


def _first(tags: Tags, tag: int, default: int) -> int:
    """Returns the first value of a tag of numbers."""
    return int(_all(tags, tag, default)[0])


def _is_ambiguous(tags: Tags) -> bool:
    """A fax says by itself what is white, and a JPEG has colours of its own."""
    compression = _first(tags, COMPRESSION, 1)
    return PHOTOMETRIC_INTERPRETATION not in tags and compression not in _FAX_OR_JPEG


def _is_other_inks(tags: Tags) -> bool:
    return _photometric(tags) == _CMYK and _first(tags, _INK_SET, 1) != 1


def _is_uneven_planes(tags: Tags) -> bool:
    """Planes of more than 8 bits, or of alpha beside grey, are read as if they were one."""
    if _first(tags, PLANAR_CONFIGURATION, 1) != 2 or _first(tags, SAMPLESPERPIXEL, 1) == 1:
        return False
    is_raw = _first(tags, COMPRESSION, 1) == 1
    has_alpha_of_grey = _photometric(tags) < _RGB and max(_all(tags, EXTRASAMPLES)) > 0
    return (is_raw and _first(tags, BITSPERSAMPLE, 1) > 8) or has_alpha_of_grey


def _is_packed_ycbcr(tags: Tags) -> bool:
    """By default there is one Cb and one Cr for four Y, packed as Pillow does not expect it."""
    if _photometric(tags) != _YCBCR or _first(tags, COMPRESSION, 1) != 1:
        return False
    return bool(tags.get(YCBCRSUBSAMPLING, (2, 2)) != (1, 1))


def _is_other_ycbcr(tags: Tags) -> bool:
    """Of what is compressed libtiff makes RGB, as these tags say."""
    if _photometric(tags) != _YCBCR or _first(tags, COMPRESSION, _RAW) != _RAW:
        return False
    return any(
        tag in tags and not _is_close(_all(tags, tag), usual) for tag, usual in _USUAL_YCBCR.items()
    )


def _is_close(levels: tuple[Any, ...], usual: tuple[float, ...]) -> bool:
    is_as_long = len(levels) == len(usual)
    return is_as_long and all(abs(float(a) - b) < 1e-3 for a, b in zip(levels, usual, strict=True))


def _is_laid_out_twice(tags: Tags) -> bool:
    """Pillow takes strips before tiles, libtiff tiles before strips."""
    is_raw = _first(tags, COMPRESSION, _RAW) == _RAW
    return is_raw and STRIPOFFSETS in tags and (TILEWIDTH in tags or TILEOFFSETS in tags)


def _is_more_than_whole(tags: Tags) -> bool:
    """Strips behind the last one Pillow lays over the first; libtiff leaves them out."""
    layout = _layout(tags)
    is_raw = _first(tags, COMPRESSION, _RAW) == _RAW
    return is_raw and len(_all(tags, layout.tags[0])) > layout.pieces


_RULES: tuple[tuple[Callable[[Tags], bool], str], ...] = (
    (
        lambda tags: _SIGNED in _all(tags, SAMPLEFORMAT),
        "its samples are signed: nothing says which value is black",
    ),
    (
        lambda tags: _FLOAT in _all(tags, SAMPLEFORMAT),
        "its samples are floating-point: nothing says which value is white",
    ),
    (_is_ambiguous, "it has no PhotometricInterpretation: nothing says whether 0 is black"),
    (lambda tags: _photometric(tags) == _CIELAB, "its colours are CIELab"),
    (_is_other_inks, "its inks are others than cyan, magenta, yellow and black"),
    (_is_uneven_planes, "its samples are in planes of more than 8 bits, or of grey and alpha"),
    (_is_packed_ycbcr, "its YCbCr is subsampled and not compressed"),
    (_is_other_ycbcr, "its YCbCr has other coefficients or reference levels than JPEG's"),
    (_is_laid_out_twice, "it has strips and tiles: nothing says which of them are the image"),
    (_is_more_than_whole, "it has more strips or tiles than an image of its size"),
)


class _Layout(NamedTuple):
    """How an image is cut into strips or tiles."""

    name: str
    tags: tuple[int, int]
    """Of the places in the file and of the sizes in bytes."""
    across: int
    """In a row of the image; 1 of strips."""
    down: int
    planes: int
    rows: int
    """Rows of pixels in each."""
    last_rows: int
    """Those that count of the lowest."""
    row_bytes: int
    """Of one row of pixels, not compressed."""

    @property
    def pieces(self) -> int:
        return self.across * self.down * self.planes

    def least_bytes(self, index: int) -> int:
        """Returns the bytes of what counts of a strip or tile, not compressed."""
        is_lowest = index // self.across % self.down == self.down - 1
        return self.row_bytes * (self.last_rows if is_lowest else self.rows)


def _layout(tags: Tags) -> _Layout:
    """Returns the layout as Pillow sees it; no size is taken for 0, whatever a file says."""
    width, height = (max(1, _first(tags, tag, 1)) for tag in (IMAGEWIDTH, IMAGELENGTH))
    columns, rows = width, _first(tags, ROWSPERSTRIP, height)
    name, places = "strip", (STRIPOFFSETS, STRIPBYTECOUNTS)
    if STRIPOFFSETS not in tags and TILEOFFSETS in tags:
        columns, rows = _first(tags, TILEWIDTH, width), _first(tags, TILELENGTH, height)
        name, places = "tile", (TILEOFFSETS, TILEBYTECOUNTS)
    columns, rows = max(1, columns), max(1, rows)
    across, down = -(-width // columns), -(-height // rows)
    samples = max(1, _first(tags, SAMPLESPERPIXEL, 1))
    planes = samples if _first(tags, PLANAR_CONFIGURATION, 1) == 2 else 1
    bits = columns * _first(tags, BITSPERSAMPLE, 1) * (samples // planes)
    last_rows = height - (down - 1) * rows
    return _Layout(name, places, across, down, planes, rows, last_rows, -(-bits // 8))


def _find_lack(
    tags: Tags, data: bytes, offset: int, count: int | None, least_bytes: int
) -> str | None:
    """Returns what a strip or a tile lacks; its count is None where it says nothing."""
    compression = _first(tags, COMPRESSION, _RAW)
    if offset == 0 or count == 0:
        return "has no data"
    if compression == _RAW and count is not None and count < least_bytes:
        return f"has {count} of its {least_bytes} bytes"
    end = len(data) if count is None else offset + count
    start = offset if count is None else max(offset, end - _MOST_BEHIND_JPEG)
    if compression == _JPEG and data.rfind(_END_OF_JPEG, start, end) < 0:
        return "is a JPEG without an end mark"
    return None


def _photometric(tags: Tags) -> int:
    return _first(tags, PHOTOMETRIC_INTERPRETATION, 0)


def _all(tags: Tags, tag: int, default: int = 0) -> tuple[int, ...]:
    value = tags.get(tag, default)
    return (value or (default,)) if isinstance(value, tuple) else (value,)


def _read_tags(data: bytes) -> ImageFileDirectory_v2:
    tags = ImageFileDirectory_v2(data[: 16 if data[2:3] == b"\x2b" else 8])
    file = io.BytesIO(data)
    file.seek(tags.next)
    tags.load(file)
    return tags


def _describe(tags: Tags, endian: str) -> str:
    """Returns, say, `16-bit WhiteIsZero, 2 samples a pixel, raw, big-endian`."""
    bits = "/".join(str(n) for n in dict.fromkeys(_all(tags, BITSPERSAMPLE)))
    photometric = _name(PHOTOMETRIC_INTERPRETATION, tags.get(PHOTOMETRIC_INTERPRETATION))
    kind = {_SIGNED: " signed", _FLOAT: " floating-point"}.get(_first(tags, SAMPLEFORMAT, 1), "")
    code = _first(tags, COMPRESSION, 1)
    parts = [
        f"{bits}-bit{kind} {photometric}",
        f"samples a pixel: {_first(tags, SAMPLESPERPIXEL, 1)}",
        f"compression: {COMPRESSION_INFO.get(code, code)}",
        f"planes: {_name(PLANAR_CONFIGURATION, _first(tags, PLANAR_CONFIGURATION, 1))}",
        f"{endian}-endian",
    ]
    return ", ".join(parts)


def _name(tag: int, value: object) -> str:
    known: Any = TiffTags.lookup(tag)  # Pillow's hints take its numbers for texts
    names = {number: name for name, number in known.enum.items()}
    return str(names.get(value, f"{known.name} {value}"))
