"""Chunks for litdata's StreamingDataset: some a shard, and one index of them all.

A sample is a dictionary

    key    str     of the image
    view   int     which of its views
    codes  array   of the layout's shape
    label, caption    of the columns that are named, which have a value in every row
    json   str     all other columns but vectors, the key among them

litdata's own writer makes the chunks, in a folder of this machine, and says what is in them; what
it says of each shard is joined to `index.json` in the end, as litdata joins what its own workers
say (`_merge_no_wait` of
https://github.com/Lightning-AI/litData/blob/d0abc80ce142c55fb02fd0f0ff06e61f639870b6/src/litdata/streaming/writer.py).
"""

import hashlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from vqpipe import storage
from vqpipe.errors import MismatchError
from vqpipe.export import pieces, place
from vqpipe.export.about import write_meta
from vqpipe.export.codes import check_codes
from vqpipe.export.extras import need
from vqpipe.export.format import Made
from vqpipe.export.records import Named, Record, check_named, records
from vqpipe.export.subject import Subject
from vqpipe.sink.objects import CODES

_INDEX = "index.json"
_CHUNK_BYTES = 64 * 2**20
"""What litdata's own `optimize` is told in its documentation."""


class _Text:
    """Writes text as litdata reads it, as text in any case.

    litdata's own takes text that happens to be the path of a file on this machine for that file,
    and puts its contents there.
    """

    def can_serialize(self, item: object) -> bool:
        """Tells whether something is text."""
        return isinstance(item, str)

    def serialize(self, item: str) -> tuple[bytes, None]:
        """Returns its bytes, and that it goes by the name that this is registered under."""
        return item.encode(), None


@dataclass(frozen=True)
class LitData:
    """Chunks of 64 MiB at most, of one shard each."""

    label: str | None = None
    caption: str | None = None

    def settle(self, subject: Subject) -> Self:
        """Refuses a sink without codes, and columns that are not there."""
        need("litdata", "litdata")
        check_codes(subject)
        check_named(subject, self.label, self.caption)
        return self

    def columns(self, subject: Subject) -> list[str]:
        """Returns all columns but vectors."""
        return [CODES, *subject.facts]

    def write_shard(
        self, subject: Subject, index: int, groups: Iterator[pa.Table], out: str
    ) -> Made:
        """Writes the chunks of a shard, and as a piece what litdata says of them.

        Either replaces what a killed command has left, maybe of another version of litdata.
        """
        named = Named(self.label, self.caption)
        samples = (_sample(record, named) for table in groups for record in records(subject, table))
        with tempfile.TemporaryDirectory() as folder:
            said = _write(Path(folder), samples)
            made = Made()
            for number, chunk in enumerate(said["chunks"]):
                path = Path(folder, chunk["filename"])
                chunk["filename"] = f"chunk-{index}-{number}.bin"
                with path.open("rb") as file:
                    content = storage.FileContent(file)
                    storage.replace(storage.join_uri(out, chunk["filename"]), content)
                made += Made(chunk["chunk_size"], files=1, bytes=len(content))
        storage.replace(place.piece_uri(out, _INDEX, index), json.dumps(said).encode())
        return made

    def finish(self, subject: Subject, out: str) -> Made:
        """Writes the index, and what the codes are.

        `updated_at`, elsewhere a time, is what litdata knows chunks by that it has downloaded.
        """
        chunks: list[dict[str, Any]] = []
        config: dict[str, Any] | None = None
        for data in pieces.read_pieces(out, _INDEX, len(subject)):
            said = json.loads(data)
            chunks += said["chunks"]
            config = _same(config, said["config"], out)
        index: dict[str, Any] = {"chunks": chunks, "config": config}
        index["updated_at"] = _digest(index, subject)
        document = json.dumps(index, sort_keys=True).encode()
        storage.publish(storage.join_uri(out, _INDEX), document)
        made = Made(files=1, bytes=len(document))
        return made + write_meta(subject, out, {})

    def read_with(self, subject: Subject, out: str) -> str:  # noqa: ARG002 (of the protocol)
        """Returns how litdata reads the chunks."""
        return f"litdata.StreamingDataset('{out}')"


def _sample(record: Record, named: Named) -> dict[str, Any]:
    label, caption = named.values(record)
    rest = record.facts_without(named.label, named.caption)
    return {
        "key": record.key,
        "view": record.view,
        CODES: record.codes,
        **({"label": label} if label is not None else {}),
        **({"caption": caption} if caption is not None else {}),
        "json": json.dumps(rest, ensure_ascii=False),
    }


def _write(folder: Path, samples: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """Has litdata write samples into a folder; returns what it says of them."""
    from litdata.streaming.writer import BinaryWriter  # noqa: PLC0415 (an extra; it takes long)

    writer = BinaryWriter(str(folder), chunk_bytes=_CHUNK_BYTES, serializers={"str": _Text()})
    for number, sample in enumerate(samples):
        writer.add_item(number, sample)
    writer.done()
    found = [json.loads(path.read_bytes()) for path in folder.glob("*.index.json")]
    return dict(found[0]) if found else {"chunks": [], "config": None}


def _digest(index: dict[str, Any], subject: Subject) -> str:
    """Returns the digest of what is in the chunks; hexadecimal."""
    said = json.dumps([index, subject.snapshot.digest], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()


def _same(
    config: dict[str, Any] | None, other: dict[str, Any] | None, out: str
) -> dict[str, Any] | None:
    """Returns what litdata says of all chunks, if two shards agree; None of shards without rows.

    Raises:
        MismatchError: If they do not.
    """
    if config and other and config != other:
        raise MismatchError(
            f"the chunks in {out} are of different versions of litdata, which no index can hold: "
            "remove it, and run the same command again with one version"
        )
    return config or other
