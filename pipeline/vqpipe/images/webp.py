"""WebP: what its header (RIFF, VP8X) says that Pillow takes in another way.

RIFF | bytes that follow | WEBP | VP8X | bytes | flags | ...
"""

_FLAGS = 20  # where they are; https://developers.google.com/speed/webp/docs/riff_container
_ANIMATION, _ALPHA = 0x02, 0x10


def with_alpha(data: bytes) -> bytes:
    """Returns an animation as one that may be transparent; other files as they are.

    What its first frame leaves of the canvas is transparent, which Pillow sees by this flag only,
    and else as black.
    """
    if data[:4] != b"RIFF" or data[8:16] != b"WEBPVP8X" or len(data) <= _FLAGS:
        return data
    if not data[_FLAGS] & _ANIMATION or data[_FLAGS] & _ALPHA:
        return data
    return data[:_FLAGS] + bytes([data[_FLAGS] | _ALPHA]) + data[_FLAGS + 1 :]


def is_cut(data: bytes) -> bool:
    """Tells a WebP that is shorter than it says: libwebp refuses it without naming a cause."""
    return data[:4] == b"RIFF" and int.from_bytes(data[4:8], "little") + 8 > len(data)
