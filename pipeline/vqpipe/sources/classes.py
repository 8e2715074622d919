"""Classes of images by the folders that they are in, as numbers and names.

The class of an image is the first folder below the source's root. Numbers are those of the sorted
names, as Hugging Face's folders of images and torchvision have them, and names stand in the schema
of every object, where `datasets` looks for them. So a run's classes are settled when it begins: a
folder that is new later would need a number that objects which are there already know no name of.
"""

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from vqpipe.errors import ConfigError, MismatchError
from vqpipe.schema import LABEL, Shard
from vqpipe.sources.features import FEATURES, features_of
from vqpipe.sources.names import relative_path

_MAX_NAMES_BYTES = 2**20  # they stand in every object of the sink


def class_of(root: str, uri: str) -> str | None:
    """Returns the class folder of an image; None of one that lies in the root."""
    first, slash, _ = relative_path(root, uri).partition("/")
    return first if slash else None


def find_classes(shards: Sequence[Shard], begun: pa.Schema | None = None) -> list[str]:
    """Returns the names of all classes, in the order of their numbers.

    Args:
        shards: All of a folder.
        begun: What is kept by the run that this goes on with, if it has begun.

    Raises:
        ConfigError: If there are none, or more than fit into every object.
        MismatchError: If a run that has begun does not know one of them.
    """
    found = {class_of(shard.root, file.uri) for shard in shards for file in shard.images}
    names = sorted(name for name in found if name is not None)
    if begun is not None:
        return _check_known(names, class_names(begun))
    if not names:
        raise ConfigError(
            "--label folder takes classes from the folders below the source, and all images lie "
            f"in {shards[0].root} itself: give the folder of the class folders, or leave it out"
        )
    if len(json.dumps(names)) > _MAX_NAMES_BYTES:
        raise ConfigError(
            f"--label folder finds {len(names):,} folders, such as {names[0]!r}, whose names are "
            "too much for every object of the sink: these are hardly classes; leave it out"
        )
    return names


def _check_known(names: list[str], known: list[str]) -> list[str]:
    new = sorted(set(names) - set(known))
    if new:
        raise MismatchError(
            f"{len(new):,} class folder(s) are new since the run began, such as {new[0]!r}: the "
            "names of classes stand in every object that is there already, so that no number is "
            "left for another one. Encode into another --sink, or take the folder out of the source"
        )
    return known


def class_names(kept: pa.Schema) -> list[str]:
    """Returns the names of classes that kept columns say."""
    said = features_of((kept.metadata or {}).get(FEATURES, b"")).get(LABEL)
    return list(said["names"]) if isinstance(said, dict) and "names" in said else []


def describe_classes(names: Sequence[str]) -> dict[str, Any]:
    """Returns how `datasets` describes the column of classes."""
    return {LABEL: {"names": list(names), "_type": "ClassLabel"}}
