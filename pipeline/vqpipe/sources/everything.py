"""What `--keep-all` stands for: all that a source has beside its images, by name.

It is settled when a run begins, and stands in its identity as if somebody had typed it.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from vqpipe.schema import IMAGE, LABEL, File, Selection
from vqpipe.sources import members
from vqpipe.sources.about_files import find_columns
from vqpipe.sources.columns import Read, find_schema, looks_like_images, may_hold
from vqpipe.sources.listing import Listing
from vqpipe.sources.names import RESERVED
from vqpipe.sources.parquet_footer import extension_name
from vqpipe.storage.ahead import map_ahead
from vqpipe.texts import is_bytes

_READERS = 32
_TEXTS = {
    *("caption", "cls", "csv", "htm", "html", "json", "jsonl", "lang", "md", "prompt", "srt"),
    *("tags", "text", "transcript", "tsv", "txt", "url", "vtt", "xml", "yaml", "yml"),
}
"""Extensions of members that are text, by their last part."""


@dataclass
class Everything:
    """What there is to keep."""

    names: list[str] = field(default_factory=list)
    passed_over: dict[str, str] = field(default_factory=dict)
    """What is not kept, with why."""


def find_everything(listing: Listing, selection: Selection, read: Read) -> Everything:
    """Returns all that can be kept of a source.

    Args:
        listing: The source.
        selection: What else is read of it: images, keys, and where keys of tars end.
        read: Reads samples: of a column of bytes, the first ones tell whether it holds images.

    Raises:
        ConfigError: If a file about images cannot be read.
    """
    if listing.format == "webdataset":
        return _members(listing, selection)
    files = list(dict.fromkeys(shard.files[0] for shard in listing.shards))
    if listing.format == "folder":
        schemas = map_ahead(find_columns, iter(listing.about), _READERS)
        return _columns(list(schemas), selection, [], read)
    schemas = (each for each in map_ahead(find_schema, iter(files), _READERS) if each is not None)
    return _columns(list(schemas), selection, files, read)


def _members(listing: Listing, selection: Selection) -> Everything:
    seen = members.look(listing.shards, selection)
    samples = seen.samples(selection.key_until)
    counts = Counter(extension for extensions in samples for extension in set(extensions))
    found, ranks = Everything(), members.image_ranks(selection)
    for name in sorted(counts):
        is_image = name in ranks or members.is_image_name(name, selection)
        if name.rpartition(".")[2] in _TEXTS and not is_image:
            found.names.append(name)
        elif name and not is_image:
            found.passed_over[name] = "no text by its name"
    return found


def _columns(
    schemas: Sequence[pa.Schema], selection: Selection, files: Sequence[File], read: Read
) -> Everything:
    """Returns what all of some files have, in the order of the first."""
    found = Everything()
    counts = Counter(name for schema in schemas for name in set(schema.names))
    taken = {*selection.images, selection.key}
    for name in dict.fromkeys(name for schema in schemas for name in schema.names):
        columns = [schema.field(name) for schema in schemas if schema.names.count(name) == 1]
        why = _why_not(name, columns, selection, files, read)
        if counts[name] < len(schemas) or len(columns) < len(schemas):
            why = "not in all files, or twice in one"
        if name not in taken and why is None:
            found.names.append(name)
        elif name not in taken:
            found.passed_over[name] = why or ""
    return found


def _why_not(
    name: str, columns: Iterable[pa.Field], selection: Selection, files: Sequence[File], read: Read
) -> str | None:
    """Returns why a column is not kept; None if it is."""
    own = {IMAGE} if isinstance(selection.image, tuple) else set()
    own |= {LABEL} if selection.label else set()
    if name in RESERVED | own:
        return "the output has one of that name"
    for column in columns:
        if extension_name(column) is not None:
            return "an extension type"
        is_plain = is_bytes(column.type) and files
        if may_hold(column) and not (is_plain and looks_like_images(files[0], name, read) is False):
            return "it may hold images"
    return None
