"""A few thousand images in tars, some of them bad on purpose, and what must become of each."""

import struct
import zlib

import numpy as np
from PIL import Image, ImageCms

from tests.images import poison
from tests.makers import encoded, jpeg, picture, tar_of

MAX_PIXELS = 10_000_000
"""Limit that the corpus is made for."""


def write(folder, shards, images):
    """Writes tars of images.

    Args:
        folder: Where to.
        shards: How many tars.
        images: Images of each tar; every tar has one of each kind among them, bad ones included.

    Returns:
        For every key, the reason for which it must be rejected, or None.
    """
    folder.mkdir(parents=True)
    expected = {}
    for shard in range(shards):
        members, fates = _members(shard, images)
        data = tar_of(members)
        if shard == shards - 1:
            data, fates = _cut(data, members, fates)
        (folder / f"{shard:03d}.tar").write_bytes(data)
        expected |= fates
    return expected


def _members(shard, images):
    special = _good(shard) | {f"{name}.jpg": data for name, (data, _) in _bad(shard).items()}
    reasons = {name: reason for name, (_, reason) in _bad(shard).items()}
    plain = {f"{i:04d}.jpg": jpeg(100 + i % 30, 80, seed=1000 * shard + i) for i in range(images)}
    order = np.random.default_rng(shard).permutation(images + len(special))
    pairs = [*plain.items(), *special.items()]
    members = {f"{shard:03d}-{name}": data for name, data in (pairs[i] for i in order)}
    fates = {name.partition(".")[0]: None for name in members}
    return members, fates | {f"{shard:03d}-{name}": reason for name, reason in reasons.items()}


def _cut(data, members, fates):
    """Ends a tar in the middle of its last member but one; what follows is not in the shard."""
    *_, cut, last = members
    fates = dict(fates)
    del fates[last.partition(".")[0]]
    fates[cut.partition(".")[0]] = "shard_damaged"
    at = data.index(cut.encode())
    return data[: at + 512 + len(members[cut]) // 2], fates


def _good(shard):
    """Returns one image of every kind that is in use, by file name."""
    image = Image.fromarray(picture(90, 70, shard))
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    sixteen = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    return {
        "cmyk.jpg": encoded(image.convert("CMYK"), "JPEG"),
        "palette.png": encoded(image.convert("P"), "PNG"),
        "sixteen.png": encoded(sixteen, "PNG"),
        "grey.jpg": encoded(image.convert("L"), "JPEG"),
        "grey_alpha.png": encoded(image.convert("LA"), "PNG"),
        "rgba.png": encoded(image.convert("RGBA"), "PNG"),
        "rotated.jpg": encoded(image, "JPEG", exif=exif),
        "profile.jpg": encoded(image, "JPEG", icc_profile=profile),
        "gif.gif": encoded(image, "GIF", save_all=True, append_images=[image.rotate(90)]),
        "webp.webp": encoded(image, "WEBP", save_all=True, append_images=[image.rotate(90)]),
    }


def _bad(shard):
    """Returns bad images and why they must be rejected, by name; decoders hang in one shard."""
    whole = jpeg(100, 80, seed=shard)
    found = {
        "truncated": (whole[: len(whole) // 2], "truncated"),
        "empty": (b"", "empty"),
        "html": (b"<!doctype html><html>404 not found</html>", "not_an_image"),
        "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not_an_image"),
        "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not_an_image"),
        "video": (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "not_an_image"),
        "huge": (huge_png(30_000, 30_000), "too_many_pixels"),
        "crash": (poison.CRASH, "decoder_crashed"),
    }
    if shard == 0:
        found["hang"] = (poison.HANG, "timed_out")
        found["memory"] = (poison.MEMORY, "too_much_memory")
    return found


def huge_png(width, height):
    """Returns a PNG whose header announces so many pixels, with next to no data behind it."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    parts = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, body) for kind, body in parts)


def _chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
