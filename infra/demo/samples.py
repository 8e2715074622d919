"""Builds the demo's three sources, about 200 images in all, a few of them broken on purpose.

tars/      four webdataset shards of crops, with captions
parquet/   one Parquet file with the image struct of Hugging Face
folder/    the whole photos and some crops, as files
"""

import io
import itertools
import random
import struct
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from infra.demo.photos import PACKAGED, open_photo

SEED = 7
DISTINCT = 240
TARS, TAR_SAMPLES, PARQUET_SAMPLES, FOLDER_CROPS = 4, 30, 40, 30
KINDS = (("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP"))


def build_sources(root: Path) -> dict[str, Path]:
    """Writes the three sources below `root`, the same every time; returns them by name."""
    rng = random.Random(SEED)  # noqa: S311 (crops, not secrets)
    photos = {name: open_photo(name) for name in PACKAGED}
    crops = _crops(photos, rng)
    sources = {name: root / name for name in ("tars", "parquet", "folder")}
    for folder in sources.values():
        folder.mkdir(parents=True, exist_ok=True)
    for index in range(TARS):
        _write_tar(sources["tars"] / f"{index:04d}.tar", crops, index)
    _write_parquet(sources["parquet"] / "photos.parquet", crops)
    _write_folder(sources["folder"], photos, crops)
    return sources


def build_photos(folder: Path, count: int, shards: int) -> None:
    """Writes JPEGs of a few good crops, over and over, into tars of equal size."""
    crops = _crops({name: open_photo(name) for name in PACKAGED}, random.Random(SEED))  # noqa: S311
    photos = [_encoded(crop, "JPEG") for _, crop in itertools.islice(crops, DISTINCT)]
    folder.mkdir(parents=True)
    for index in range(shards):
        with tarfile.open(folder / f"{index:04d}.tar", "w") as tar:
            for number in range(index, count, shards):
                _add(tar, f"{number:06d}.jpg", photos[number % DISTINCT])


def _crops(photos: dict[str, Image.Image], rng: random.Random) -> Iterator[tuple[str, Image.Image]]:
    """Yields name and crop for ever: any photo, any place, 200 to 400 pixels a side."""
    while True:
        name = rng.choice(sorted(photos))
        photo = photos[name]
        width, height = (min(rng.randint(200, 400), side) for side in photo.size)
        left, top = rng.randint(0, photo.width - width), rng.randint(0, photo.height - height)
        yield name, photo.crop((left, top, left + width, top + height))


def _encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def _write_tar(path: Path, crops: Iterator[tuple[str, Image.Image]], index: int) -> None:
    broken = _broken()
    with tarfile.open(path, "w") as tar:
        for number in range(TAR_SAMPLES):
            name, crop = next(crops)
            extension, kind = KINDS[number % len(KINDS)]
            data = _encoded(crop, kind)
            if number == TAR_SAMPLES - 1:  # one bad image in every tar, each of its own kind
                extension, data = "jpg", broken[index]
            key = f"{index * TAR_SAMPLES + number:06d}"
            _add(tar, f"{key}.{extension}", data)
            _add(tar, f"{key}.txt", f"a piece of {name}".encode())


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _broken() -> list[bytes]:
    """Returns four files that are no good images: cut, empty, a web page, 900 megapixels."""
    whole = _encoded(open_photo("coffee"), "JPEG")
    return [whole[: len(whole) // 3], b"", b"<html>404 Not Found</html>", _huge_png()]


def _huge_png() -> bytes:
    """Returns a PNG whose header announces 30,000 x 30,000 pixels and that holds none of them."""
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def _write_parquet(path: Path, crops: Iterator[tuple[str, Image.Image]]) -> None:
    rows = []
    for number in range(PARQUET_SAMPLES):
        name, crop = next(crops)
        image = {"bytes": _encoded(crop, "JPEG"), "path": f"{number}.jpg"}
        rows.append({"id": f"crop-{number:03d}", "image": image, "photo": name})
    rows[11]["image"] = None
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("id", pa.string()), ("image", kind), ("photo", pa.string())])
    pq.write_table(pa.Table.from_pylist(rows, schema), path, row_group_size=16)


def _write_folder(
    folder: Path, photos: dict[str, Image.Image], crops: Iterator[tuple[str, Image.Image]]
) -> None:
    (folder / "whole").mkdir(exist_ok=True)
    (folder / "crops").mkdir(exist_ok=True)
    for name, photo in photos.items():
        (folder / "whole" / f"{name}.png").write_bytes(_encoded(photo, "PNG"))
    for number in range(FOLDER_CROPS):
        name, crop = next(crops)
        (folder / "crops" / f"{number:03d}-{name}.jpg").write_bytes(_encoded(crop, "JPEG"))
    (folder / "crops" / "not-a-photo.jpg").write_bytes(b"\x00\x00\x00\x18ftypmp42 a video")
