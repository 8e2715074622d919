"""Names that a source brings into a sink: of shards, stems of all that is written; of columns."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from vqpipe.errors import ConfigError
from vqpipe.schema import GRID, HEAD, VIEW, File, Shard
from vqpipe.sources.extensions import FORMATS, IMAGE_EXTENSIONS, extension, stem

RESERVED = {field.name for field in (*HEAD, *VIEW, *GRID)} | {"codes"}
"""Columns that the output of encode has of its own."""

MAX_NAME_BYTES = 220
"""Longest part of a shard's name: file systems take 255 bytes, and a sink's files add endings."""


def relative_path(root: str, uri: str) -> str:
    """Returns the path of a file below the source's root, as its store spells it."""
    return uri[len(root.rstrip("/")) + 1 :]


def visible_files(source: str, root: str, files: Iterable[File]) -> list[File]:
    """Returns the files of a source without the bookkeeping of those who write data there.

    Names that begin with `_`, such as `_delta_log` and `_temporary`, mark it, but not in images:
    cameras call their photos `_MG_0001.JPG`. A file that the source itself names is taken.
    """
    return [
        file
        for file in files
        if file.uri == source or not _is_hidden(relative_path(root, file.uri))
    ]


def count_dotted(uris: Iterable[str]) -> int:
    """Returns how many of some files would be read if their names did not begin with a dot."""
    known = {kind for kinds in FORMATS.values() for kind in kinds}
    return sum(extension(f"_{uri.rpartition('/')[2]}") in known for uri in uris)


def _is_hidden(path: str) -> bool:
    if extension(path).removeprefix(".") in IMAGE_EXTENSIONS:
        return False
    return any(part.startswith("_") for part in path.split("/"))


def shard_names(root: str, files: list[File]) -> list[str]:
    """Returns one name a file: its path below the root without extension, if that is unique.

    Files that would share a name (`a.tar` and `a.tar.gz`) keep their extensions.
    """
    paths = [relative_path(root, file.uri) for file in files]
    stems = [stem(path) for path in paths]
    uses = Counter(stems)
    return [name if uses[name] == 1 else path for path, name in zip(paths, stems, strict=True)]


def check_unicode(files: Iterable[File]) -> None:
    """Checks that every file has a name that the plan, which is UTF-8, can hold.

    Raises:
        ConfigError: If one has not.
    """
    for file in files:
        try:
            file.uri.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(
                f"the name of {file.uri!r} is not valid UTF-8: rename the file"
            ) from error


def check_keep(keep: Sequence[str], reserved: Collection[str]) -> None:
    """Checks that columns to keep go with each other, and with those that the output has anyway.

    Raises:
        ConfigError: If one does not.
    """
    for name in keep:
        if name in reserved:
            raise ConfigError(f"--keep names {name!r}, which the output has already: leave it out")
        if keep.count(name) > 1:
            raise ConfigError(f"--keep names {name!r} twice: name it once")


def check_names(shards: Iterable[Shard]) -> None:
    """Checks that every name is unique and can be the stem of an object in the sink.

    Raises:
        ConfigError: If one is not.
    """
    seen = set()
    for shard in shards:
        if any(part in {"", ".", ".."} or part[0] == "." for part in shard.name.split("/")):
            raise ConfigError(
                f"{shard.files[0].uri} would be written as {shard.name!r}, which is hidden "
                "or no safe path: rename it, or give a source that lies deeper"
            )
        if shard.name in seen:
            raise ConfigError(
                f"{shard.files[0].uri} would be written as {shard.name!r}, like another file of "
                "this source: rename one of the two"
            )
        _check_length(shard)
        seen.add(shard.name)


def _check_length(shard: Shard) -> None:
    longest = max(len(part.encode()) for part in shard.name.split("/"))
    if longest > MAX_NAME_BYTES:
        raise ConfigError(
            f"{shard.files[0].uri} would be written as {shard.name!r}, in which one name has "
            f"{longest} bytes, and with what is added to it, more than the {MAX_NAME_BYTES} that "
            "fit everywhere: rename it, or give a source that lies deeper"
        )
