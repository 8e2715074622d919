"""What RAR, MaskGIT and TiTok's generators train on: one JSON line for each view of an image.

    pretokenized.jsonl   {"class_id": 7, "tokens": [...]}

`scripts/pretokenization.py` writes it and `PretoeknizedDataSetJSONL` of `data/webdataset_reader.py`
reads it, by `linecache` (https://github.com/bytedance/1d-tokenizer, commit 942a96f).
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import pyarrow as pa

from vqpipe import storage
from vqpipe.errors import ConfigError
from vqpipe.export import place
from vqpipe.export.codes import check_same_shape
from vqpipe.export.columns import labels_of, need_label
from vqpipe.export.files import publish_file, spool
from vqpipe.export.format import Made
from vqpipe.export.pieces import join_pieces
from vqpipe.export.subject import Subject
from vqpipe.schema import numbers_of
from vqpipe.sink.objects import CODES

_FILE = "pretokenized.jsonl"


@dataclass(frozen=True)
class Rar:
    """One file of lines, of class and codes."""

    label: str | None = None

    def settle(self, subject: Subject) -> Self:
        """Refuses codes that are no plain sequence of one length, and a sink without labels."""
        check_same_shape(subject, "rar")
        if subject.layout.kind not in {"grid", "sequence"}:
            raise ConfigError(
                f"--to rar needs a grid or a sequence of codes, and those of "
                f"{subject.snapshot.uri} are {subject.layout.describe()}: its trainers take no such"
            )
        return replace(self, label=need_label(subject, self.label, "--to rar"))

    def columns(self, subject: Subject) -> list[str]:
        """Returns codes and labels."""
        return ["key", CODES, need_label(subject, self.label, "--to rar")]

    def write_shard(
        self, subject: Subject, index: int, groups: Iterator[pa.Table], out: str
    ) -> Made:
        """Writes the lines of a shard as a piece of the file."""
        label, rows = self.columns(subject)[-1], 0
        with spool() as lines:
            for table in groups:
                labels = labels_of(table, label).tolist()
                for class_id, codes in zip(labels, numbers_of(table[CODES]), strict=True):
                    line = json.dumps({"class_id": class_id, "tokens": codes.tolist()})
                    lines.write(line.encode() + b"\n")
                rows += len(table)
            publish_file(place.piece_uri(out, _FILE, index), lines)
        return Made(rows)

    def finish(self, subject: Subject, out: str) -> Made:
        """Joins the lines of all shards."""
        return join_pieces(out, _FILE, len(subject))

    def read_with(self, subject: Subject, out: str) -> str:
        """Returns the option of the trainer, and what is to be changed of it."""
        option = f"dataset.params.pretokenization={storage.join_uri(out, _FILE)}"
        examples = f"experiment.max_train_examples={subject.rows}"
        return (
            f"train_rar.py {option} {examples}; take out where it downloads the file by that name"
        )
