"""The one row that says where a shard stopped being readable."""

import struct
import zlib

import pyarrow as pa

from vqpipe.rejections import UNKNOWN, Loss, Reason, Rejection
from vqpipe.schema import Sample

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


def damaged(row: int, key: str | None, place: str, error: Exception, loss: Loss) -> Sample:
    """Returns the last sample of a shard that cannot be read past `row`."""
    cause = brief(str(error)) or type(error).__name__
    message = brief(f"{place}: {cause}")
    return Sample(row, key, rejection=Rejection(Reason.SHARD_DAMAGED, message, loss))


class Pace:
    """How many bytes of its file a sample takes, judged by those so far.

    Args:
        size: Bytes of the file as it is stored.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._samples = self._start = self._largest = 0

    def advance(self, place: int) -> None:
        """Notes that a sample has ended, before a byte of the file."""
        self._samples += 1
        self._largest = max(self._largest, place - self._start)
        self._start = place

    def judge(self, *, is_at_end: bool) -> Loss:
        """Returns what is lost from the last sample's end on.

        Args:
            is_at_end: Whether the file ends where it could not be read any more. What a cut file
                was before, it does not tell; only much more than a sample is no part of one.
        """
        left = self._size - self._start
        if not self._start or (is_at_end and left <= _OF_LARGEST * self._largest):
            return UNKNOWN
        return Loss(max(1, round(left * self._samples / self._start)), "estimated")


_OF_LARGEST = 4


def brief(text: str) -> str:
    """Returns text as one line of a length that a message can have."""
    return " ".join(text.split())[:_MAX_MESSAGE]
