"""Tars in the webdataset layout: consecutive members with one key are one sample.

The key is a member's path up to the first dot of its base name, and what follows that dot is the
extension: `train/0001.seg.png` is `seg.png` of `train/0001`. A member without an extension is the
image if it begins as one and no other member is. The layout is webdataset's own:
https://github.com/webdataset/webdataset, `webdataset/tariterators.py`, `base_plus_ext`.

Nothing is extracted to disk or unpickled, and only images and kept text are read into memory.
"""

import gzip
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, BinaryIO, cast

import pyarrow as pa

from pipeline import storage
from pipeline.errors import ConfigError
from pipeline.schema import File, Reason, Rejection, Sample, Selection, Shard
from pipeline.sources.contents import HEAD_BYTES, is_image
from pipeline.sources.damage import PARSER_ERRORS, brief, damaged
from pipeline.sources.extensions import IMAGE_EXTENSIONS
from pipeline.sources.growth import check_growth, most_bytes
from pipeline.sources.headers import Header
from pipeline.sources.keys import Keys, check_count
from pipeline.sources.names import shard_names

MAX_IMAGE_BYTES = 2**30
"""Larger images are rejected unread (1 GiB)."""
MAX_TEXT_BYTES = 16 * 2**20
"""Larger kept text is rejected unread (16 MiB)."""

MAX_MEMBERS = 1_000
"""Most members of a sample; the next one begins another of the same key."""

_GZIP_MAGIC = b"\x1f\x8b"
_TAR_ERRORS = (tarfile.TarError, *PARSER_ERRORS)


def list_shards(root: str, files: list[File]) -> list[Shard]:
    """Returns one shard a tar."""
    names = shard_names(root, files)
    return [Shard(name, "webdataset", (file,)) for name, file in zip(names, files, strict=True)]


def kept_schema(selection: Selection) -> pa.Schema:
    """Returns one string column for every kept extension.

    Raises:
        ConfigError: If a key column is given, or an image is to be kept as text.
    """
    if selection.key is not None:
        raise ConfigError("a webdataset's keys are the names of its members: drop the key option")
    for name in selection.keep:
        if name.lower() in _image_ranks(selection):
            raise ConfigError(f"keep names {name!r}, which is the image: leave it out")
    return pa.schema([pa.field(name, pa.string()) for name in selection.keep])


def read_shard(shard: Shard, selection: Selection, kept: pa.Schema) -> Iterator[Sample]:
    """Yields the samples of one tar, which may be gzipped."""
    seen = Keys()
    uri = shard.files[0].uri
    with storage.open_file(shard.files[0]) as file:
        for row, draft in enumerate(_read_drafts(file, selection, kept)):
            check_count(row, uri)
            if draft.damage is not None:
                key = None if draft.key is None or draft.key in seen else draft.key
                yield damaged(row, key, f"{uri}, {draft.place}", draft.damage)
            else:
                yield _finish(row, draft, seen)


@dataclass
class _Draft:
    """One sample as far as its members have been read."""

    key: str | None
    extensions: list[str] = field(default_factory=list)
    image: bytes | None = None
    rank: int = 2**31
    """Place of `image` in the order of preference; smaller is better."""
    links: list[str] = field(default_factory=list)
    kept: dict[str, str | None] = field(default_factory=dict)
    rejection: Rejection | None = None
    damage: Exception | None = None
    place: str = ""
    """Where in the tar the damage is."""

    def takes(self, key: str, extension: str) -> bool:
        """Tells whether a member that comes next belongs to this sample."""
        has_room = len(self.extensions) < MAX_MEMBERS
        return self.key == key and has_room and extension not in self.extensions

    def is_complete(self, kept: pa.Schema) -> bool:
        """Tells whether nothing that is wanted can be missing."""
        has_all = self.image is not None and all(name in self.kept for name in kept.names)
        return has_all or self.rejection is not None


def _read_drafts(file: BinaryIO, selection: Selection, kept: pa.Schema) -> Iterator[_Draft]:
    ranks = _image_ranks(selection)
    texts = {name.lower(): name for name in kept.names}
    draft: _Draft | None = None
    place = "byte 0"
    try:
        for tar, member in _read_members(file, ranks):
            place = f"in or after member {_text(member.name)!r} at byte {member.offset_data}"
            key, extension = _split_name(member.name)
            if draft is not None and not draft.takes(key, extension):
                yield draft
                draft = None
            draft = draft or _Draft(key)
            draft.extensions.append(extension)
            _add_member(draft, tar, member, ranks.get(extension), texts.get(extension))
            if not extension and draft.image is None and selection.image is None:
                draft.image = _read_bare(tar, member)
    except _TAR_ERRORS as error:
        if draft is not None and draft.is_complete(kept):
            yield draft
            draft = None
        yield _Draft(draft.key if draft else None, damage=error, place=place)
    else:
        if draft is not None:
            yield draft


def _read_members(
    file: BinaryIO, ranks: dict[str, int]
) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Yields the members that can belong to a sample, in order, going forward only.

    Mode `r:` on a seekable file rather than the stream mode `r|`, which reads on and on past the
    end for an absurd size, ignores the second part of a gzip file and checks no checksum of it.
    """
    is_gzip, most = _look_inside(file)
    with (
        cast("IO[bytes]", gzip.GzipFile(fileobj=file)) if is_gzip else file as plain,
        tarfile.open(
            fileobj=plain, mode="r:", tarinfo=Header, encoding="utf-8", errors="surrogateescape"
        ) as tar,
    ):
        while (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # else it grows with the archive
            check_growth(tar.offset, most)  # before what stands there is skipped
            if _is_wanted(member, ranks):
                yield tar, member
        while rest := plain.read(2**20):
            if rest.strip(b"\0"):
                raise tarfile.ReadError("more data follows the end mark")
            check_growth(plain.tell(), most)


def _look_inside(file: BinaryIO) -> tuple[bool, int]:
    """Tells whether a file is a gzip, and how many bytes may be in it."""
    size = file.seek(0, 2)
    file.seek(0)
    is_gzip = file.read(2) == _GZIP_MAGIC
    file.seek(0)
    return is_gzip, most_bytes(size) if is_gzip else sys.maxsize


def _image_ranks(selection: Selection) -> dict[str, int]:
    wanted = IMAGE_EXTENSIONS if selection.image is None else (selection.image.lower(),)
    return {extension: rank for rank, extension in enumerate(wanted)}


def _split_name(name: str) -> tuple[str, str]:
    """Returns key and lower-case extension of a member, both valid Unicode."""
    folder, slash, base = _text(name).removeprefix("./").rpartition("/")
    stem, _, extension = base.partition(".")
    return folder + slash + stem, extension.lower()


def _text(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _is_wanted(member: tarfile.TarInfo, ranks: dict[str, int]) -> bool:
    """Tells what belongs to a sample from folders, hidden files and links beside the images."""
    if member.name.rpartition("/")[2].startswith(".") or member.isdir():
        return False
    return member.isfile() or _split_name(member.name)[1] in ranks


def _add_member(
    draft: _Draft, tar: tarfile.TarFile, member: tarfile.TarInfo, rank: int | None, text: str | None
) -> None:
    if not member.isfile():
        draft.links.append(_text(member.name))
    elif rank is not None and rank < draft.rank:
        draft.rank = rank
        draft.image = _read_image(draft, tar, member)
    elif text is not None:
        draft.kept[text] = _read_text(draft, tar, member)


def _read_image(draft: _Draft, tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | None:
    if member.issparse() or member.size > MAX_IMAGE_BYTES:
        message = _describe_refusal(member, MAX_IMAGE_BYTES)
        draft.rejection = Rejection(Reason.CORRUPT, message)
        return None
    return _read_member(tar, member)


def _read_bare(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | None:
    """Returns a member without an extension if it begins as an image; others are not read."""
    if not member.isfile() or member.issparse() or member.size > MAX_IMAGE_BYTES:
        return None
    reader = tar.extractfile(member)
    assert reader is not None, "only regular members are read"
    head = reader.read(HEAD_BYTES)
    return head + reader.read() if is_image(head) else None


def _read_text(draft: _Draft, tar: tarfile.TarFile, member: tarfile.TarInfo) -> str | None:
    name = brief(_text(member.name))
    if member.issparse() or member.size > MAX_TEXT_BYTES:
        message = f"{name}: {_describe_refusal(member, MAX_TEXT_BYTES)}"
        draft.rejection = Rejection(Reason.BAD_METADATA, message)
        return None
    try:
        return _read_member(tar, member).decode()
    except UnicodeDecodeError as error:
        draft.rejection = Rejection(Reason.BAD_METADATA, f"{name} is not UTF-8: {error}")
        return None


def _describe_refusal(member: tarfile.TarInfo, most: int) -> str:
    if member.issparse():
        return f"a sparse member, of {member.size} bytes once its holes are filled, is not read"
    return f"{member.size} bytes are more than the {most} that are read"


def _read_member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    reader = tar.extractfile(member)
    assert reader is not None, "only regular members are read"
    return reader.read()


def _finish(row: int, draft: _Draft, seen: Keys) -> Sample:
    assert draft.key is not None, "only damage has no key"
    rejection = _duplicate(draft.key, seen) or draft.rejection or _no_image(draft)
    image = draft.image if rejection is None else None
    kept = {name: pa.array([text], pa.string()) for name, text in draft.kept.items()}
    return Sample(row, draft.key, image, rejection, kept)


def _duplicate(key: str, seen: Keys) -> Rejection | None:
    if seen.add(key):
        return None
    return Rejection(
        Reason.DUPLICATE_KEY,
        "this key came earlier in the tar: keys must be unique, and the members of one sample "
        "must stand side by side",
    )


def _no_image(draft: _Draft) -> Rejection | None:
    if draft.image is not None:
        return None
    if draft.links:
        message = f"{brief(draft.links[0])} is a link or a device, not a file"
    else:
        names = ", ".join(f".{extension}" for extension in draft.extensions[:10])
        message = f"no member is an image; there is {brief(names)}"
    return Rejection(Reason.NO_IMAGE, message)
