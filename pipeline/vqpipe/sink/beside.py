"""What lies beside `data/` in a sink of images: of each shard, a tar or a folder of files.

    images/<shard>.<digest>.tar            a tar a shard
    images/<shard>.<digest>/<file>         a file an image; `/` in the shard's name is `%2F`

The digest is one of the content. Two writers of one shard may have other bytes, on another device
or where one more image was rejected, and neither may ever put its own into the place that the other
one's object in `data/` speaks of. The footer of that object names the place. What a writer leaves
that came second, or died, is in no footer: it is removed when its shard commits, at the end of a
run (`sweep`), or named by `vqpipe verify`. A generation of the plan after the first stands before
the digest, `.2-<digest>`: what a command of a later plan is about to commit is not for one of an
earlier plan to sweep.
"""

import functools
import hashlib
import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from vqpipe import storage
from vqpipe.schema import File
from vqpipe.sink.filenames import safe_folder
from vqpipe.storage.ahead import do_all

FOLDER = "images"
"""Folder of the sink."""
LAYOUTS = {"webdataset", "folder"}
"""Layouts that have anything beside `data/`."""

PLACE = "place"
"""Of a shard's object, in what its footer says: the place of its images in the sink."""

_WRITERS = 16
_DIGEST_LETTERS = 16
_PLACE = re.compile(rf"(.*)\.(?:(\d+)-)?[0-9a-f]{{{_DIGEST_LETTERS}}}", re.DOTALL)
_TAR = ".tar"


@dataclass(frozen=True)
class Beside:
    """The files of one shard, as they are to lie beside `data/`."""

    shard: str
    files: Mapping[str, bytes]
    """By path below the folder; a tar is the only one, and has no path."""

    @classmethod
    def of_tar(cls, shard: str, tar: bytes) -> "Beside":
        """Returns what a shard has as a tar."""
        return cls(shard, {"": tar})

    @property
    def is_tar(self) -> bool:
        """Whether it is a tar, and not files."""
        return "" in self.files

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of a tar, or of the names of files with theirs; hexadecimal."""
        if self.is_tar:
            return sha256(self.files[""])
        lines = (f"{sha256(data)} {name}\n" for name, data in sorted(self.files.items()))
        return sha256("".join(lines).encode())

    def place(self, generation: int) -> str:
        """Returns its path in the sink."""
        edition = f"{generation}-" if generation else ""
        ending = _TAR if self.is_tar else ""
        stem = self.shard if self.is_tar else safe_folder(self.shard)
        return f"{FOLDER}/{stem}.{edition}{self.digest[:_DIGEST_LETTERS]}{ending}"

    def publish(self, sink: str, generation: int) -> None:
        """Makes every file visible, each in one step; what lies there is the same, or rotten."""
        base = storage.join_uri(sink, self.place(generation))
        uris = [f"{base}/{name}" if name else base for name in self.files]
        files = zip(uris, self.files.values(), strict=True)
        do_all(lambda file: storage.replace(*file), files, _WRITERS)


def sha256(data: bytes) -> str:
    """Returns the SHA-256 of bytes, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def list_files(sink: str, place: str) -> dict[str, File]:
    """Returns the files of a place by their paths below it; a tar's only one has no path."""
    base = storage.join_uri(sink, place)
    if place.endswith(_TAR):
        try:
            return {"": storage.stat(base)}
        except FileNotFoundError:
            return {}
    return {file.uri[len(base) + 1 :]: file for file in storage.list_files(base)}


def remove(sink: str, place: str) -> None:
    """Removes a place with all that is in it."""
    uris = (each.uri for each in list_files(sink, place).values())
    do_all(storage.delete, uris, _WRITERS)


def list_places(sink: str, *, tars: bool) -> set[str]:
    """Returns every place that has a file, by one listing of all.

    Args:
        sink: Where the run is.
        tars: Whether its shards are tars, whose names have folders in them, and not folders.
    """
    base = storage.join_uri(sink, FOLDER)
    paths = (file.uri[len(base) + 1 :] for file in storage.list_files(base))
    return {f"{FOLDER}/{path if tars else path.partition('/')[0]}" for path in paths}


def shard_of(place: str) -> tuple[str, int] | None:
    """Returns whose a place is: the shard (a folder has its safe name) and its generation.

    None if it is no place of ours.
    """
    name = place.removeprefix(f"{FOLDER}/").removesuffix(_TAR)
    match = _PLACE.fullmatch(name)
    return (match[1], int(match[2] or 0)) if match else None


def sweep(sink: str, used: AbstractSet[str], generations: Mapping[str, int], *, tars: bool) -> None:
    """Removes what writers have left that came second or died.

    Args:
        sink: Where the run is.
        used: Places that objects in `data/` speak of.
        generations: Of each committed shard, by the name that its place has.
        tars: As for `list_places`.
    """
    for place in sorted(list_places(sink, tars=tars) - used):
        whose = shard_of(place)
        if whose and whose[1] <= generations.get(whose[0], -1):
            remove(sink, place)
