"""Names of tar members: key and extension, and what the first tars of a source show of them.

A key ends at the first dot of a name, as webdataset has it: `0001.seg.png` is `seg.png` of `0001`
(https://github.com/webdataset/webdataset, `webdataset/tariterators.py`, `base_plus_ext`). Names
that have dots for other reasons, `st.martin_001.jpg`, would all fall into one sample that has no
image. Which of both a source has is judged once, at its start, by names alone.
"""

import difflib
import tarfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vqpipe import storage
from vqpipe.errors import ConfigError
from vqpipe.schema import KeyUntil, Selection, Shard
from vqpipe.sources.archive import Archive
from vqpipe.sources.damage import PARSER_ERRORS
from vqpipe.sources.extensions import IMAGE_EXTENSIONS
from vqpipe.sources.fields import parts_of
from vqpipe.storage.ahead import map_ahead

TAR_ERRORS = (tarfile.TarError, *PARSER_ERRORS)

_TARS, _MEMBERS, _BYTES = 4, 1_000, 2**28
_FEW = 0.05
_NO_FILES = (b"D", b"V")
"""Types of members with which GNU tar lists a folder (`-g`) and labels a tar (`-V`)."""
_SHOWN = 10


def image_ranks(selection: Selection) -> dict[str, int]:
    """Returns the extensions that an image may have, with their place in order of preference.

    Where several images of a sample are read, that is the order in which they come.
    """
    wanted = [name.lower() for name in selection.images] or IMAGE_EXTENSIONS
    return {extension: rank for rank, extension in enumerate(wanted)}


def split_name(name: str, until: KeyUntil) -> tuple[str, str]:
    """Returns key and lower-case extension of a member, both valid Unicode."""
    folder, slash, base = readable(name).removeprefix("./").rpartition("/")
    stem, dot, extension = base.partition(".") if until == "first-dot" else base.rpartition(".")
    if not dot:
        stem, extension = base, ""
    return folder + slash + stem, extension.lower()


def readable(name: str) -> str:
    """Returns a member's name as valid Unicode."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def is_wanted(member: tarfile.TarInfo, selection: Selection) -> bool:
    """Tells what belongs to a sample from folders, hidden files and links beside the images."""
    if _base(member).startswith(".") or is_folder(member):
        return False
    if member.isfile():
        return True
    extension = split_name(member.name, selection.key_until)[1]
    return not extension or is_image_name(extension, selection)


def is_hidden_image(member: tarfile.TarInfo, selection: Selection) -> bool:
    """Tells whether a member is an image by its name, and hidden by it (`.name`).

    What macOS puts beside each file, `._name`, is none.
    """
    base = _base(member)
    if not base.startswith(".") or base.startswith("._") or is_folder(member):
        return False
    return is_image_name(base.lower(), selection)


def is_folder(member: tarfile.TarInfo) -> bool:
    """Tells whether a member is a folder, a list of a folder's files, or a label of the tar."""
    return member.isdir() or member.type in _NO_FILES


def is_image_name(extension: str, selection: Selection) -> bool:
    """Tells whether an extension, or the last part of one, is that of an image."""
    last = _last(extension)
    ranks = image_ranks(selection)
    return extension in ranks or last in ranks or last in IMAGE_EXTENSIONS


def _base(member: tarfile.TarInfo) -> str:
    return member.name.rpartition("/")[2]


@dataclass(frozen=True)
class Look:
    """The first members of some tars."""

    names: tuple[tuple[str, ...], ...]
    """Of each tar."""
    is_whole: bool
    """Whether these are all members of those tars."""

    def samples(self, until: KeyUntil) -> list[list[str]]:
        """Returns the extensions of each sample."""
        found: dict[tuple[int, str], list[str]] = {}
        for tar, names in enumerate(self.names):
            for name in names:
                key, extension = split_name(name, until)
                found.setdefault((tar, key), []).append(extension)
        return list(found.values())


def look(shards: Sequence[Shard], selection: Selection) -> Look:
    """Returns the first members of the first tar and of some others.

    Raises:
        StorageError: If the store fails.
        SourceChangedError: If a tar is not the one that was listed.
    """

    def names(shard: Shard) -> tuple[tuple[str, ...], bool]:
        found: list[str] = []
        is_whole = visit(shard, selection, lambda _, member: found.append(member.name))
        return tuple(found), is_whole

    found = list(map_ahead(names, iter(pick_tars(shards)), _TARS))
    return Look(tuple(names for names, _ in found), all(is_whole for _, is_whole in found))


def pick_tars(shards: Sequence[Shard]) -> Sequence[Shard]:
    """Returns the first tar and some others, those that are looked at."""
    return shards[:: max(1, -(-len(shards) // _TARS))]


def visit(
    shard: Shard, selection: Selection, see: Callable[[Archive, tarfile.TarInfo], object]
) -> bool:
    """Shows a tar's first members that belong to samples; tells whether these are all of them."""
    seen = 0
    try:
        with storage.open_file(shard.files[0]) as file, Archive(file) as archive:
            for member in archive.members():
                if seen == _MEMBERS or member.offset > _BYTES:
                    return False
                if is_wanted(member, selection):
                    see(archive, member)
                    seen += 1
    except TAR_ERRORS:  # `read_shard` makes it a rejection
        return False
    return True


def judge_keys(seen: Look, selection: Selection) -> KeyUntil:
    """Returns where keys end, so that no images fall into one sample that has none.

    Raises:
        ConfigError: If the names can be read either way.
    """
    ranks = image_ranks(selection)
    if any("." in name for name in selection.images):
        return "first-dot"
    good: list[list[str]] = []
    bad: list[list[str]] = []
    for extensions in seen.samples("first-dot"):
        (good if ranks.keys() & set(extensions) else bad).append(extensions)
    hidden = [each for extensions in bad for each in extensions if _last(each) in ranks]
    if not hidden:
        return "first-dot"
    torn = any("." in extension for extensions in good for extension in extensions)
    if not torn and len(set(hidden)) == len(hidden):
        return "last-dot"
    if torn and len(hidden) <= _FEW * (len(good) + len(hidden)):
        return "first-dot"  # a few samples lack their image; each is rejected, and counted
    raise ConfigError(_describe_choice(hidden, len(good) + len(bad)))


def _last(extension: str) -> str:
    return extension.rpartition(".")[2]


def _describe_choice(hidden: list[str], samples: int) -> str:
    most = [f".{name}" for name, _ in Counter(hidden).most_common(3)]
    return (
        f"in the tars that were looked at, {len(hidden):,} images have names with dots, such as "
        f"{', '.join(most)} after the first one, and {samples:,} samples if keys end there: say "
        f"which is the image (--image {most[0][1:]}), or which are, so that each becomes a row "
        f"(--image {' '.join(each[1:] for each in most)}), or that keys end at the last dot, so "
        "that each image is a sample (--key-until last-dot), or at the first all the same "
        "(--key-until first-dot)"
    )


def check_kept(seen: Look, selection: Selection) -> list[str]:
    """Returns which of the members to keep no sample has, of as many as were looked at.

    Raises:
        ConfigError: If one is missing for sure: all was looked at, or another has nearly its name.
    """
    samples = seen.samples(selection.key_until)
    counts = Counter(extension for extensions in samples for extension in set(extensions))
    parts = {part.asked: part.member for part in parts_of(selection.keep)}
    missing = [name for name in parts if samples and parts[name] not in counts]
    for name in missing:
        near = difflib.get_close_matches(parts[name], counts, 1)
        if seen.is_whole or near:
            raise ConfigError(_describe_missing(name, len(samples), counts, near))
    return missing


def _describe_missing(name: str, samples: int, counts: Counter[str], near: list[str]) -> str:
    there = ", ".join(f".{each}" for each, _ in counts.most_common(_SHOWN))
    meant = f"; did you mean {near[0]}?" if near else ""
    return (
        f"keep names {name!r}, which none of the {samples:,} samples has that were looked at; "
        f"there are {there}{meant}"
    )


def count_passed_over(seen: Look, selection: Selection) -> Counter[str]:
    """Returns the extensions of images that are not taken, since their sample has another one."""
    ranks, over = image_ranks(selection), Counter[str]()
    for extensions in seen.samples(selection.key_until):
        found = sorted(ranks.keys() & set(extensions), key=ranks.__getitem__)
        taken = found if isinstance(selection.image, tuple) else found[:1]
        if taken:
            over.update(x for x in extensions if x not in taken and _last(x) in IMAGE_EXTENSIONS)
    return over
