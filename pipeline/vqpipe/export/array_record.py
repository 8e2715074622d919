"""Files of ArrayRecord, the random-access files of Grain and JAX: one a shard, one record a row.

A record is a `tf.train.Example` (`export.example`) with the features

    key      bytes    of the image
    view     int64    which of its views
    codes    int64s   row-major
    shape    int64s   of codes
    label    int64    where there is a column of labels, and the row has one
    caption  bytes    the same of captions, UTF-8
    json     bytes    all other columns but vectors, the key among them

Each record is compressed by itself (group_size:1), as random reads want it:
https://github.com/google/array_record/blob/23391e0038a99be615e8251c7e4cb1ead89c2c92/docs/performance.md
"""

import contextlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import pyarrow as pa

from vqpipe import storage
from vqpipe.export.about import on_disk, write_meta
from vqpipe.export.codes import check_codes
from vqpipe.export.columns import find_caption, find_label
from vqpipe.export.example import Feature, pack_example
from vqpipe.export.extras import need
from vqpipe.export.files import publish_file
from vqpipe.export.format import Made
from vqpipe.export.records import Record, records
from vqpipe.export.subject import Subject
from vqpipe.sink.objects import CODES

_OPTIONS = "group_size:1"


@dataclass(frozen=True)
class ArrayRecord:
    """A file a shard."""

    label: str | None = None
    caption: str | None = None

    def settle(self, subject: Subject) -> Self:
        """Refuses a sink without codes, and columns that are not there."""
        need("array_record", "array_record")
        check_codes(subject)
        label, caption = find_label(subject, self.label), find_caption(subject, self.caption)
        return replace(self, label=label, caption=caption)

    def columns(self, subject: Subject) -> list[str]:
        """Returns all columns but vectors."""
        return [CODES, *subject.facts]

    def write_shard(
        self, subject: Subject, index: int, groups: Iterator[pa.Table], out: str
    ) -> Made:
        """Writes the file of a shard; none of a shard without rows."""
        from array_record.python.array_record_module import (  # noqa: PLC0415 (an extra)
            ArrayRecordWriter,
        )

        rows = 0
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "records")
            with contextlib.closing(ArrayRecordWriter(str(path), _OPTIONS)) as writer:
                for table in groups:
                    for record in records(subject, table):
                        writer.write(_example(record, self.label, self.caption))
                    rows += len(table)
            if not rows:
                return Made()
            uri = storage.join_uri(out, f"{subject.shard(index).name}.array_record")
            with path.open("rb") as file:
                return Made(rows, files=1, bytes=publish_file(uri, file))

    def finish(self, subject: Subject, out: str) -> Made:
        """Writes what the codes are; files know how many records they have."""
        return write_meta(subject, out, {})

    def read_with(self, subject: Subject, out: str) -> str:  # noqa: ARG002 (of the protocol)
        """Returns how Grain reads the files."""
        files = "sorted(glob.glob('{}/**/*.array_record', recursive=True))"
        return on_disk(f"grain.sources.ArrayRecordDataSource({files})", out)


def _example(record: Record, label: str | None, caption: str | None) -> bytes:
    features: dict[str, Feature] = {
        "key": record.key.encode(),
        "view": [record.view],
        "codes": record.codes.reshape(-1),
        "shape": record.codes.shape,
    }
    if (number := record.label(label)) is not None:
        features["label"] = [number]
    if (text := record.caption(caption)) is not None:
        features["caption"] = text.encode()
    rest = record.facts_without(label, caption)
    features["json"] = json.dumps(rest, ensure_ascii=False).encode()
    return pack_example(features)
