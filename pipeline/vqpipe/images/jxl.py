"""JPEG XL's header: the size, which the decoder tells only with the pixels, and what it gets wrong.

    ff 0a | size, ImageMetadata: bits, the lowest of a byte first | frames
    boxes: jxlc, or parts in several jxlp, with the same in them; jbrd, Exif, ...

Fields, their widths and defaults are those of ISO/IEC 18181-1, annexes A, D and E; boxes those of
18181-2.
"""

from collections.abc import Iterator
from typing import NamedTuple

from vqpipe.images import hdr, isobmff

_BARE, _BOXED = b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_ALPHA, _SPOT, _BLACK, _FILTERED = 0, 2, 4, 5  # kinds of extra channels
_GREY, _XYB = 1, 2  # colour spaces
_CUSTOM, _SRGB = 2, 13
_MOST_BITS = 16

_Choice = tuple[int, int]
"""How many bits a number has, and what is added to it."""
_SIDE = ((9, 1), (13, 1), (18, 1), (30, 1))
_ENUM = ((0, 0), (0, 1), (4, 2), (6, 18))
_XY = ((19, 0), (19, 2**19), (20, 2**20), (21, 2**21))


class Header(NamedTuple):
    """What a JPEG XL says of itself before its pixels."""

    width: int
    """Pixels, as it is stored."""
    height: int
    orientation: int = 1
    """As EXIF counts."""
    is_animation: bool = False
    bits: int = 8
    """Of a sample."""
    is_float: bool = False
    extras: tuple[int, ...] = ()
    """Kinds of the channels beside the colours."""
    is_premultiplied: bool = False
    """Whether its colours are already multiplied by its alpha."""
    is_xyb: bool = True
    """Whether samples are stored in the decoder's own colours, as with losses."""
    has_profile: bool = False
    colour_space: int = 0
    transfer: int = _SRGB
    """By the numbers of H.273; 0 where a profile or an exponent says it."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height once it is upright."""
        is_swapped = self.orientation > 4
        return (self.height, self.width) if is_swapped else (self.width, self.height)

    @property
    def mode(self) -> str:
        """Pillow's name of what its pixels become."""
        is_grey, has_alpha = self.colour_space == _GREY, _ALPHA in self.extras
        if is_grey and not has_alpha:
            return "I;16" if self.bits > 8 else "L"
        alpha = ("a" if self.is_premultiplied else "A") if has_alpha else ""
        return ("L" if is_grey else "RGB") + alpha


def is_jxl(data: bytes) -> bool:
    """Tells whether a file begins like a JPEG XL."""
    return data.startswith((_BARE, _BOXED))


def read_header(data: bytes) -> Header:
    """Returns what a JPEG XL says of itself.

    Raises:
        SyntaxError: If it ends early.
    """
    bits = _Bits(_codestream(data))
    width, height = _read_size(bits)
    header = Header(width, height)
    if bits.flag():  # all else by default
        return header
    has_more = bits.flag()
    if has_more:
        header = header._replace(orientation=1 + bits.read(3))
        if bits.flag():
            _read_size(bits)  # at which to show it
        if bits.flag():
            _skip_preview(bits)
        if bits.flag():
            return header._replace(is_animation=True)
    is_float, depth = _read_depth(bits)
    header = header._replace(is_float=is_float, bits=depth)
    bits.read(1)  # whether 16 bits are enough for a decoder
    header = _read_extras(bits, header)
    return _read_colours(bits, header._replace(is_xyb=bits.flag()))


def find_unsupported(header: Header) -> str | None:
    """Returns why a JPEG XL would come out wrong, or None."""
    rules = (
        (header.is_animation, "it is an animation, of which the decoder gives the last frame"),
        (header.is_float, "its samples are floating-point: nothing says which value is white"),
        (header.bits > _MOST_BITS, f"its samples have {header.bits} bits"),
        (_BLACK in header.extras, "its colours are CMYK"),
        (header.colour_space == _XYB, "its colours are XYB"),
        # With losses, colours are stored as the decoder's own. Back to a profile it finds no way,
        # and to linear light instead, of which 8 bits are too few.
        (header.has_profile and header.is_xyb, "its profile is one that libjxl cannot go back to"),
    )
    said = next((reason for applies, reason in rules if applies), None)
    return said or hdr.find_unsupported(header.transfer)


class _Bits:
    """A file, read bit by bit."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def read(self, count: int) -> int:
        """Returns a number of so many bits."""
        first, start = divmod(self._at, 8)
        self.skip(count)
        part = self._data[first : (self._at + 7) // 8]
        return int.from_bytes(part, "little") >> start & ((1 << count) - 1)

    def skip(self, count: int) -> None:
        """Leaves bits out."""
        self._at += count
        if self._at > 8 * len(self._data):
            raise SyntaxError("the header ends early")

    def flag(self) -> bool:
        return bool(self.read(1))

    def choose(self, *choices: _Choice) -> int:
        """Returns a number of one of four widths, which two bits before it name (U32)."""
        width, offset = choices[self.read(2)]
        return offset + self.read(width)


def _codestream(data: bytes) -> bytes:
    """Returns a JPEG XL without the boxes around it, and without its first two bytes."""
    bare = data if data.startswith(_BARE) else b"".join(_parts(data))
    if not bare.startswith(_BARE):
        raise SyntaxError("no JPEG XL is in it")
    return bare[len(_BARE) :]


def _parts(data: bytes) -> Iterator[bytes]:
    for box in isobmff.boxes(data):
        if box.kind == b"jxlc":
            yield data[box.start : box.end]
            return
        if box.kind == b"jxlp":  # which begins with its number
            yield data[box.start + 4 : box.end]


def _read_size(bits: _Bits) -> tuple[int, int]:
    """Returns width and height."""
    is_small = bits.flag()  # of eights

    def side() -> int:
        return 8 * (1 + bits.read(5)) if is_small else bits.choose(*_SIDE)

    height, ratio = side(), bits.read(3)
    if not ratio:
        return side(), height
    across, down = _RATIOS[ratio - 1]
    return height * across // down, height


def _skip_preview(bits: _Bits) -> None:
    choices: tuple[_Choice, ...] = ((6, 1), (8, 65), (10, 321), (12, 1345))
    if bits.flag():  # of eights
        choices = ((0, 16), (0, 32), (5, 1), (9, 33))
    bits.choose(*choices)
    if not bits.read(3):
        bits.choose(*choices)


def _read_depth(bits: _Bits) -> tuple[bool, int]:
    """Returns whether samples are floating-point, and their bits."""
    if not bits.flag():
        return False, bits.choose((0, 8), (0, 10), (0, 12), (6, 1))
    depth = bits.choose((0, 32), (0, 16), (0, 24), (6, 1))
    bits.skip(4)  # of the exponent
    return True, depth


def _read_extras(bits: _Bits, header: Header) -> Header:
    """Returns the header with the channels beside the colours; the first alpha is the one."""
    extras, first_is_premultiplied = [], None
    for _ in range(bits.choose((0, 0), (0, 1), (4, 2), (12, 1))):
        kind, is_premultiplied = _read_extra(bits)
        extras.append(kind)
        if kind == _ALPHA and first_is_premultiplied is None:
            first_is_premultiplied = is_premultiplied
    return header._replace(extras=tuple(extras), is_premultiplied=bool(first_is_premultiplied))


def _read_extra(bits: _Bits) -> tuple[int, bool]:
    """Returns the kind of a channel, and whether colours are multiplied by it."""
    if bits.flag():
        return _ALPHA, False
    kind = bits.choose(*_ENUM)
    _read_depth(bits)
    bits.choose((0, 0), (0, 3), (0, 4), (3, 1))  # by how much it is smaller
    bits.skip(8 * bits.choose((0, 0), (4, 0), (5, 16), (10, 48)))  # its name
    if kind == _SPOT:
        bits.skip(4 * 16)
    elif kind == _FILTERED:
        bits.choose((0, 1), (2, 0), (4, 3), (8, 19))
    return kind, kind == _ALPHA and bits.flag()


def _read_colours(bits: _Bits, header: Header) -> Header:
    """Returns the header with its colours; what follows them says nothing that is asked for."""
    if bits.flag():  # sRGB
        return header
    has_profile, space = bits.flag(), bits.choose(*_ENUM)
    header = header._replace(has_profile=has_profile, colour_space=space, transfer=0)
    if has_profile or space == _XYB:
        return header
    points = 1 if bits.choose(*_ENUM) == _CUSTOM else 0  # of white
    for _ in range(2 * points):
        bits.choose(*_XY)
    points = 3 if space != _GREY and bits.choose(*_ENUM) == _CUSTOM else 0  # of the primaries
    for _ in range(2 * points):
        bits.choose(*_XY)
    if bits.flag():  # an exponent
        return header
    return header._replace(transfer=bits.choose(*_ENUM))
