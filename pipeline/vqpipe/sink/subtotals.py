"""Sums over some objects of `data/`, kept in the sink for whoever adds up all of them.

    totals/<sha256>.parquet    a row an object (`counted.COUNTED`); in its metadata, the sums

Workers add up what is committed while a run goes on (`totals.add_part`), so that its end has to
read a thousandth as many objects, and so has a later command on the sink. Nothing depends on them:
whichever is damaged, or of another run, or does not hold any more (`totals`), is as good as none,
and goes once `_SUCCESS` is there. They are named by their content, and never replaced.
"""

import hashlib
import io
import json
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vqpipe import storage
from vqpipe.picks import pick_names
from vqpipe.rejections import Loss
from vqpipe.schema import File
from vqpipe.sink import layout
from vqpipe.sink.counted import COUNTED
from vqpipe.sink.footer import pack_counts, unpack_counts
from vqpipe.sink.run import Sink
from vqpipe.sink.sums import COUNTERS, SUMS, Totals
from vqpipe.storage.ahead import do_all

_AREA = "totals"
_SAID = b"vqpipe.totals"
_WRITERS = 16


def publish_part(sink: Sink, totals: Totals) -> None:
    """Keeps the sums over some objects in their sink."""
    data = _pack(totals, sink.run.fingerprint)
    name = f"{hashlib.sha256(data).hexdigest()}.parquet"
    storage.publish(storage.join_uri(sink.uri, _AREA, name), data)


def list_parts(sink: str) -> list[File]:
    """Returns the objects that hold sums over some others."""
    return storage.list_files(layout.area_uri(sink, _AREA))


def sweep_parts(sink: str, used: frozenset[str]) -> None:
    """Removes all of them but those that hold."""
    left = (file.uri for file in list_parts(sink) if file.uri not in used)
    do_all(storage.delete, left, _WRITERS)


def read_part(file: File, fingerprint: str, bins: int) -> Totals | None:
    """Returns the sums that an object holds; None if they are of another run, or it is damaged.

    Args:
        file: One of `list_parts`.
        fingerprint: Of the run.
        bins: Length of its histograms.
    """
    try:
        data = storage.read(file.uri)
    except FileNotFoundError:  # another command has come to its end
        return None
    if not file.uri.endswith(f"/{hashlib.sha256(data).hexdigest()}.parquet"):
        return None
    try:
        table = pq.read_table(io.BytesIO(data))
        said = json.loads((table.schema.metadata or {})[_SAID])
    except (pa.ArrowException, KeyError, ValueError, OSError):
        return None
    if said.get("fingerprint") != fingerprint or table.schema.names != COUNTED.names:
        return None
    found = _unpack(table.replace_schema_metadata(None), said)
    return found if len(found.histogram) == bins else None


def pick(table: pa.Table) -> pa.Table:
    """Returns one object of some, which a hash of names picks."""
    (name,) = pick_names(table["name"].to_pylist(), 1)
    return table.filter(pc.equal(table["name"], name))


def _pack(totals: Totals, fingerprint: str) -> bytes:
    said = {
        "fingerprint": fingerprint,
        "made": totals.made,
        **{name: getattr(totals, name) for name in (*SUMS, *COUNTERS, "examples")},
        "damaged": {name: asdict(loss) for name, loss in totals.damaged.items()},
        "histogram": pack_counts(totals.histogram),
    }
    table = totals.counted.table.replace_schema_metadata({_SAID: json.dumps(said)})
    buffer = io.BytesIO()
    pq.write_table(table.combine_chunks(), buffer, compression="zstd")
    return buffer.getvalue()


def _unpack(table: pa.Table, said: dict[str, Any]) -> Totals:
    found = Totals(unpack_counts(said["histogram"]), said["made"])
    for name in SUMS:
        setattr(found, name, said[name])
    for name in COUNTERS:
        getattr(found, name).update(said[name])
    found.examples = said["examples"]
    found.damaged = {name: Loss(**loss) for name, loss in said["damaged"].items()}
    found.counted.extend(table.cast(COUNTED))
    return found
