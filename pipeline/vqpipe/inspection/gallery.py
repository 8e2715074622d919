"""The images of a decoded shard, wherever its layout has them, held against what `data/` lists.

Nothing that an object says of itself is believed: sizes are counted, a tar is hashed and read to
its end, every image is hashed, and opened as far as its header.
"""

import io
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa
from PIL import Image

from vqpipe import storage
from vqpipe.images import FORMATS
from vqpipe.schema import File
from vqpipe.sink.beside import PLACE, list_files, sha256
from vqpipe.sink.footer import IMAGE_BYTES
from vqpipe.storage.ahead import map_ahead

_READERS = 16


def find_fault(sink: str, table: pa.Table, said: dict[str, Any]) -> str | None:
    """Returns what is wrong with the images of a shard; None if nothing is.

    Args:
        sink: Where the run is.
        table: Its object in `data/`.
        said: What the footer of that object says.

    Raises:
        StorageError: If the store does not answer.
    """
    if said["images"]["layout"] == "parquet":
        if table["image"].null_count:
            return f"{table['image'].null_count} images are null"
        values = (value.as_buffer().to_pybytes() for value in table["image"])
        images = zip(table["key"].to_pylist(), values, strict=True)
        return _check_headers(images, table, said)
    found = list_files(sink, said[PLACE])
    if said["images"]["layout"] == "folder":
        return _check_folder(storage.join_uri(sink, said[PLACE]), found, table, said)
    return _check_tar(storage.join_uri(sink, said[PLACE]), table, said)


def _check_folder(
    folder: str, found: Mapping[str, File], table: pa.Table, said: dict[str, Any]
) -> str | None:
    sizes = {name: file.size for name, file in found.items()}
    wrong = _differ(folder, _listed(table), sizes) or _check_bytes(sum(sizes.values()), said)
    if wrong:
        return wrong
    names = table["file"].to_pylist()
    images = zip(names, map_ahead(_read, (found[name] for name in names), _READERS), strict=True)
    return _check_images(images, table, said)


def _read(file: File) -> bytes:
    return storage.read(file.uri)


def _check_tar(uri: str, table: pa.Table, said: dict[str, Any]) -> str | None:
    try:
        data = storage.read(uri)
    except FileNotFoundError:
        return f"{uri} is missing"
    if sha256(data) != said["tar"]["sha256"]:
        return f"{uri} is not the one that was written: its SHA-256 is another one"
    listed = _listed(table)
    found: dict[str, int] = {}

    def images() -> Iterator[tuple[str, bytes]]:
        """Yields one image after the other, and leaves its size behind."""
        for name, content in _members(data):
            if name in listed:
                found[name] = len(content)
                yield name, content

    wrong = _check_images(images(), table, said)
    return wrong or _differ(uri, listed, found) or _check_bytes(len(data), said)


def _check_images(
    images: Iterable[tuple[str, bytes]], table: pa.Table, said: dict[str, Any]
) -> str | None:
    """Returns which image is not the one that was written, or no image as it must be."""
    digests = dict(zip(table["file"].to_pylist(), table["sha256"].to_pylist(), strict=True))
    changed: list[str] = []

    def same() -> Iterator[tuple[str, bytes]]:
        for name, data in images:
            if sha256(data) != digests[name]:
                changed.append(name)
                return
            yield name, data

    wrong = _check_headers(same(), table, said)
    if changed:
        return f"{changed[0]!r} is not the image that was written: its SHA-256 is another one"
    return wrong


def _check_bytes(found: int, said: dict[str, Any]) -> str | None:
    if found == said[IMAGE_BYTES]:
        return None
    return f"its images have {found:,} bytes, and the footer says {said[IMAGE_BYTES]:,}"


def _members(data: bytes) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            file = tar.extractfile(member)
            yield member.name, file.read() if file else b""


def _listed(table: pa.Table) -> dict[str, int]:
    """Returns the bytes of each image that `data/` lists."""
    return dict(zip(table["file"].to_pylist(), table["bytes"].to_pylist(), strict=True))


def _differ(place: str, listed: dict[str, int], found: dict[str, int]) -> str | None:
    """Returns how files differ from those that are listed, with the first one's name."""
    kinds = {
        "are missing": [name for name in listed if name not in found],
        "are listed nowhere": [name for name in found if name not in listed],
        "have another size than listed": [
            name for name, size in listed.items() if found.get(name, size) != size
        ],
    }
    said = [f"{len(names)} {what}, first {names[0]!r}" for what, names in kinds.items() if names]
    return f"{place}: of its images, {'; '.join(said)}" if said else None


def _check_headers(
    images: Iterable[tuple[str, bytes]], table: pa.Table, said: dict[str, Any]
) -> str | None:
    """Returns which image is not of the format and size that it must have, the first one."""
    kind = said["images"]["format"].upper()
    sizes = set(zip(table["width"].to_pylist(), table["height"].to_pylist(), strict=True))
    for name, data in images:
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                found = (image.format, image.size)
        except OSError:  # Pillow's UnidentifiedImageError is one
            return f"{name!r} cannot be opened"
        if found[0] != kind or found[1] not in sizes:
            return f"{name!r} is a {found[0]} of {found[1][0]} x {found[1][1]} px"
    return None
