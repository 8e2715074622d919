"""TIFFs of every kind, and what other decoders make of them."""

import io
import struct

import imagecodecs
import numpy as np
import tifffile

from tests.images.ramps import HOW, SIDE
from vqpipe.images import View, open_image
from vqpipe.rejections import Reason

BYTE_ORDERS = {"little": "<", "big": ">"}


def samples(levels, dtype=np.uint8, bits=None):
    """Returns 0..1 as integers of that many bits."""
    bits = bits or np.dtype(dtype).itemsize * 8
    return np.round(levels * (2**bits - 1)).astype(dtype)


def written(array, photometric, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, photometric=photometric, metadata=None, **options)
    return buffer.getvalue()


def by_hand(tags, data, order="<"):
    """Returns a TIFF of one strip; `tags` are numbers or tuples of 16 bits."""
    tags = {256: SIDE, 257: SIDE, 259: 1, 277: 1, 278: SIDE, 273: 0, 279: len(data)} | tags
    tags = dict(sorted((tag, value) for tag, value in tags.items() if value is not None))
    values = {
        tag: struct.pack(f"{order}{len(value)}H", *value)
        if isinstance(value, tuple)
        else struct.pack(f"{order}I", value)
        for tag, value in tags.items()
    }
    at = 8 + 2 + 12 * len(tags) + 4
    values[273] = struct.pack(f"{order}I", at + sum(len(v) for v in values.values() if len(v) > 4))
    directory, behind = struct.pack(f"{order}H", len(tags)), b""
    for tag, packed in values.items():
        is_short = isinstance(tags[tag], tuple)
        entry = (tag, 3 if is_short else 4, len(tags[tag]) if is_short else 1)
        place = packed.ljust(4, b"\0")
        if len(packed) > 4:
            place, behind = struct.pack(f"{order}I", at + len(behind)), behind + packed
        directory += struct.pack(f"{order}HHI", *entry) + place
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(f"{order}I", 8) + directory + bytes(4) + behind + data


def truth(data):
    """Returns what the numbers that tifffile reads mean (TIFF 6.0, sections 3 to 6, 16, 18)."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        stored = page.asarray() / (2**page.bitspersample - 1)
    if page.planarconfig == 2 and stored.ndim == 3:
        stored = np.moveaxis(stored, 0, -1)
    stored = stored if stored.ndim == 3 else stored[..., None]
    count = stored.shape[-1] - len(page.extrasamples)
    shown, alpha = stored[..., :count], 1
    if page.photometric == 0:
        shown = 1 - shown
    if page.photometric == 5:
        shown = (1 - shown[..., :3]) * (1 - shown[..., 3:])
    if page.extrasamples and page.extrasamples[0]:
        alpha = stored[..., count : count + 1]
        shown = shown if page.extrasamples[0] == 1 else shown * alpha
    return 255 * (shown + 1 - alpha)


def libtiff(data):
    return imagecodecs.tiff_decode(data, asrgb=True)[..., :3]


def check_opened(data, want, most=1):
    """Checks that a TIFF opens; some levels off are where several roundings meet."""
    found = open_image(data, HOW)
    assert isinstance(found, View), found
    assert np.abs(found.pixels - want.astype(float)).max() <= most


def check_rejected(data, *words):
    found = open_image(data, HOW)
    assert found.reason == Reason.UNSUPPORTED
    for word in words:
        assert word in found.message
    assert len(found.message) <= 250


def with_number(data, tag, number, order="<"):
    """Returns a TIFF that has another number in a tag, of 16 or 32 bits."""
    data = bytearray(data)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        found = file.pages[0].tags[tag]
    struct.pack_into(
        f"{order}{ {3: 'H', 4: 'I'}[int(found.dtype)] }", data, found.valueoffset, number
    )
    return bytes(data)
