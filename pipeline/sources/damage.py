"""The one row that says where a shard stopped being readable."""

import struct
import zlib

import pyarrow as pa

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

ARROW_ERRORS = (pa.ArrowException, *PARSER_ERRORS)
"""What Arrow raises on damaged data; want of memory is among it."""

_MAX_MESSAGE = 500


def damaged(row: int, key: str | None, place: str, error: Exception) -> Sample:
    """Returns the last sample of a shard that cannot be read past `row`."""
    cause = brief(str(error)) or type(error).__name__
    message = brief(f"{place}: {cause}")
    return Sample(row, key, rejection=Rejection(Reason.SHARD_DAMAGED, message))


def brief(text: str) -> str:
    """Returns text as one line of a length that a message can have."""
    return " ".join(text.split())[:_MAX_MESSAGE]
