"""JPEG XLs of which every bit of the header is known (ISO/IEC 18181-1, annexes A, D and E)."""

import imagecodecs

from tests.makers import picture

PIXELS = picture(64, 40)
SRGB = [(1, 1)]
NO_EXTRAS = [(0, 2)]
ALPHA = [(1, 2), (1, 1)]
EIGHT_BITS = [(0, 1), (0, 2)]


def colours(transfer, primaries=(1, 2), space=(0, 2)):
    """Returns a colour encoding by its parts: white D65, and a transfer function of 2 to 17."""
    coded = [(2, 2), (transfer - 2, 4)] if transfer < 18 else [(3, 2), (transfer - 18, 6)]
    return [(0, 1), (0, 1), space, (1, 2), primaries, (0, 1), *coded, (1, 2)]


def header(orientation=0, depth=EIGHT_BITS, extras=NO_EXTRAS, colours=SRGB, is_xyb=0, animation=()):
    """Returns the header of 64 x 40 pixels from pairs of a number and its bits."""
    more = bool(orientation or animation)
    fields = [(1, 1), (40 // 8 - 1, 5), (0, 3), (64 // 8 - 1, 5), (0, 1), (more, 1)]
    if more:
        fields += [(max(orientation, 1) - 1, 3), (0, 1), (0, 1), (bool(animation), 1), *animation]
    fields += [*depth, (1, 1), *extras, (is_xyb, 1), *colours]
    fields += [(1, 1)] if more else []  # of tone mapping
    fields += [(0, 2), (1, 1)]  # extensions, transforms
    value = length = 0
    for number, bits in fields:
        value |= int(number) << length
        length += bits
    return b"\xff\x0a" + value.to_bytes((length + 7) // 8, "little")


def with_header(**fields):
    """Returns `PIXELS` with another header in front of the frames, which begin with a byte."""
    data = imagecodecs.jpegxl_encode(PIXELS, lossless=True)
    plain = header()
    assert data.startswith(plain), "another encoder, which writes another header"
    return header(**fields) + data[len(plain) :]


def box(kind, body):
    return (len(body) + 8).to_bytes(4, "big") + kind + body


def boxed(*parts):
    """Returns a JPEG XL in boxes; more than one part is put into as many (ISO/IEC 18181-2)."""
    start = box(b"JXL ", b"\r\n\x87\n") + box(b"ftyp", b"jxl \0\0\0\0jxl ")
    if len(parts) == 1:
        return start + box(b"jxlc", parts[0])
    numbers = [*range(len(parts) - 1), len(parts) - 1 | 1 << 31]
    pieces = zip(numbers, parts, strict=True)
    return start + b"".join(
        box(b"jxlp", number.to_bytes(4, "big") + part) for number, part in pieces
    )
