"""What is found in a source, whatever its format."""

from dataclasses import dataclass

from vqpipe.schema import File, Shard


@dataclass(frozen=True)
class Listing:
    """The shards of one source, and what was left out."""

    format: str
    """`webdataset`, `parquet` or `folder`; `codes` or `latents` of what is decoded."""
    shards: tuple[Shard, ...]
    """Sorted by name."""
    ignored: dict[str, int]
    """How many files of which extension were found and not taken."""
    followed: tuple[str, ...] = ()
    """URIs of linked folders that were searched."""
    repeated: tuple[str, ...] = ()
    """URIs of folders, linked or behind a link, that are read under another name."""
    unsearched: tuple[str, ...] = ()
    """URIs of folders that were not searched: their names begin with a dot."""
    about: tuple[File, ...] = ()
    """Folders: the files that say what is known of images (`schema.ABOUT_IMAGES`)."""
