"""Samples side by side: the columns of what was read, kept values as Arrow had them in the source.

A kept value is never a Python object on its way: dates beyond the year 9999, zones that nobody
knows and nanoseconds would not survive that.
"""

import itertools
from collections.abc import Sequence

import pyarrow as pa

from vqpipe.schema import KEPT, Sample


def columns_of(samples: Sequence[Sample], kept: pa.Schema, holds: str) -> dict[str, pa.Array]:
    """Returns all that is read of some samples, by column: of `HEAD`, kept values, data.

    Args:
        samples: At least one; a kept value that one does not have is null.
        kept: Schema of the kept metadata, which values have been cast to.
        holds: What to call the column of their data.
    """
    rejections = [sample.rejection for sample in samples]
    return {
        "row": pa.array([sample.row for sample in samples], pa.int32()),
        "key": pa.array([sample.key for sample in samples], pa.string()),
        "reason": pa.array([each and each.reason.value for each in rejections], pa.string()),
        "message": pa.array([each and each.message for each in rejections], pa.string()),
        "lost": pa.array([each and each.lost for each in rejections], pa.int64()),
        "lost_by": pa.array([each and each.lost_by for each in rejections], pa.string()),
        "passed_over": pa.array([sample.passed_over for sample in samples], pa.int32()),
        **{KEPT + field.name: _values(samples, field) for field in kept},
        holds: _joined([sample.data for sample in samples]),
    }


def _joined(values: Sequence[bytes | None]) -> pa.Array:
    """Returns large binary values; Arrow's own way grows its memory step by step, and copies it."""
    ends = itertools.accumulate((len(value or b"") for value in values), initial=0)
    is_there = pa.array([None if value is None else True for value in values], pa.bool_())
    data = pa.py_buffer(b"".join(value or b"" for value in values))
    buffers = [is_there.buffers()[0], pa.array(ends, pa.int64()).buffers()[1], data]
    return pa.Array.from_buffers(pa.large_binary(), len(values), buffers)


def _values(samples: Sequence[Sample], field: pa.Field) -> pa.Array:
    none = pa.nulls(1, field.type)
    return pa.concat_arrays([sample.kept.get(field.name, none) for sample in samples])


def kept_bytes(sample: Sample) -> int:
    """Returns how many bytes the kept values of a sample take."""
    return sum(int(value.nbytes) for value in sample.kept.values())
