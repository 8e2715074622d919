"""How a run ends: `summary.json`, and `_SUCCESS`, the last object, once all is looked at again."""

import json
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vqpipe import storage
from vqpipe.errors import AccountingError, DamagedError, IncompleteError, VqpipeError
from vqpipe.schema import File
from vqpipe.sink import beside, layout, subtotals
from vqpipe.sink.asides import AREAS
from vqpipe.sink.filenames import safe_folder
from vqpipe.sink.footer import read_footer
from vqpipe.sink.plan import Plan
from vqpipe.sink.publication import settle_asides
from vqpipe.sink.run import CompactRun, Sink
from vqpipe.sink.sums import Totals
from vqpipe.sink.totals import check_plan, find_loss
from vqpipe.storage.ahead import map_ahead

_READERS = 32


def _check_still(sink: Sink, totals: Totals) -> None:
    """Checks that plan and `data/` are what was added up."""
    check_plan(sink)
    if not layout.list_data(sink.uri).equals(totals.listed):
        raise IncompleteError(
            "another command has put objects into data/ meanwhile: run the same command again"
        )


def write_summary(sink: Sink, totals: Totals, facts: dict[str, Any]) -> dict[str, Any]:
    """Writes `summary.json`, the totals so far and how fast the run was last time; returns it."""
    summary = {**totals.to_dict(), "shards_planned": len(sink.plan), **facts}
    document = json.dumps(summary, indent=2).encode() + b"\n"
    storage.replace(storage.join_uri(sink.uri, "summary.json"), document)
    said: dict[str, Any] = json.loads(document)  # as it is read, pairs as lists
    return said


def mark_success(sink: Sink, totals: Totals, tag: str | None = None) -> None:
    """Clears up and writes `_SUCCESS`, the last object of a run.

    Whoever adds to the plan or replaces an object withdraws it, and may have done so just before it
    is written: so all is looked at once more after it.

    Args:
        sink: The run and its plan, and where they are.
        totals: What was added up (`read_totals`).
        tag: Of this command, if it has tried rejected samples again.

    Raises:
        IncompleteError: If a shard of the plan is not committed, or something else than what was
            added up is there by now.
        AccountingError: If it is compacted, and does not hold what its source does.
    """
    left = len(sink.plan) - totals.shards
    if left:
        raise IncompleteError(f"{left:,} shards are not committed yet: run the same command again")
    check_plan(sink)
    _check_source(sink, totals)
    for area in AREAS:
        _settle_area(sink.uri, area, totals)
    _sweep_staging(sink.uri, totals, tag)
    _sweep_images(sink.uri, totals)
    storage.sweep(sink.uri)
    document = json.dumps(describe_success(sink.plan, totals), indent=2).encode() + b"\n"
    _write_success(sink, totals, document)
    try:
        _check_still(sink, totals)
    except VqpipeError:
        _withdraw(sink.uri, document)
        raise
    subtotals.sweep_parts(sink.uri, totals.parts)


def _check_source(sink: Sink, totals: Totals) -> None:
    """Checks that a compacted sink has what its source has.

    Raises:
        AccountingError: If not: `_SUCCESS` is not written.
    """
    loss = find_loss(sink.run, totals) if isinstance(sink.run, CompactRun) else None
    if loss:
        raise AccountingError(
            f"{sink.uri} is not what it was made of: {loss}. It is not marked as complete: see "
            "vqpipe verify, and compact into another sink"
        )


def _write_success(sink: Sink, totals: Totals, document: bytes) -> None:
    """Writes `_SUCCESS` in place of what was there when all else was still as it was added up."""
    uri = layout.success_uri(sink.uri)
    try:
        found = storage.stat(uri)
    except FileNotFoundError:
        found = None
    _check_still(sink, totals)
    is_written = storage.replace_if(found, document) if found else storage.publish(uri, document)
    if not is_written and _read(uri) != document:
        raise IncompleteError(
            "another command has come to its end meanwhile: run the same command again"
        )


def _withdraw(sink: str, document: bytes) -> None:
    """Removes `_SUCCESS` if it is the one that this command wrote."""
    if _read(layout.success_uri(sink)) == document:
        storage.delete(layout.success_uri(sink))


def _read(uri: str) -> bytes | None:
    try:
        return storage.read(uri)
    except FileNotFoundError:
        return None


def describe_success(plan: Plan, totals: Totals) -> dict[str, Any]:
    """Returns what `_SUCCESS` says."""
    return {**totals.to_dict(), "plan_sha256": plan.sha256()}


def _settle_area(sink: str, area: str, totals: Totals) -> None:
    """Makes `rejected/` or `left_out/` say what `data/` says.

    Rejections need not be repeatable: a time limit, or NaN on one kind of GPU only. An attempt that
    ended between the two objects of a shard may have left rejections that a later one did not make.
    """
    listed, said = layout.list_data(sink, area), totals.counted.asides(area)
    names = listed["name"].filter(pc.invert(pc.is_in(listed["name"], _array(said["name"]))))
    for name in names.to_pylist():
        storage.delete(layout.aside_uri(sink, area, name))
    unsure = said.filter(pc.invert(_are_seen(listed, said, area)))
    there = listed.filter(pc.is_in(listed["name"], _array(unsure["name"])))
    found = map_ahead(_digest, layout.files_of(sink, there, area), _READERS)
    digests = dict(zip(there["name"].to_pylist(), found, strict=True))
    for name, expected in zip(
        *(unsure[each].to_pylist() for each in ("name", "asides")), strict=True
    ):
        if digests.get(name) != expected:
            settle_asides(sink, name)


def _are_seen(listed: pa.Table, said: pa.Table, area: str) -> pa.ChunkedArray:
    """Returns of which shards the object in an area was seen, and is listed as it was then."""
    now = listed.take(pc.index_in(said["name"], _array(listed["name"])))
    is_same = [pc.equal(now[name], said[f"{area}_{name}"]) for name in ("size", "version")]
    return pc.fill_null(pc.and_(*is_same), fill_value=False)


def _array(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks()


def _digest(file: File) -> str | None:
    try:
        return read_footer(file).origin.get("rejections")
    except (FileNotFoundError, DamagedError):  # another command has just made its last one good
        return None


def _sweep_staging(sink: str, totals: Totals, tag: str | None) -> None:
    """Removes row ranges that nobody has a use for any more, the shards being committed.

    Such as late writers left behind. What an object is to be made of that comes after the one that
    is there is left alone: its command may be at work.
    """
    base = storage.join_uri(sink, "staging")
    left = [(f.uri, f.uri[len(base) + 1 :].rpartition("/")[0]) for f in storage.list_files(base)]
    orders = totals.counted.orders({shard for _, shard in left})
    for uri, shard in left:
        if shard in orders and layout.is_used_up(uri, orders[shard], tag):
            storage.delete(uri)


def _sweep_images(sink: str, totals: Totals) -> None:
    """Removes tars and folders of images that no object speaks of, all shards being committed."""
    table = totals.counted.table.select(["name", "generation", "place"])
    places = set(table["place"].drop_null().to_pylist())
    if not places:
        return
    tars = next(iter(places)).endswith(".tar")
    pairs = zip(table["name"].to_pylist(), table["generation"].to_pylist(), strict=True)
    generations = {name if tars else safe_folder(name): number for name, number in pairs}
    beside.sweep(sink, places, generations, tars=tars)
