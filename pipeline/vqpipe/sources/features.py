"""What Hugging Face `datasets` says of columns in the schema of a Parquet file."""

import json
from collections.abc import Mapping
from typing import Any

FEATURES = b"huggingface"
"""Key under which `datasets` describes columns, such as the names of classes."""


def features_of(text: bytes) -> dict[str, Any]:
    """Returns what `datasets` says of each column; nothing if it is not understood."""
    try:
        found = json.loads(text)["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def describe(features: Mapping[str, Any]) -> dict[bytes, bytes] | None:
    """Returns the metadata of a schema that says so of its columns; None if there is nothing."""
    return {FEATURES: json.dumps({"info": {"features": features}}).encode()} if features else None
