"""The one row that says where a shard stopped being readable."""

import struct
import zlib

from pipeline.schema import Reason, Rejection, Sample

PARSER_ERRORS = (
    OSError,  # gzip's and Arrow's own; storage's are `VqpipeError`s by the time they get here
    EOFError,
    ValueError,
    IndexError,
    OverflowError,
    RecursionError,
    struct.error,
    zlib.error,
)
"""What parsers of the standard library raise on damaged data, and never a `VqpipeError`."""

_MAX_MESSAGE = 500


def damaged(row: int, key: str | None, place: str, error: Exception) -> Sample:
    """Returns the last sample of a shard that cannot be read past `row`."""
    cause = " ".join(str(error).split()) or type(error).__name__
    message = f"{place}: {cause}"[:_MAX_MESSAGE]
    return Sample(row, key, rejection=Rejection(Reason.SHARD_DAMAGED, message))
