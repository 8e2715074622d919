"""Tars in the webdataset layout: consecutive members with one key are one sample.

The key is a member's path up to the first dot of its base name, and what follows that dot is the
extension: `train/0001.seg.png` is `seg.png` of `train/0001`. A member without an extension is the
image if it begins as one and no other member is. The layout is webdataset's own:
https://github.com/webdataset/webdataset, `webdataset/tariterators.py`, `base_plus_ext`.

Links, and images whose names begin with a dot, are rejections: they are not read, nor passed over
in silence. So is a tar of which no member is read.

Nothing is extracted to disk or unpickled, and only images and kept members are read into memory.
"""

import itertools
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa

from vqpipe import storage
from vqpipe.errors import ConfigError
from vqpipe.rejections import UNKNOWN, Loss, Reason, Rejection
from vqpipe.schema import File, Sample, Selection, Shard
from vqpipe.sources.archive import Archive, Headers
from vqpipe.sources.contents import HEAD_BYTES, is_image
from vqpipe.sources.damage import Pace, brief, damaged
from vqpipe.sources.extensions import IMAGE_EXTENSIONS
from vqpipe.sources.fields import Part, parts_of, values_of
from vqpipe.sources.keys import Keys, check_count
from vqpipe.sources.member_types import find_types
from vqpipe.sources.members import (
    TAR_ERRORS,
    image_ranks,
    is_folder,
    is_hidden_image,
    is_wanted,
    readable,
    split_name,
)
from vqpipe.sources.names import shard_names
from vqpipe.sources.several import name_image

MAX_IMAGE_BYTES = 2**30
"""Larger images are rejected unread (1 GiB)."""
MAX_TEXT_BYTES = 16 * 2**20
"""Larger kept text is rejected unread (16 MiB)."""

MAX_MEMBERS = 1_000
"""Most members of a sample; the next one begins another of the same key."""


def list_shards(root: str, files: list[File]) -> list[Shard]:
    """Returns one shard a tar."""
    names = shard_names(root, files)
    return [Shard(name, "webdataset", (file,)) for name, file in zip(names, files, strict=True)]


def kept_schema(
    shards: Sequence[Shard], selection: Selection, *, is_known: bool = False
) -> pa.Schema:
    """Returns the kept columns: text, but for classes and fields of JSON (`member_types`).

    Args:
        shards: All of the source.
        selection: What to read of it.
        is_known: Whether a run that has begun knows their types, so that nobody has to look.

    Raises:
        ConfigError: If a key column or a label is asked for, an image is to be kept as text, or a
            field has no type that holds its values.
    """
    if selection.key is not None:
        raise ConfigError("a webdataset's keys are the names of its members: drop the key option")
    if len(image_ranks(selection)) < len(selection.images):
        raise ConfigError(f"--image names a member twice: {' '.join(selection.images)}")
    for part in parts_of(selection.keep):
        if part.member in image_ranks(selection):
            raise ConfigError(f"keep names {part.asked!r}, which is the image: leave it out")
    return find_types(() if is_known else shards, selection)


def read_shard(shard: Shard, selection: Selection, kept: pa.Schema) -> Iterator[Sample]:
    """Yields the samples of one tar, which may be gzipped."""
    seen = Keys()
    uri = shard.files[0].uri
    row = 0
    with storage.open_file(shard.files[0]) as file:
        for draft in _read_drafts(Archive(file), selection, kept):
            if draft.damage is not None:
                key = None if draft.key is None or draft.key in seen else draft.key
                yield damaged(row, key, f"{uri}, {draft.place}", draft.damage, draft.loss)
                return
            for sample in _finish(row, draft, seen, selection):
                check_count(row, uri)
                yield sample
                row += 1


def count_samples(shard: Shard, selection: Selection, most: int) -> int:
    """Returns how many samples `read_shard` will find in a tar; `most` if there are as many.

    Its headers are read, and nothing else but what stands between them in a gzip.
    """
    with storage.open_file(shard.files[0]) as file:
        drafts = _read_drafts(Headers(file), selection, pa.schema([]))
        return sum(1 for _ in itertools.islice(drafts, most))


def scan_samples(shard: Shard, selection: Selection, most_bytes: int) -> tuple[int, int]:
    """Returns how many samples stand in how many bytes of a tar, as far as it is looked at.

    Of a tar that is read to its end, both are those of all of it. Else it is whole samples that
    count, from the second one on, with the bytes from the beginning of each to that of the next.

    Args:
        shard: A tar.
        selection: What is read of each sample.
        most_bytes: Where to stop, once there are `_FEWEST` samples.
    """
    with storage.open_file(shard.files[0]) as file:
        archive = Headers(file)
        count, first = 0, 0
        for count, _ in enumerate(_read_drafts(archive, selection, pa.schema([])), start=1):
            if archive.tar is None:  # it is no tar at all
                continue
            first = first or archive.end  # a sample is given when the next one has begun
            if count > _FEWEST and archive.end > most_bytes and archive.end < shard.size:
                return count - 1, archive.end - first
    return count, shard.size


_FEWEST = 16
_NO_RANK = 2**31


@dataclass
class _Draft:
    """One sample as far as its members have been read."""

    key: str | None
    extensions: list[str] = field(default_factory=list)
    taken: dict[int, bytes | Rejection] = field(default_factory=dict)
    """Images by their place in the order of preference, or among several. Where one is to be
    taken, the best of those so far."""
    images: int = 0
    """Members that are images by their names, whether they are taken or not."""
    links: int = 0
    """Members that are no files."""
    link: str = ""
    """What is to be said of the first of them."""
    kept: dict[str, pa.Array] = field(default_factory=dict)
    rejection: Rejection | None = None
    is_aside: bool = False
    """Whether it is a rejection that stands for no sample."""
    damage: Exception | None = None
    place: str = ""
    """Where in the tar the damage is."""
    loss: Loss = UNKNOWN
    """Of damage: how much of the tar it hides."""

    def takes(self, key: str, extension: str) -> bool:
        """Tells whether a member that comes next belongs to this sample."""
        has_room = len(self.extensions) < MAX_MEMBERS
        return self.key == key and has_room and extension not in self.extensions

    @property
    def claims_key(self) -> bool:
        """Tells whether the key is this sample's: links alone may be to one that comes later."""
        return not self.is_aside and self.links < len(self.extensions)

    def is_complete(self, images: int, kept: Iterable[str]) -> bool:
        """Tells whether nothing that is wanted can be missing."""
        has_all = len(self.taken) >= images and all(name in self.kept for name in kept)
        return has_all or self.rejection is not None


def _read_drafts(archive: Archive, selection: Selection, kept: pa.Schema) -> Iterator[_Draft]:
    with archive:
        drafts = _Drafts(archive, selection, kept)
        try:
            yield from drafts.whole()
        except TAR_ERRORS as error:
            yield from drafts.broken(error)


class _Drafts:
    """The samples of a tar, one after the other."""

    def __init__(self, archive: Archive, selection: Selection, kept: pa.Schema) -> None:
        self._archive = archive
        self._ranks = image_ranks(selection)
        self._selection = selection
        self._images = len(self._ranks) if isinstance(selection.image, tuple) else 1
        self._kinds = {each.name: each.type for each in kept}
        self._parts = [part for part in parts_of(selection.keep) if part.column in self._kinds]
        self._draft: _Draft | None = None
        self._pace = Pace(archive.size)
        self._place = "byte 0"
        self._is_any_read = False
        self._unread: str | None = None
        """The first member that is not read and no folder, if there is one."""

    def whole(self) -> Iterator[_Draft]:
        """Yields the samples.

        Raises:
            One of `TAR_ERRORS`: If the tar cannot be read on.
        """
        for member in self._archive.members():
            if not is_wanted(member, self._selection):
                yield from self._pass_over(member)
                continue
            self._is_any_read = True
            self._place = (
                f"in or after member {readable(member.name)!r} at byte {member.offset_data}"
            )
            key, extension = split_name(member.name, self._selection.key_until)
            if self._draft is not None and not self._draft.takes(key, extension):
                self._pace.advance(self._archive.place(member))
                yield from self._take()
            self._draft = self._draft or _Draft(key)
            self._add(self._draft, extension, member)
        yield from self._take()
        if self._unread is not None and not self._is_any_read:
            yield _aside(self._unread, _NOTHING_READ)

    def _pass_over(self, member: tarfile.TarInfo) -> Iterator[_Draft]:
        """Yields the rejection of a member that is in no sample, if it is an image by its name."""
        if is_hidden_image(member, self._selection):
            self._is_any_read = True
            yield _aside(member.name, _HIDDEN)
        elif self._unread is None and not is_folder(member):
            self._unread = member.name

    def broken(self, error: Exception) -> Iterator[_Draft]:
        """Yields what remains when a tar cannot be read on: the last draft is its damage."""
        draft = self._draft
        if draft is not None and (self._archive.has_ended or self._is_complete(draft)):
            if self._archive.end <= self._archive.size:  # else its size is the damage
                self._pace.advance(self._archive.end)
            yield from self._take()
        loss = self._pace.judge(is_at_end=self._archive.is_at_end)
        key = self._draft.key if self._draft else None
        yield _Draft(key, damage=error, place=self._place, loss=loss)

    def _is_complete(self, draft: _Draft) -> bool:
        return draft.is_complete(self._images, (part.column for part in self._parts))

    def _take(self) -> Iterator[_Draft]:
        """Yields the sample that was begun, if one was."""
        if self._draft is not None:
            yield self._draft
        self._draft = None

    def _add(self, draft: _Draft, extension: str, member: tarfile.TarInfo) -> None:
        rank = self._ranks.get(extension)
        parts = [part for part in self._parts if part.member == extension]
        draft.extensions.append(extension)
        draft.images += rank is not None or extension.rpartition(".")[2] in IMAGE_EXTENSIONS
        if not member.isfile():
            draft.links += 1
            draft.link = draft.link or _describe_link(member)
        elif rank is not None and (self._images > 1 or rank < min(draft.taken, default=_NO_RANK)):
            image = _read_image(self._archive, member)
            draft.taken = (draft.taken if self._images > 1 else {}) | {rank: image}
        elif parts:
            self._keep(draft, parts, member)
        if not extension and member.isfile():
            self._add_bare(draft, member)

    def _keep(self, draft: _Draft, parts: list[Part], member: tarfile.TarInfo) -> None:
        """Reads what is kept of a member; what cannot be read costs the sample."""
        if member.issparse() or member.size > MAX_TEXT_BYTES:
            wrong = _describe_refusal(member, MAX_TEXT_BYTES)
        else:
            data, wrong = self._archive.read(member), None
            try:
                draft.kept |= values_of(data, parts, self._kinds)
            except ValueError as error:
                wrong = str(error)
        if wrong is not None:
            message = brief(f"{brief(readable(member.name))}: {wrong}")
            draft.rejection = Rejection(Reason.BAD_METADATA, message)

    def _add_bare(self, draft: _Draft, member: tarfile.TarInfo) -> None:
        """Takes in a member without an extension if it begins as an image; others are not read."""
        if member.issparse() or member.size > MAX_IMAGE_BYTES:
            return
        reader = self._archive.open(member)
        head = reader.read(HEAD_BYTES)
        if is_image(head):
            draft.images += 1
            if not draft.taken and self._selection.image is None:
                draft.taken = {_NO_RANK: head + reader.read()}


_HIDDEN = (
    "its name begins with a dot, and hidden files are not read: rename it and make the tar anew if "
    "it belongs to the data"
)
_NOTHING_READ = (
    "no member of this tar is read, this being the first: all are folders, hidden files (names "
    "that begin with a dot) or links that have no image's name; look whether it is the right tar"
)


def _aside(name: str, said: str) -> _Draft:
    """Returns the rejection of a member, or of a tar by one of its members, as no sample's."""
    name = readable(name).removeprefix("./")
    message = f"{brief(name)}: {said}"
    return _Draft(name, rejection=Rejection(Reason.NO_IMAGE, message), is_aside=True)


def _read_image(tar: Archive, member: tarfile.TarInfo) -> bytes | Rejection:
    if member.issparse() or member.size > MAX_IMAGE_BYTES:
        return Rejection(Reason.CORRUPT, _describe_refusal(member, MAX_IMAGE_BYTES))
    return tar.read(member)


def _describe_refusal(member: tarfile.TarInfo, most: int) -> str:
    if member.issparse():
        return f"a sparse member, of {member.size} bytes once its holes are filled, is not read"
    return f"{member.size} bytes are more than the {most} that are read"


def _finish(row: int, draft: _Draft, seen: Keys, selection: Selection) -> Iterator[Sample]:
    """Yields the sample, or each of its images where there may be several."""
    assert draft.key is not None, "only damage has no key"
    doubled = _duplicate(draft.key, seen) if draft.claims_key else None
    wrong = doubled or draft.rejection
    if draft.is_aside or not isinstance(selection.image, tuple):
        image = next(iter(draft.taken.values()), None)
        yield _sample(row, draft, wrong, image, draft.images)
        return
    others = draft.images - len(draft.taken)
    for place, name in enumerate(selection.image):
        image = draft.taken.get(place)
        images = int(image is not None) + (others if place == 0 else 0)
        yield name_image(_sample(row + place, draft, wrong, image, images), name)


def _sample(
    row: int, draft: _Draft, wrong: Rejection | None, image: bytes | Rejection | None, images: int
) -> Sample:
    """Returns one image of a sample, or its rejection.

    Args:
        row: Its place in the shard.
        draft: The sample.
        wrong: What is wrong with all of it.
        image: The image; None if it is not there.
        images: For how many images it stands, itself among them if it is there.
    """
    if image is None:
        wrong = wrong or _no_image(draft)
    elif isinstance(image, Rejection):
        wrong = wrong or image
    if wrong is not None:
        return Sample(row, draft.key, None, _stand_for(images, wrong), draft.kept)
    assert isinstance(image, bytes), "else something is wrong"
    return Sample(row, draft.key, image, None, draft.kept, passed_over=images - 1)


def _stand_for(images: int, rejection: Rejection) -> Rejection:
    """Returns a rejection that says how many images it stands for, if that is more than one."""
    return rejection if images < 2 else replace(rejection, loss=Loss(images, "known"))


def _duplicate(key: str, seen: Keys) -> Rejection | None:
    if seen.add(key):
        return None
    return Rejection(
        Reason.DUPLICATE_KEY,
        "this key came earlier in the tar: keys must be unique, and the members of one sample "
        "must stand side by side",
    )


def _no_image(draft: _Draft) -> Rejection:
    if draft.links:
        message = draft.link
    else:
        names = ", ".join(f".{extension}" for extension in draft.extensions[:10])
        what = "this one" if draft.taken else "an image"
        message = f"no member is {what}; there is {brief(names)}"
        if draft.images and not draft.taken:
            message += "; --image names one of these, --key-until says where keys end"
    return Rejection(Reason.NO_IMAGE, message)


def _describe_link(member: tarfile.TarInfo) -> str:
    """Returns what a member is that is no file, and what would make one of it."""
    message = f"{brief(readable(member.name))} is a link or a device, not a file"
    target = brief(readable(member.linkname))
    if member.islnk():
        message += (
            f": a hard link to {target}, of which the tar has the content only once; GNU tar "
            "stores it again with --hard-dereference"
        )
    elif member.issym():
        message += f": a symbolic link to {target}; tar stores what it leads to with --dereference"
    return message
