"""Tars for webdataset: one a shard, with a few members of one name for each view of an image.

    NAME.codes.npy  an array of the layout's shape
    NAME.cls        the label, where there is a column of labels
    NAME.txt        the caption, where there is a column of captions
    NAME.json       all other columns but vectors, the key and its row among them
    meta.json       layout and codebook, and where the codes come from
    sizes.json      samples of each tar, as OpenCLIP looks for them beside tars

webdataset takes for one sample what stands side by side and has one name up to the first dot behind
the last slash, and passes over what has no letter before that dot; so `member_name` has neither dot
nor slash.

Sources: `base_plus_ext` and `group_by_keys` of
https://github.com/webdataset/webdataset/blob/e0953f9bba17b416d5792d5a263b171c266e78be/src/webdataset/tariterators.py;
`get_dataset_size` of
https://github.com/mlfoundations/open_clip/blob/555513d4074b682c1fed925b37e87b8e062af3cd/src/open_clip_train/data.py
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import pyarrow as pa

from vqpipe import storage
from vqpipe.export.about import on_disk, write_meta
from vqpipe.export.arrays import to_npy
from vqpipe.export.codes import check_codes
from vqpipe.export.columns import find_caption, find_label
from vqpipe.export.extras import need
from vqpipe.export.files import publish_file, spool
from vqpipe.export.format import Made
from vqpipe.export.records import Record, records
from vqpipe.export.subject import Subject
from vqpipe.sink.objects import CODES

_SIZES = "sizes.json"
_UNSAFE = re.compile(r"[%./\\~\x00-\x1f\x7f]")
"""What means something in paths, in names of members, or in what is made of keys here."""
_NO_LETTER = "%"
"""Stands for an empty key; no other one comes out like this."""


@dataclass(frozen=True)
class WebDataset:
    """A tar a shard."""

    label: str | None = None
    caption: str | None = None

    def settle(self, subject: Subject) -> Self:
        """Refuses a sink without codes, and columns that are not there."""
        need("webdataset", "webdataset")
        check_codes(subject)
        label, caption = find_label(subject, self.label), find_caption(subject, self.caption)
        return replace(self, label=label, caption=caption)

    def columns(self, subject: Subject) -> list[str]:
        """Returns all columns but vectors."""
        return [CODES, *subject.facts]

    def write_shard(
        self, subject: Subject, index: int, groups: Iterator[pa.Table], out: str
    ) -> Made:
        """Writes the tar of a shard; none of a shard without rows."""
        from webdataset import TarWriter  # noqa: PLC0415 (an extra)

        rows = 0
        with spool() as file:
            with TarWriter(file, encoder=False, mtime=0) as tar:
                for table in groups:
                    for record in records(subject, table):
                        tar.write(_sample(record, subject.views, self.label, self.caption))
                    rows += len(table)
            if not rows:
                return Made()
            uri = storage.join_uri(out, _file(subject, index))
            return Made(rows, files=1, bytes=publish_file(uri, file))

    def finish(self, subject: Subject, out: str) -> Made:
        """Writes how many samples each tar has."""
        rows = subject.snapshot.rows.tolist()
        sizes = {_file(subject, index): count for index, count in enumerate(rows) if count}
        document = json.dumps(sizes, ensure_ascii=False, indent=0).encode() + b"\n"
        storage.publish(storage.join_uri(out, _SIZES), document)
        made = Made(files=1, bytes=len(document))
        return made + write_meta(subject, out, {})

    def read_with(self, subject: Subject, out: str) -> str:  # noqa: ARG002 (of the protocol)
        """Returns how webdataset reads the tars."""
        if out.startswith("s3://"):
            tars = f"f'pipe:aws s3 cp {out}/{{tar}} -' for tar in json.load(open('{_SIZES}'))"
            opened = f"webdataset.WebDataset([{tars}], shardshuffle=False).decode()"
            return f"{opened}, with the {_SIZES} of there"
        tars = "sorted(glob.glob('{}/**/*.tar', recursive=True))"
        return on_disk(f"webdataset.WebDataset({tars}, shardshuffle=False).decode()", out)


def _sample(
    record: Record, views: int, label: str | None, caption: str | None
) -> dict[str, str | bytes]:
    """Returns what webdataset writes: the name of the members, and bytes by extension."""
    rest = record.facts_without(label, caption)
    members = {
        "codes.npy": to_npy(record.codes),
        "cls": _text(record.label(label)),
        "txt": _text(record.caption(caption)),
        "json": json.dumps(rest, ensure_ascii=False).encode(),
    }
    there = {name: data for name, data in members.items() if data is not None}
    return {"__key__": member_name(record, views), **there}


def _file(subject: Subject, index: int) -> str:
    return f"{subject.shard(index).name}.tar"


def _text(value: object) -> bytes | None:
    return None if value is None else str(value).encode()


def member_name(record: Record, views: int) -> str:
    """Returns what the names of a row's members begin with; no other row of the shard has it.

    That is `KEY`, where samples have several images `KEY~IMAGE`, and with several views `~vVIEW`
    behind it. What could be taken for something else is written as in URLs (`%2E` for a dot), so
    that `urllib.parse.unquote(name.split("~")[0])` is the key.
    """
    parts = [_escape(record.key) or _NO_LETTER]
    if record.image is not None:
        parts.append(_escape(record.image))
    if views > 1:
        parts.append(f"v{record.view}")
    return "~".join(parts)


def _escape(text: str) -> str:
    return _UNSAFE.sub(lambda found: f"%{ord(found[0]):02X}", text)
