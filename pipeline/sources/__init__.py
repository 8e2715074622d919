"""Where samples come from: a listing of shards, then one shard at a time as a stream of samples.

    list_shards  a folder, file or pattern  ->  the shards of a run
    kept_schema  the metadata to keep       ->  its Arrow schema, checked before any work starts
    read_shard   one shard                  ->  samples in stored order, keys untouched
    count_rows   one shard                  ->  how many it claims to have, where a footer says so

A bad sample is a rejected `Sample`, and a damaged shard ends in one; what the store refuses
(`StorageError`) and what is not what was planned (`SourceChangedError`) fly.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from pipeline import storage
from pipeline.errors import ConfigError
from pipeline.schema import HEAD, VIEW, File, Sample, Selection, Shard
from pipeline.sources import codes, folder, parquet, webdataset
from pipeline.sources.extensions import (
    FORMATS,
    check_format,
    count_extensions,
    detect_format,
    extension,
)
from pipeline.sources.names import check_keep, check_names, check_unicode, visible_files
from pipeline.sources.patterns import find_files

RESERVED = {field.name for field in (*HEAD, *VIEW)} | {"codes"}
"""Columns that the output has of its own."""

HIDDEN = "hidden (a name or a folder that begins with _)"
"""What is said of files that are passed over by their names."""


@dataclass(frozen=True)
class Listing:
    """The shards of one source, and what was left out."""

    format: str
    """`webdataset`, `parquet` or `folder`."""
    shards: tuple[Shard, ...]
    """Sorted by name."""
    ignored: dict[str, int]
    """How many files of which extension were found and not taken."""


def list_shards(
    source: str,
    fmt: str | None = None,
    *,
    planned: Sequence[Shard] = (),
    max_shard_bytes: int = parquet.MAX_SHARD_BYTES,
) -> Listing:
    """Returns the shards of a folder, a file or a pattern, local or remote.

    Args:
        source: What `find_files` understands.
        fmt: The format, or None to take it from the files' extensions.
        planned: The shards of a run of this source: images of a folder stay in the shard that they
            are in, and new ones come in new shards.
        max_shard_bytes: Parquet files above this size are split by row groups.

    Raises:
        ConfigError: If nothing is found, or the source cannot be used as it is.
    """
    root, found = find_files(source)
    files = visible_files(storage.normalise_uri(source), root, found)
    counts = count_extensions([file.uri for file in files])
    fmt = detect_format(counts) if fmt is None else check_format(fmt)
    taken = [file for file in files if fmt and extension(file.uri) in FORMATS[fmt]]
    if fmt is None or not taken:
        raise ConfigError(_nothing_found(source, fmt, counts))
    check_unicode(taken)
    shards = _shards(fmt, root, taken, planned, max_shard_bytes)
    check_names(shards)
    ignored = {kind: count for kind, count in counts.items() if kind not in FORMATS[fmt]}
    if len(files) < len(found):
        ignored[HIDDEN] = len(found) - len(files)
    return Listing(fmt, tuple(sorted(shards, key=lambda shard: shard.name)), ignored)


def kept_schema(listing: Listing, selection: Selection) -> pa.Schema:
    """Returns the columns of `selection.keep` with the types in which they are kept.

    Extensions of a webdataset are strings, columns of a Parquet file keep their Arrow type.

    Raises:
        ConfigError: If the selection does not fit the source.
    """
    check_keep(selection.keep, RESERVED)
    if listing.format == "webdataset":
        return webdataset.kept_schema(selection)
    if listing.format == "parquet":
        return parquet.kept_schema(listing.shards, selection)
    if selection != Selection():
        raise ConfigError("a folder has no columns or members to select: drop image, key and keep")
    return pa.schema([])


def read_shard(shard: Shard, selection: Selection, kept: pa.Schema) -> Iterator[Sample]:
    """Yields every sample of a shard in stored order, rows counted from 0.

    Args:
        shard: One of `list_shards`.
        selection: What to read of each sample.
        kept: What `kept_schema` returned for the same selection.

    Raises:
        SourceChangedError: If a file is not the one that was listed.
        StorageError: If the store fails.
    """
    if shard.format == "webdataset":
        return webdataset.read_shard(shard, selection, kept)
    if shard.format == "parquet":
        return parquet.read_shard(shard, selection, kept)
    if shard.format in codes.DTYPE:
        return codes.read_shard(shard, selection, kept)
    return folder.read_shard(shard)


def count_rows(shard: Shard) -> int | None:
    """Returns how many samples a shard claims to have; None where only reading it tells.

    Raises:
        SourceChangedError: If a file is not the one that was listed.
        StorageError: If the store fails.
    """
    if shard.format == "parquet" or shard.format in codes.DTYPE:
        return parquet.count_rows(shard)
    return None


def _shards(
    fmt: str, root: str, files: list[File], planned: Sequence[Shard], max_shard_bytes: int
) -> list[Shard]:
    if fmt == "webdataset":
        return webdataset.list_shards(root, files)
    if fmt == "parquet":
        return parquet.list_shards(root, files, max_shard_bytes)
    return folder.list_shards(root, files, planned)


def _nothing_found(source: str, fmt: str | None, counts: dict[str, int]) -> str:
    wanted = [kind for name, kinds in FORMATS.items() if fmt in {None, name} for kind in kinds]
    found = ", ".join(f"{count} {kind}" for kind, count in counts.items()) or "no files at all"
    return (
        f"{source} holds nothing to read: looked for {' '.join(wanted)}, found {found}; check the "
        "path, or set the format if it was set wrongly"
    )
