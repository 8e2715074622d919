"""Kinds of TIFF: what the tags say of the samples, and which kinds Pillow would open as others.

Each rule of `find_unsupported` is a kind that Pillow 13 opens without a word as something else than
libtiff does, or of which nothing says what its numbers mean. Numbers of tags and their values are
those of TIFF 6.0.
"""

import io
from collections.abc import Callable, Mapping
from typing import Any

from PIL import TiffTags
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    COLORMAP,
    COMPRESSION,
    COMPRESSION_INFO,
    EXTRASAMPLES,
    PHOTOMETRIC_INTERPRETATION,
    PLANAR_CONFIGURATION,
    SAMPLEFORMAT,
    SAMPLESPERPIXEL,
    YCBCRSUBSAMPLING,
    ImageFileDirectory_v2,
)

BIG_ENDIAN_64 = b"MM\0\x2b"
"""Begins a big-endian TIFF of 64-bit offsets, whose tags Pillow looks for in the wrong place."""

_INK_SET = 332
_FAX_OR_JPEG = {2, 3, 4, 6, 7}
_WHITE_IS_ZERO, _RGB, _CMYK, _YCBCR, _CIELAB = 0, 2, 5, 6, 8
_SIGNED, _FLOAT = 2, 3

Tags = Mapping[int, Any]


def find_unsupported(tags: Tags) -> str | None:
    """Returns why a TIFF that Pillow opens would come out wrong, or None."""
    return next((reason for applies, reason in _RULES if applies(tags)), None)


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
)


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
