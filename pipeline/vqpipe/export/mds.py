"""Files of MDS for mosaicml-streaming's StreamingDataset: some a shard, and one index of them all.

A sample has the columns

    key    str      of the image
    view   int      which of its views
    codes  ndarray  of the layout's shape
    label (int), caption (str)    of the columns that are named, which have a value in every row
    json   json     all other columns but vectors, the key among them

The files are what mosaicml-streaming 0.13 writes, byte by byte (`export.mds_file`). That library is
not needed, and cannot be: it wants numpy below 2.2. Files of a shard have a folder of their own,
which the index names as the library's own `merge_index` does.
"""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import pyarrow as pa

from vqpipe import storage
from vqpipe.export import pieces, place
from vqpipe.export.about import write_meta
from vqpipe.export.codes import check_codes
from vqpipe.export.format import Made
from vqpipe.export.mds_file import Column, MdsShape, pack_array
from vqpipe.export.records import Named, Record, check_named, records
from vqpipe.export.subject import Subject
from vqpipe.sink.objects import CODES

_INDEX = "index.json"
_INT = struct.Struct("<q")


@dataclass(frozen=True)
class Mds:
    """Files of 64 MiB at most, of one shard each."""

    label: str | None = None
    caption: str | None = None

    def settle(self, subject: Subject) -> Self:
        """Refuses a sink without codes, and columns that are not there."""
        check_codes(subject)
        check_named(subject, self.label, self.caption)
        return self

    def columns(self, subject: Subject) -> list[str]:
        """Returns all columns but vectors."""
        return [CODES, *subject.facts]

    def write_shard(
        self, subject: Subject, index: int, groups: Iterator[pa.Table], out: str
    ) -> Made:
        """Writes the files of a shard, and as a piece what the index says of them."""
        named = Named(self.label, self.caption)
        shape = _shape(subject, named)
        has_shape = not subject.layout.differs
        samples = (
            shape.pack(_values(record, named, has_shape=has_shape))
            for table in groups
            for record in records(subject, table)
        )
        made, said = Made(), []
        for number, group in enumerate(shape.split(samples)):
            data, name = shape.file(group), f"{index:08d}/shard.{number:05d}.mds"
            storage.publish(storage.join_uri(out, name), data)
            said.append(shape.describe(name, len(data), len(group)))
            made += Made(len(group), files=1, bytes=len(data))
        storage.publish(place.piece_uri(out, _INDEX, index), json.dumps(said).encode())
        return made

    def finish(self, subject: Subject, out: str) -> Made:
        """Writes the index, and what the codes are."""
        found = pieces.read_pieces(out, _INDEX, len(subject))
        shards = [shard for data in found for shard in json.loads(data)]
        document = json.dumps({"version": 2, "shards": shards}, sort_keys=True).encode()
        storage.publish(storage.join_uri(out, _INDEX), document)
        made = Made(files=1, bytes=len(document))
        return made + write_meta(subject, out, {})

    def read_with(self, subject: Subject, out: str) -> str:  # noqa: ARG002 (of the protocol)
        """Returns how mosaicml-streaming reads the files."""
        where = "local" if storage.is_on_disk(out) else "remote"
        return f"streaming.StreamingDataset({where}='{out}', batch_size=...)"


def _shape(subject: Subject, named: Named) -> MdsShape:
    """Returns which columns the files have."""
    columns = [
        Column("key", "str", None),
        Column("view", "int", _INT.size),
        _codes_column(subject),
        Column("json", "json", None),
        *([Column("label", "int", _INT.size)] if named.label else []),
        *([Column("caption", "str", None)] if named.caption else []),
    ]
    return MdsShape(tuple(sorted(columns, key=lambda each: each.name)))


def _codes_column(subject: Subject) -> Column:
    kind, layout = subject.types.field(CODES).type.value_type, subject.layout
    if layout.differs:
        return Column(CODES, f"ndarray:{kind}", None)
    sides = ",".join(map(str, layout.shape))
    return Column(CODES, f"ndarray:{kind}:{sides}", layout.length * kind.byte_width)


def _values(record: Record, named: Named, *, has_shape: bool) -> dict[str, bytes]:
    """Returns the bytes of each column's value."""
    label, caption = named.values(record)
    rest = record.facts_without(named.label, named.caption)
    return {
        "key": record.key.encode(),
        "view": _INT.pack(record.view),
        CODES: pack_array(record.codes, has_shape=has_shape),
        "json": json.dumps(rest).encode(),
        **({"label": _INT.pack(label)} if label is not None else {}),
        **({"caption": caption.encode()} if caption is not None else {}),
    }
