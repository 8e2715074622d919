"""Where samples come from: a listing of shards, then one shard at a time as a stream of samples.

    list_shards  a folder, file or pattern  ->  the shards of a run
    find_image   the columns there are      ->  which of them hold the images
    with_about   a folder                   ->  the same, with the files about its images
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
from vqpipe.schema import IMAGE, LABEL, File, Sample, Selection, Shard, is_about_images
from vqpipe.sources import about_images, codes, columns, folder, parquet, webdataset
from vqpipe.sources.agreement import Begun
from vqpipe.sources.columns import Read
from vqpipe.sources.extensions import subtract_extensions
from vqpipe.sources.fields import parts_of
from vqpipe.sources.formats import sort_out
from vqpipe.sources.listing import Listing
from vqpipe.sources.names import (
    RESERVED,
    check_keep,
    check_names,
    check_unicode,
    count_dotted,
    visible_files,
)
from vqpipe.sources.patterns import find_files
from vqpipe.sources.versions import imprint_files, imprint_shards

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
    about = imprint_files(filter(is_about_images, visible)) if fmt == "folder" else []
    return Listing(
        fmt,
        tuple(shards),
        subtract_extensions(ignored, (file.uri for file in about)),
        found.followed,
        found.repeated,
        found.dotted_folders,
        tuple(about),
    )


def find_image(listing: Listing, selection: Selection, read: Read | None = None) -> Selection:
    """Returns a selection that names the columns of images, where there are columns.

    Args:
        listing: The source.
        selection: What the operator named.
        read: Reads some samples; by default here.

    Raises:
        ConfigError: If nothing tells which one it is.
    """
    if listing.format != "parquet":
        return selection
    if selection.images:
        return replace(selection, image=columns.find_named(listing.shards, selection.images))
    return replace(selection, image=columns.find_image(listing.shards, read or read_shard))


def find_passed_over(listing: Listing, selection: Selection) -> list[str]:
    """Returns the columns of Parquet files that may hold images too, neither taken nor kept."""
    over = columns.find_passed_over(listing.shards, selection.images)
    return [name for name in over if name != selection.key and name not in selection.keep]


def with_about(listing: Listing, selection: Selection) -> Listing:
    """Returns a listing whose shards have the files that say what is to be kept of their images.

    Raises:
        ConfigError: If two of these speak of the same images.
    """
    if listing.format != "folder" or not selection.keep:
        return listing
    return replace(listing, shards=about_images.with_about(listing.shards, listing.about))


def kept_names(listing: Listing, selection: Selection) -> list[str]:
    """Returns the names of the kept columns, in order: those that are ours, then those asked for.

    Raises:
        ConfigError: If they do not go with each other, or with those that the output has anyway.
    """
    own = [IMAGE] if isinstance(selection.image, tuple) else []
    own += [LABEL] if selection.label else []
    asked = selection.keep
    if listing.format == "webdataset":
        asked = tuple(part.column for part in parts_of(selection.keep))
    check_keep(asked, RESERVED.union(own))
    return [*own, *asked]


def kept_schema(listing: Listing, selection: Selection, begun: Begun | None = None) -> pa.Schema:
    """Returns the columns of `selection.keep` with the types in which they are kept.

    Those that a run has kept so far stay what they are.

    Args:
        listing: The source, with the files about images among its shards (`with_about`).
        selection: What to read of it, with the columns of images (`find_image`).
        begun: What is kept by the run that this goes on with, if it has begun.

    Raises:
        ConfigError: If the selection does not fit the source.
        MismatchError: If a file that is new does not go with what is kept.
    """
    names = kept_names(listing, selection)
    if begun and begun.kept.names != names:
        begun = None  # of another identity, which will say what differs
    if selection.label and listing.format != "folder":
        raise ConfigError(
            f"--label folder is about folders of images, and the source is {listing.format}: "
            "leave it out; --keep takes labels that are stored in tars and Parquet files"
        )
    found = _kept_schema(listing, selection, begun)
    if begun:
        return begun.kept
    own = [pa.field(IMAGE, pa.string())] if isinstance(selection.image, tuple) else []
    return pa.schema([*own, *found], metadata=found.metadata)


def _kept_schema(listing: Listing, selection: Selection, begun: Begun | None) -> pa.Schema:
    if listing.format == "webdataset":
        return webdataset.kept_schema(listing.shards, selection, is_known=begun is not None)
    if listing.format == "parquet":
        return parquet.kept_schema(listing.shards, selection, begun)
    return folder.kept_schema(listing.shards, selection, begun)


def asked_schema(
    listing: Listing, selection: Selection, names: Sequence[str], begun: Begun | None = None
) -> pa.Schema:
    """Returns columns that are read and not kept, with types that hold the values of all files.

    Args:
        listing: Parquet files.
        selection: What to read of them, with the column of images (`find_image`).
        names: The columns.
        begun: What the run asks for that this goes on with, if it has begun.

    Raises:
        ConfigError: If a column is not in all files, or has types that do not go together.
        MismatchError: If a file that is new does not go with what is asked for.
    """
    asked = replace(selection, keep=tuple(names))
    return parquet.kept_schema(listing.shards, asked, begun).remove_metadata()


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
    return folder.read_shard(shard, selection, kept)


def count_rows(shard: Shard, selection: Selection) -> int | None:
    """Returns how many samples a shard claims to have; None where only reading it tells.

    Raises:
        SourceChangedError: If a file is not the one that was listed.
        StorageError: If the store fails.
    """
    if shard.format == "parquet":
        return parquet.count_rows(shard, selection.images)
    if shard.format in codes.DTYPE:
        return parquet.count_rows(shard)
    return len(shard.images) if shard.format == "folder" else None


def _shards(
    fmt: str, root: str, files: list[File], planned: Sequence[Shard], max_shard_bytes: int
) -> list[Shard]:
    if fmt == "webdataset":
        return webdataset.list_shards(root, files)
    if fmt == "parquet":
        return parquet.list_shards(root, files, max_shard_bytes)
    own = [shard for shard in planned if shard.format == "folder"]  # else it is another run's
    return folder.list_shards(root, files, own)
