"""Where a source and a sink are to each other, and whether a sink has room for the names."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from vqpipe import storage
from vqpipe.errors import ConfigError

_MAX_KEY_BYTES, _MAX_PATH_BYTES = 1_024, 4_095
"""What S3, GCS and Azure take of an object's name, and Linux of a path."""
_ADDED_BYTES = 160
"""More than a sink adds to its own path and a shard's name: folders of an evaluation and of staged
rows, the range of these rows, their edition."""
_SAME_STORES = {"gcs": "gs", "abfs": "az", "abfss": "az"}


def check_places(source: str, sink: str, links: Iterable[str] = ()) -> None:
    """Refuses a sink inside its source, by whatever path, and a source inside its sink.

    Args:
        source: A normalised URI.
        sink: Another one.
        links: URIs of folders outside the source that are read as parts of it.

    Raises:
        ConfigError: If one is inside the other.
    """
    if _is_within(sink, source) and _is_within(source, sink):
        raise ConfigError(
            f"the sink {sink} is the source itself, which a run must not write to; put it beside it"
        )
    for folder in (source, *links):
        if _is_within(sink, folder):
            through = "" if folder == source else f", which {folder} leads to"
            raise ConfigError(
                f"the sink {sink} is inside the source {source}{through}, so that the next run "
                "would read its output; put it beside the source"
            )
    if _is_within(source, sink):
        raise ConfigError(
            f"the source {source} is inside the sink {sink}, which is to hold nothing but what a "
            "run writes; give the sink a folder of its own"
        )


def check_lengths(sink: str, names: Iterable[str]) -> None:
    """Refuses shards whose objects would have longer names than stores take.

    Raises:
        ConfigError: If there are any; else it would show at their commit, after all the work.
    """
    longest = max(names, key=lambda name: len(name.encode()))
    most = (_MAX_KEY_BYTES if "://" in sink else _MAX_PATH_BYTES) - _ADDED_BYTES
    size = len(storage.join_uri(sink, longest).encode())
    if size > most:
        raise ConfigError(
            f"sink and name of the shard {longest} have {size:,} bytes together, and at most "
            f"{most:,} fit: take a sink with a shorter path, or shorter names of files and folders "
            "in the source"
        )


def _is_within(inner: str, outer: str) -> bool:
    """Tells whether a URI is another one, or below it."""
    if "://" in inner or "://" in outer:
        return f"{_plain(inner)}/".startswith(f"{_plain(outer)}/")
    real, base = (Path(_plain(os.path.realpath(path))) for path in (inner, outer))
    above = (real, *real.parents)
    return base in above or any(_is_same(folder, base) for folder in above)


def _is_same(one: Path, other: Path) -> bool:
    """Tells whether two paths lead to one folder: it may be mounted twice, or know no capitals."""
    try:
        return one.samefile(other)
    except OSError:  # one of them is not there yet
        return False


def _plain(uri: str) -> str:
    """Returns a URI under the one name of its store, as if `a//b` were `a/b`."""
    scheme, mark, path = uri.rpartition("://")
    return _SAME_STORES.get(scheme, scheme) + mark + re.sub("/+", "/", path).rstrip("/")
