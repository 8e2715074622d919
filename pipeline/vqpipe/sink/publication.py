"""A whole shard becomes objects of a sink: what lies beside, `rejected/`, and then `data/`.

The object in `data/` is the commit, and the last one written. Where rejected samples are tried
again (`Attempt`), a shard's object is revised: its good rows count as rows that are safe already,
and the new object takes the old one's place in one step. The same happens to the object of a shard
that was planned anew after its files changed, without the rows; of decoded images, its tar or its
files have given way just before.

Which object takes the place of which is not a matter of who comes last. Each says in its footer in
which generation of the plan its shard was planned and how often it has been revised since, and only
a higher one takes the place of a lower, if that is still the one that was looked at. A writer that
is to replace an object reads the plan again first: it may have grown since its command began.
"""

import functools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import cast

import pyarrow as pa

from vqpipe import storage
from vqpipe.errors import DamagedError, IncompleteError
from vqpipe.schema import File
from vqpipe.sink import layout
from vqpipe.sink.assembly import Base, assemble
from vqpipe.sink.beside import PLACE, Beside, remove
from vqpipe.sink.footer import read_footer
from vqpipe.sink.layout import Order
from vqpipe.sink.objects import pack_rejected, read_rejections
from vqpipe.sink.plan import Plan, load_plan
from vqpipe.sink.writer import Writer, order_of
from vqpipe.storage.content import Content

_ATTEMPTS = 10


def publish_shard(
    writer: Writer, index: int, rows: Iterable[pa.Table], total: int, base: Base | None
) -> None:
    """Publishes `rejected/` and then `data/`, after checking that every row is there once.

    Args:
        writer: The run.
        index: The shard's place in the plan.
        rows: All rows that `base` lacks, in order, each once, some at a time (`Product.rows`).
        total: How many rows the shard has.
        base: What is there already, if the shard's object is revised.
    """
    with assemble(writer, index, rows, total, base) as made:
        if made is None or (writer.replaces(index) and not _may_replace(writer, index, base)):
            return
        with _beside(writer, index, made.beside):
            if len(made.rejected) and not writer.replaces(index) and is_there(writer, index):
                return  # another writer was first, and what it rejected may be another's
            document = pack_rejected(made.rejected, made.origin) if len(made.rejected) else None
            _publish_both(writer, index, made.data, document)


def _publish_both(writer: Writer, index: int, data: Content, rejected: bytes | None) -> None:
    """Publishes `rejected/`, if there is to be one, and then `data/`.

    Where an object takes the place of another it is the other way round: what lies in `rejected/`
    changes only for whoever has come to be in `data/`, and no row is in neither of them meanwhile.
    """
    name, replaces = writer.plan.name(index), writer.replaces(index)
    if rejected is not None and not replaces:
        storage.publish(layout.rejected_uri(writer.sink, name), rejected)
    is_first = _publish(writer, index, layout.data_uri(writer.sink, name), data)
    if replaces or (rejected is not None and not is_first):
        settle_rejected(writer.sink, name)


@contextmanager
def _beside(writer: Writer, index: int, ours: Beside | None) -> Iterator[None]:
    """Publishes what lies beside a shard's object before that, and tidies up after."""
    if ours is None:
        yield
        return
    before = _place_said(writer, index)
    place = ours.place(writer.plan.generation(index))
    if before is None or writer.replaces(index):
        ours.publish(writer.sink, writer.plan.generation(index))
    yield
    now = _place_said(writer, index)
    for left in (before, place):  # of an earlier version, or ours, where that came second
        if left is not None and now not in {left, None}:
            remove(writer.sink, left)


def _place_said(writer: Writer, index: int) -> str | None:
    """Returns where the images lie that a shard's object speaks of; None if there is no object."""
    try:
        file = storage.stat(layout.data_uri(writer.sink, writer.plan.name(index)))
    except FileNotFoundError:
        return None
    return cast(str, read_footer(file).origin[PLACE])


def _publish(writer: Writer, index: int, uri: str, data: Content) -> bool:
    """Publishes an object of a shard; returns False if one was there that has to stay.

    Where it is to take the place of another, `_SUCCESS` may speak of that, and is withdrawn, and
    once more if a command has come to its end between the two.
    """
    if not writer.replaces(index):
        return storage.publish(uri, data)
    for _ in range(_ATTEMPTS):
        found = _look(uri)
        if found and found[1] >= writer.order(index):
            return False
        storage.delete(layout.success_uri(writer.sink))
        if storage.replace_if(found[0], data) if found else storage.publish(uri, data):
            storage.delete(layout.success_uri(writer.sink))
            return True
    raise IncompleteError(f"other commands keep replacing {uri}: run the same command again")


def _look(uri: str) -> tuple[File, Order] | None:
    """Returns which object is there, and its place among those of its shard."""
    try:
        file = storage.stat(uri)
        return file, order_of(read_footer(file).origin)
    except FileNotFoundError:
        return None


def settle_rejected(sink: str, name: str) -> None:
    """Makes an object in `rejected/`, or that there is none, say what the one in `data/` says."""
    uri = layout.rejected_uri(sink, name)
    footer, rejected = read_rejections(storage.stat(layout.data_uri(sink, name)))
    try:
        found = read_footer(storage.stat(uri)).origin.get("rejections")
    except (FileNotFoundError, DamagedError):
        found = None
    if not len(rejected):
        storage.delete(uri)
    elif found != footer.origin["rejections"]:
        storage.replace(uri, pack_rejected(rejected, footer.origin))


def is_there(writer: Writer, index: int) -> bool:
    """Tells whether a shard has an object in `data/`."""
    try:
        storage.stat(layout.data_uri(writer.sink, writer.plan.name(index)))
    except FileNotFoundError:
        return False
    return True


def _may_replace(writer: Writer, index: int, base: Base | None) -> bool:
    """Tells whether what is there now, looked at once more, is what is to be replaced.

    Between reading a shard and publishing it lie hours, in which another command may have published
    something newer.

    Raises:
        IncompleteError: If the shard has been planned anew since this command began.
    """
    _check_planned(writer, index)
    found = _look(layout.data_uri(writer.sink, writer.plan.name(index)))
    return base is None if found is None else found[1] < writer.order(index)


def _check_planned(writer: Writer, index: int) -> None:
    """Checks that a shard is still planned as it was when this command began."""
    name, plan = writer.plan.name(index), _read_plan(writer.sink)
    if plan.generation(plan.names.index(name)) != writer.plan.generation(index):
        raise IncompleteError(
            f"another command has planned shard {name} anew, since its files had changed: run the "
            "same command again"
        )


def _read_plan(sink: str) -> Plan:
    """Returns a sink's plan as it is now, by one small request as long as it stays the same."""
    try:
        return _load_plan(sink, storage.stat(layout.plan_uri(sink)))
    except FileNotFoundError:
        return load_plan(sink)


@functools.lru_cache(maxsize=1)
def _load_plan(sink: str, _: File) -> Plan:
    return load_plan(sink)
