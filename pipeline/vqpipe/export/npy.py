"""Plain arrays, for whoever has a loader of their own: numpy opens them without reading them.

    codes.npy            (N, V, T), of the type that the sink has: code t of view v of sample n
    labels.npy           (N,) int64, where there is a column of labels; -1 where that is null
    keys/<shard>.parquet what else is known of each row: `sample` and `view` say where its codes
                         are, then all columns but codes and vectors; in order of `sample`
    meta.json            shapes, layout and codebook, and how to read them

The format of `.npy` is https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vqpipe import storage
from vqpipe.errors import ConfigError
from vqpipe.export import place
from vqpipe.export.about import write_meta
from vqpipe.export.arrays import npy_header
from vqpipe.export.codes import check_same_shape
from vqpipe.export.columns import find_label, labels_of
from vqpipe.export.files import publish_file, spool
from vqpipe.export.format import Made
from vqpipe.export.pieces import join_pieces
from vqpipe.export.subject import Subject
from vqpipe.schema import code_type, numbers_of
from vqpipe.sink.objects import CODES

_CODES, _LABELS = "codes.npy", "labels.npy"
_SAMPLE = "sample"


@dataclass(frozen=True)
class Npy:
    """One array of all codes, one of all labels."""

    label: str | None = None

    def settle(self, subject: Subject) -> Self:
        """Refuses codes of which images have different numbers, and a column of its own name."""
        check_same_shape(subject, "npy")
        if _SAMPLE in subject.types.names:
            raise ConfigError(f"the sink keeps a column {_SAMPLE}, and --to npy writes another one")
        return replace(self, label=find_label(subject, self.label))

    def columns(self, subject: Subject) -> list[str]:
        """Returns all columns but vectors."""
        return [*subject.facts, CODES]

    def write_shard(
        self, subject: Subject, index: int, groups: Iterator[pa.Table], out: str
    ) -> Made:
        """Writes pieces of the arrays, and what is known of the rows."""
        place_of_keys = storage.join_uri(out, "keys", f"{index:08d}.parquet")
        rows, sample = 0, subject.first_sample(index)
        with spool() as codes, spool() as labels, spool() as keys:
            with pq.ParquetWriter(keys, _keys_schema(subject), compression="zstd") as writer:
                for table in groups:
                    codes.write(_codes_of(table, subject).tobytes())
                    if self.label:
                        labels.write(_labels_of(table, self.label, subject).tobytes())
                    writer.write_table(_keys_of(table, subject, sample + rows // subject.views))
                    rows += len(table)
            publish_file(place.piece_uri(out, _CODES, index), codes)
            if self.label:
                publish_file(place.piece_uri(out, _LABELS, index), labels)
            return Made(rows, files=1, bytes=publish_file(place_of_keys, keys))

    def finish(self, subject: Subject, out: str) -> Made:
        """Joins the arrays, and says what they are."""
        made = join_pieces(
            out, _CODES, len(subject), npy_header(_codes_type(subject), _shape(subject))
        )
        if self.label:
            head = npy_header(np.dtype("<i8"), (subject.samples,))
            made += join_pieces(out, _LABELS, len(subject), head)
        return made + write_meta(subject, out, self._describe(subject))

    def _describe(self, subject: Subject) -> dict[str, Any]:
        shape = _shape(subject)
        return {
            "codes": {"file": _CODES, "shape": shape, "dtype": _codes_type(subject).name},
            "labels": self.label,
            "read": [
                'codes = numpy.load("codes.npy", mmap_mode="r")  # codes[sample, view]',
                'keys = pyarrow.dataset.dataset("keys").to_table()  # sample, view, key, ...',
            ],
        }

    def read_with(self, subject: Subject, out: str) -> str:
        """Returns what opens the codes."""
        codes = storage.join_uri(out, _CODES)
        shape = " x ".join(f"{side:,}" for side in _shape(subject))
        return f'numpy.load("{codes}", mmap_mode="r"): {shape}, {_codes_type(subject).name}'


def _shape(subject: Subject) -> tuple[int, int, int]:
    return subject.samples, subject.views, subject.layout.length


def _codes_type(subject: Subject) -> np.dtype[Any]:
    kind: type[np.generic] = code_type(subject.layout.codebook_size).to_pandas_dtype()
    return np.dtype(kind).newbyteorder("<")


def _codes_of(table: pa.Table, subject: Subject) -> npt.NDArray[Any]:
    return numbers_of(table[CODES]).astype(_codes_type(subject), copy=False)


def _labels_of(table: pa.Table, label: str, subject: Subject) -> npt.NDArray[Any]:
    """Returns one label a sample."""
    filled = table.select([label]).set_column(0, label, pc.fill_null(table[label], pa.scalar(-1)))
    return labels_of(filled, label)[:: subject.views].astype("<i8", copy=False)


def _keys_schema(subject: Subject) -> pa.Schema:
    facts = [subject.types.field(name) for name in subject.facts]
    return pa.schema([pa.field(_SAMPLE, pa.int64()), *facts])


def _keys_of(table: pa.Table, subject: Subject, first: int) -> pa.Table:
    """Returns what is known of rows, the first of which is a sample's of that number."""
    numbers = first + np.arange(len(table)) // subject.views
    facts = table.select(subject.facts)
    return facts.add_column(0, _SAMPLE, pa.array(numbers, pa.int64())).cast(_keys_schema(subject))
