"""Which of a source's files are its shards or images, and which are something else."""

from collections.abc import Sequence

from vqpipe.errors import ConfigError
from vqpipe.schema import File
from vqpipe.sources.columns import Read, may_hold_images
from vqpipe.sources.contents import find_formats
from vqpipe.sources.extensions import FORMATS, check_format, count_extensions, extension, stem

CANNOT_BE_READ = "(link that leads nowhere, pipe or device)"
"""Name of what is no file among the extensions that are counted."""


def sort_out(
    source: str, files: Sequence[File], fmt: str | None, read: Read, passed_over: dict[str, int]
) -> tuple[str, list[File], dict[str, int]]:
    """Returns a source's format, the files of it, and how many others there are by extension.

    Files without an extension are of the format that some of them begin as, if any does. What
    cannot be read is refused where it may stand for many images; in a folder of images, one that
    has an image's name stays, and becomes a rejection.

    Args:
        source: What the operator typed.
        files: What was found there.
        fmt: The format, or None to find it.
        read: Reads samples, of Parquet files beside images.
        passed_over: What else was found, and how much of it; is among the others.

    Raises:
        ConfigError: If there is none, or several and nothing says which one is meant.
    """
    check_obstacles([file for file in files if not extension(file.uri)])
    groups = _group(files, fmt)
    for name, group in groups.items():
        if name != "folder" and fmt in {None, name}:
            check_obstacles(group)
    chosen = _choose(source, groups, read) if fmt is None else check_format(fmt)
    taken = groups.get(chosen, []) if chosen else []
    if chosen is None or not taken:
        raise ConfigError(_nothing_found(source, fmt, _count(files) | passed_over))
    kept = {file.uri for file in taken}
    others = _count([file for file in files if file.uri not in kept])
    return chosen, taken, others | passed_over


def check_obstacles(files: Sequence[File]) -> None:
    """Checks that what may stand for many images can be read.

    Raises:
        ConfigError: If one of these files is none.
    """
    found = [file for file in files if file.obstacle]
    if found:
        more = f" (and {len(found) - 1:,} other(s) like it)" if found[1:] else ""
        raise ConfigError(
            f"{found[0].uri} is {found[0].obstacle}{more}, so that nobody knows how many images "
            "are missing: restore it, or take it out of the source"
        )


def _group(files: Sequence[File], fmt: str | None) -> dict[str, list[File]]:
    """Returns the files of each format that there are any of, in their order."""
    kinds: dict[str, str | None] = {kind: name for name, known in FORMATS.items() for kind in known}
    kinds[""] = _format_of_bare([file for file in files if not extension(file.uri)], fmt)
    groups: dict[str, list[File]] = {}
    for file in files:
        name = kinds.get(extension(file.uri))
        if name is not None:
            groups.setdefault(name, []).append(file)
    return groups


def _format_of_bare(files: Sequence[File], fmt: str | None) -> str | None:
    """Returns the one format that files without an extension have, if they have any."""
    found = find_formats(files)
    if len(found) > 1 and fmt is None:
        raise ConfigError(
            f"of {len(files):,} files without an extension, the first {files[0].uri}, some are "
            f"{' and some '.join(sorted(found))}: say with --format which to read, or put them "
            "apart"
        )
    return fmt if fmt in found else next(iter(found), None)


def _choose(source: str, groups: dict[str, list[File]], read: Read) -> str | None:
    """Returns the format that is meant; None if there are files of none."""
    if len(groups) < 2:
        return next(iter(groups), None)
    if groups.keys() == {"parquet", "folder"} and not may_hold_images(groups["parquet"], read):
        return "folder"  # what is known of the images lies beside them
    firsts = {name: group[0] for name, group in groups.items()}
    if groups.keys() == {"webdataset", "parquet"}:
        lonely = _lonely(groups["parquet"], groups["webdataset"])
        if not lonely:
            return "webdataset"  # img2dataset puts a Parquet file of metadata beside each tar
        firsts["parquet"] = lonely[0]
    found = ", ".join(
        f"{len(groups[name]):,} of {name}, such as {file.uri}" for name, file in firsts.items()
    )
    raise ConfigError(
        f"{source} holds files of several formats: {found}; say with --format which of them to "
        "read, or put them apart"
    )


def _lonely(files: Sequence[File], beside: Sequence[File]) -> list[File]:
    """Returns the files that have no namesake among others."""
    stems = {stem(file.uri) for file in beside}
    return [file for file in files if stem(file.uri) not in stems]


def _count(files: Sequence[File]) -> dict[str, int]:
    counts = count_extensions(file.uri for file in files if not file.obstacle)
    obstacles = sum(file.obstacle is not None for file in files)
    return counts | ({CANNOT_BE_READ: obstacles} if obstacles else {})


def _nothing_found(source: str, fmt: str | None, counts: dict[str, int]) -> str:
    wanted = [kind for name, kinds in FORMATS.items() if fmt in {None, name} for kind in kinds]
    found = ", ".join(f"{count:,} {kind}" for kind, count in counts.items())
    return (
        f"{source} holds nothing to read: looked for {' '.join(wanted)}, found "
        f"{found or 'no files at all'}; check the path, or set the format if it was set wrongly"
    )
