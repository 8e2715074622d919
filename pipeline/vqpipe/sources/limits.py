"""The first shards of a source, or those of its first samples: for a trial of what comes after.

No more of the source is looked at than it takes to find them: footers of Parquet files, headers of
tars (`webdataset.count_samples`), of a folder nothing but its listing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pyarrow as pa

from vqpipe.errors import ConfigError
from vqpipe.schema import Selection
from vqpipe.sources import columns, parquet, webdataset
from vqpipe.sources.listing import Listing
from vqpipe.storage.ahead import map_ahead

_READERS = 8

Cut = tuple[str, int]
"""Name of a shard of which only the first samples are taken, and how many."""


def first_shards(listing: Listing, most: int) -> Listing:
    """Returns a listing with its first shards alone, in order of name."""
    return replace(listing, shards=listing.shards[:most])


def first_samples(listing: Listing, selection: Selection, most: int) -> tuple[Listing, Cut | None]:
    """Returns a listing with the shards of its first samples, and how the last of them is cut.

    What is damaged counts as many samples as it is said to have, or as reading it will show.

    Args:
        listing: The source.
        selection: What to read of each sample.
        most: Samples, from 1.

    Raises:
        ConfigError: If images lie in lists.
        SourceChangedError: If a file is not the one that was listed.
        StorageError: If the store fails.
    """
    left = most
    for place, count in enumerate(_counts(listing, selection, most), start=1):
        if count >= left:
            name = listing.shards[place - 1].name
            return first_shards(listing, place), (name, left) if count > left else None
        left -= count
    return listing, None


def _counts(listing: Listing, selection: Selection, most: int) -> Iterator[int]:
    """Yields how many samples each shard has; of a tar, one more than asked for at most."""
    shards, images = listing.shards, selection.images
    if listing.format == "folder":
        return (len(shard.images) for shard in shards)
    if listing.format == "webdataset":
        each = len(images) if isinstance(selection.image, tuple) else 1
        return (each * webdataset.count_samples(shard, selection, most + 1) for shard in shards)
    _check_lists(listing, images)
    counts = map_ahead(lambda shard: parquet.count_rows(shard, images), iter(shards), _READERS)
    return (1 if count is None else count for count in counts)  # a damaged one is one rejection


def _check_lists(listing: Listing, images: Sequence[str]) -> None:
    """Refuses columns of which a row has any number of images: only reading all tells how many."""
    found = (columns.find_schema(shard.files[0]) for shard in listing.shards)
    schema = next((each for each in found if each is not None), pa.schema([]))
    for name in images:
        if name in schema.names and columns.holds_images(schema.field(name).type):
            raise ConfigError(
                f"--limit counts images, and a row of column {name!r} holds a list of them: say "
                "with --limit-shards how many files to take"
            )
