"""Where samples come from: a listing of shards, then one shard at a time as a stream of samples.

    list_shards  a folder, file or pattern  ->  the shards of a run
    find_image   the columns there are      ->  which one holds the images
    kept_schema  the metadata to keep       ->  its Arrow schema, checked before any work starts
    read_shard   one shard                  ->  samples in stored order, keys untouched
    count_rows   one shard                  ->  how many it claims to have, where that is said

A bad sample is a rejected `Sample`, and a damaged shard ends in one; what the store refuses
(`StorageError`) and what is not what was planned (`SourceChangedError`) fly.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pyarrow as pa

from vqpipe import storage
from vqpipe.errors import ConfigError
from vqpipe.schema import GRID, HEAD, VIEW, File, Sample, Selection, Shard
from vqpipe.sources import codes, columns, folder, parquet, webdataset
from vqpipe.sources.agreement import Begun
from vqpipe.sources.columns import Read
from vqpipe.sources.formats import sort_out
from vqpipe.sources.listing import Listing
from vqpipe.sources.names import check_keep, check_names, check_unicode, count_dotted, visible_files
from vqpipe.sources.patterns import find_files
from vqpipe.sources.versions import imprint_shards

RESERVED = {field.name for field in (*HEAD, *VIEW, *GRID)} | {"codes"}
"""Columns that the output has of its own."""

HIDDEN = "hidden (a name that begins with _ or a dot, or a folder with _)"
"""What is said of files that are passed over by their names."""


def list_shards(
    source: str,
    fmt: str | None = None,
    *,
    planned: Sequence[Shard] = (),
    max_shard_bytes: int = parquet.MAX_SHARD_BYTES,
    read: Read | None = None,
) -> Listing:
    """Returns the shards of a folder, a file or a pattern, local or remote.

    Args:
        source: What `find_files` understands.
        fmt: The format, or None to find it: by the files' extensions, or by what they begin with
            where they have none.
        planned: The shards of a run of this source: images of a folder stay in the shard that they
            are in, and new ones come in new shards.
        max_shard_bytes: Parquet files above this size are split by row groups.
        read: Reads some samples where it takes that to tell what a file is; by default here.

    Raises:
        ConfigError: If nothing is found, or the source cannot be used as it is.
    """
    found = find_files(source)
    visible = visible_files(storage.normalise_uri(source), found.root, found.files)
    hidden = len(found.files) - len(visible) + count_dotted(found.dotted)
    passed_over = {HIDDEN: hidden} if hidden else {}
    fmt, taken, ignored = sort_out(source, visible, fmt, read or read_shard, passed_over)
    check_unicode(taken)
    shards = imprint_shards(_shards(fmt, found.root, taken, planned, max_shard_bytes))
    check_names(shards)
    shards = sorted(shards, key=lambda shard: shard.name)
    return Listing(
        fmt, tuple(shards), ignored, found.followed, found.repeated, found.dotted_folders
    )


def find_image(listing: Listing, selection: Selection, read: Read | None = None) -> Selection:
    """Returns a selection that names the column of images, where there are columns.

    Args:
        listing: The source.
        selection: What the operator named.
        read: Reads some samples; by default here.

    Raises:
        ConfigError: If nothing tells which one it is.
    """
    if listing.format != "parquet" or selection.image is not None:
        return selection
    return replace(selection, image=columns.find_image(listing.shards, read or read_shard))


def find_passed_over(listing: Listing, selection: Selection) -> list[str]:
    """Returns the columns of Parquet files that may hold images too, neither taken nor kept."""
    over = columns.find_passed_over(listing.shards, selection.image)
    return [name for name in over if name != selection.key and name not in selection.keep]


def kept_schema(listing: Listing, selection: Selection, begun: Begun | None = None) -> pa.Schema:
    """Returns the columns of `selection.keep` with the types in which they are kept.

    Extensions of a webdataset are strings; columns of Parquet files have an Arrow type that holds
    the values of all files.

    Args:
        listing: The source.
        selection: What to read of it, with the column of images (`find_image`).
        begun: What is kept by the run that this goes on with, if it has begun.

    Raises:
        ConfigError: If the selection does not fit the source.
        MismatchError: If a file that is new does not go with what is kept.
    """
    check_keep(selection.keep, RESERVED)
    if listing.format == "webdataset":
        return webdataset.kept_schema(selection)
    if listing.format == "parquet":
        return parquet.kept_schema(listing.shards, selection, begun)
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
    return len(shard.files) if shard.format == "folder" else None


def _shards(
    fmt: str, root: str, files: list[File], planned: Sequence[Shard], max_shard_bytes: int
) -> list[Shard]:
    if fmt == "webdataset":
        return webdataset.list_shards(root, files)
    if fmt == "parquet":
        return parquet.list_shards(root, files, max_shard_bytes)
    own = [shard for shard in planned if shard.format == "folder"]  # else it is another run's
    return folder.list_shards(root, files, own)
