"""What `metadata.csv`, `.jsonl` and `.parquet` say of the images in a folder, by their names.

The layout is that of Hugging Face's folders of images: a column `file_name` has the image's path
from the folder in which the file is, all other columns are about it. The nearest such file above an
image speaks of it, and no other one does
(https://huggingface.co/docs/datasets/image_dataset#imagefolder).

A shard that keeps columns has the files that speak of its images among its own, so that a plan
knows their versions: where one has changed since, opening it fails, and a listing shows its shards
as changed. A worker reads a large one once and holds it, as Arrow has it, for the shards to come.
Each of these looks for its thousand names in one pass, which takes some 35 ms for a million rows;
an index of all names would take more memory than the rows themselves.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vqpipe.errors import ConfigError
from vqpipe.rejections import Reason, Rejection
from vqpipe.schema import File, Shard
from vqpipe.sources.about_files import FILE_NAME, load
from vqpipe.sources.agreement import Begun, kept_by_all
from vqpipe.sources.columns import check_column
from vqpipe.sources.damage import brief
from vqpipe.sources.names import relative_path
from vqpipe.sources.values import keep_value
from vqpipe.storage.ahead import map_ahead

_READERS = 8


def with_about(shards: Sequence[Shard], about: Sequence[File]) -> tuple[Shard, ...]:
    """Returns shards of a folder with the files among theirs that speak of their images.

    Raises:
        ConfigError: If two of these files lie in one folder, or one is none.
    """
    by_folder: dict[str, File] = {}
    for file in about:
        if file.obstacle:
            raise ConfigError(
                f"{file.uri} is {file.obstacle}, so that what it said of images is missing: "
                "restore it, or take it out of the source"
            )
        other = by_folder.setdefault(_folder(file), file)
        if other is not file:
            raise ConfigError(
                f"{other.uri} and {file.uri} both speak of the images around them, and nobody can "
                "tell which is right: leave one of them"
            )
    return tuple(_with_about(shard, by_folder) for shard in shards)


def _with_about(shard: Shard, about: Mapping[str, File]) -> Shard:
    images = shard.images
    speaking = {file.uri: file for file in _nearest(shard.root, images, about) if file}
    return replace(shard, files=(*images, *(speaking[uri] for uri in sorted(speaking))))


def _nearest(root: str, images: Iterable[File], about: Mapping[str, File]) -> list[File | None]:
    """Returns for each image the file that speaks of it, if one does."""
    known: dict[str, File | None] = {}

    def find(folder: str) -> File | None:
        if folder not in known:
            above = folder.rpartition("/")[0]
            is_last = len(folder) <= len(root.rstrip("/")) or not above
            known[folder] = about.get(folder) or (None if is_last else find(above))
        return known[folder]

    return [find(_folder(image)) for image in images]


def _folder(file: File) -> str:
    return file.uri.rpartition("/")[0]


def kept_schema(shards: Sequence[Shard], keep: Sequence[str], begun: Begun | None) -> pa.Schema:
    """Returns kept columns with the types that hold the values of all files.

    Args:
        shards: All of a folder, with the files that speak of their images.
        keep: The columns.
        begun: The run, if it has begun; only files that are new are looked at then.

    Raises:
        ConfigError: If there are no such files, or one cannot be read, lacks a column, or has a
            type that does not go with another's.
        MismatchError: If a new file does not go with the types of a run.
    """
    files = list(dict.fromkeys(file for shard in shards for file in shard.about))
    if not files:
        raise ConfigError(
            f"--keep {keep[0]}: what is known of single images stands in a metadata.csv, .jsonl or "
            f".parquet beside them, with a column {FILE_NAME}, and the source has none"
        )

    def check(uri: str, schema: pa.Schema) -> None:
        for name in keep:
            check_column(uri, schema, name)

    def find(file: File) -> pa.Schema:
        schema = load(file, tuple(keep)).schema
        return schema.remove(schema.get_field_index(FILE_NAME))

    return kept_by_all(files, keep, check, begun, find)


@dataclass
class Unmatched:
    """Rows that speak of no image."""

    rows: int = 0
    first: str = ""
    """One of them: its file and its name there."""
    twice: int = 0
    """Images of which several rows speak."""
    images: int = 0
    """Images of which none does."""


def find_unmatched(shards: Sequence[Shard], keep: Sequence[str]) -> Unmatched:
    """Returns what in files about images goes with no image, and the other way round."""
    found, known = Unmatched(), _images_by_file(shards)
    spoken = sum(map(len, known.values()))
    found.images = sum(len(shard.images) for shard in shards) - spoken

    def look(file: File) -> tuple[pa.Array, pa.Array]:
        names = load(file, tuple(keep))[FILE_NAME].combine_chunks()
        return names, pc.index_in(names, value_set=pa.array(known[file], pa.string()))

    for file, (names, places) in zip(known, map_ahead(look, iter(known), _READERS), strict=True):
        hits = np.bincount(places.drop_null().to_numpy(), minlength=len(known[file]))
        found.twice += int((hits > 1).sum())
        found.images += int((hits == 0).sum())
        if places.null_count:
            found.rows += places.null_count
            name = names.filter(places.is_null())[0].as_py()
            found.first = found.first or f"{name!r} of {file.uri}"
    return found


def _images_by_file(shards: Iterable[Shard]) -> dict[File, list[str]]:
    """Returns the names of images by the file that speaks of them, as it names them."""
    found: dict[File, list[str]] = {}
    for shard in shards:
        for file, image in _spoken(shard):
            found.setdefault(file, []).append(relative_path(_folder(file), image.uri))
    return found


def _spoken(shard: Shard) -> list[tuple[File, File]]:
    """Returns images of a shard with the file that speaks of each; those that one does."""
    about = {_folder(file): file for file in shard.about}
    images = shard.images
    nearest = _nearest(shard.root, images, about)
    return [(file, image) for file, image in zip(nearest, images, strict=True) if file]


@dataclass
class Said:
    """What is said of the images of one shard, by their URIs."""

    kept: pa.Schema
    rows: dict[str, list[pa.Table]] = field(default_factory=dict)
    """Tables of one row; an image has one of them at most."""

    @classmethod
    def of(cls, shard: Shard, kept: pa.Schema) -> "Said":
        """Returns what kept columns say of the images of a shard.

        Raises:
            SourceChangedError: If a file is not the one that was planned.
        """
        found = cls(kept)
        by_file: dict[File, dict[str, str]] = {}
        for file, image in _spoken(shard) if len(kept) else ():
            by_file.setdefault(file, {})[relative_path(_folder(file), image.uri)] = image.uri
        for file, images in by_file.items():
            table = load(file, tuple(kept.names))
            value_set = pa.array(list(images), pa.string())
            places = pc.index_in(table[FILE_NAME], value_set=value_set).combine_chunks()
            for row in np.flatnonzero(places.is_valid()):
                uri = images[value_set[places[row].as_py()].as_py()]
                found.rows.setdefault(uri, []).append(table.slice(row, 1))
        return found

    def about(self, image: File) -> dict[str, pa.Array] | Rejection:
        """Returns what is said of an image, arrays of one value, or why that cannot be told."""
        rows = self.rows.get(image.uri, [])
        if len(rows) > 1:
            message = f"{len(rows)} rows of a metadata file speak of it, and one must: leave one"
            return Rejection(Reason.BAD_METADATA, message)
        try:
            return {
                each.name: keep_value(row[each.name].combine_chunks(), each.type)
                for row in rows
                for each in self.kept
            }
        except MemoryError:
            raise  # also an ArrowException
        except (pa.ArrowException, ValueError) as error:
            return Rejection(Reason.BAD_METADATA, brief(f"a kept column cannot be read: {error}"))
