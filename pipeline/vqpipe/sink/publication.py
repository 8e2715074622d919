"""A whole shard becomes objects of a sink: what lies beside, samples without a row, then `data/`.

The object in `data/` is the commit, and the last one written. Where rejected samples are tried
again (`Attempt`), a shard's object is revised: all its other samples count as safe already, and the
new object takes the old one's place in one step. The same happens to the object of a shard that was
planned anew after its files changed, without the rows; of decoded images, its tar or its files have
given way just before.

Which object takes the place of which is not a matter of who comes last. Each says in its footer in
which generation of the plan its shard was planned and how often it has been revised since, and only
a higher one takes the place of a lower, if that is still the one that was looked at. A writer that
is to replace an object reads the plan again first: it may have grown since its command began.
"""

import functools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import pyarrow as pa
import pyarrow.compute as pc

from vqpipe import storage
from vqpipe.errors import DamagedError, IncompleteError
from vqpipe.schema import File
from vqpipe.sink import layout
from vqpipe.sink.asides import AREAS
from vqpipe.sink.assembly import Base, assemble
from vqpipe.sink.beside import PLACE, Beside, remove
from vqpipe.sink.footer import read_footer
from vqpipe.sink.layout import Order
from vqpipe.sink.objects import pack_aside, read_asides
from vqpipe.sink.plan import Plan
from vqpipe.sink.plan_file import load_plan
from vqpipe.sink.product import Product
from vqpipe.sink.slot import Slot
from vqpipe.storage.content import Content

_ATTEMPTS = 10


def publish_shard(
    slot: Slot, product: Product, rows: Iterable[pa.Table], total: int, base: Base | None
) -> None:
    """Publishes samples without a row, then `data/`, after checking that every row is there once.

    Args:
        slot: The shard's place.
        product: What its rows become.
        rows: All rows that `base` lacks, in order, each once, some at a time (`Product.rows`).
        total: How many rows the shard has.
        base: What is there already, if the shard's object is revised.
    """
    with assemble(slot, product, rows, total, base) as made:
        if made is None or (slot.replaces and not _may_replace(slot, base)):
            return
        with _beside(slot, made.beside):
            if len(made.asides) and not slot.replaces and is_there(slot):
                return  # another writer was first, and what it rejected may be another's
            found = {area: pick(made.asides) for area, pick in AREAS.items()}
            packed = {a: pack_aside(rows, made.origin) for a, rows in found.items() if len(rows)}
            _publish_all(slot, made.data, packed)


def _publish_all(slot: Slot, data: Content, asides: Mapping[str, bytes]) -> None:
    """Publishes samples without a row, where there are any, and then `data/`.

    Where an object takes the place of another it is the other way round: what lies in `rejected/`
    changes only for whoever has come to be in `data/`, and no row is in neither of them meanwhile.
    """
    for area in () if slot.replaces else asides:
        storage.publish(slot.aside_uri(area), asides[area])
    is_first = _publish(slot, data)
    if slot.replaces or (asides and not is_first):
        settle_asides(slot.sink.uri, slot.name)


@contextmanager
def _beside(slot: Slot, ours: Beside | None) -> Iterator[None]:
    """Publishes what lies beside a shard's object before that, and tidies up after."""
    if ours is None:
        yield
        return
    before = _place_said(slot)
    place = ours.place(slot.generation)
    if before is None or slot.replaces:
        ours.publish(slot.sink.uri, slot.generation)
    yield
    now = _place_said(slot)
    for left in (before, place):  # of an earlier version, or ours, where that came second
        if left is not None and now not in {left, None}:
            remove(slot.sink.uri, left)


def _place_said(slot: Slot) -> str | None:
    """Returns where the images lie that a shard's object speaks of; None if there is no object."""
    try:
        file = storage.stat(slot.data_uri)
    except FileNotFoundError:
        return None
    return cast(str, read_footer(file).origin[PLACE])


def _publish(slot: Slot, data: Content) -> bool:
    """Publishes a shard's object; returns False if one was there that has to stay.

    Where it is to take the place of another, `_SUCCESS` may speak of that, and is withdrawn, and
    once more if a command has come to its end between the two.
    """
    uri, success = slot.data_uri, layout.success_uri(slot.sink.uri)
    if not slot.replaces:
        return storage.publish(uri, data)
    for _ in range(_ATTEMPTS):
        found = _look(uri)
        if found and found[1] >= slot.order:
            return False
        storage.delete(success)
        if storage.replace_if(found[0], data) if found else storage.publish(uri, data):
            storage.delete(success)
            return True
    raise IncompleteError(f"other commands keep replacing {uri}: run the same command again")


def _look(uri: str) -> tuple[File, Order] | None:
    """Returns which object is there, and its place among those of its shard."""
    try:
        file = storage.stat(uri)
        return file, read_footer(file).order
    except FileNotFoundError:
        return None


def settle_asides(sink: str, name: str) -> None:
    """Makes what lies in `rejected/` and `left_out/`, or that none does, say what `data/` says."""
    footer, asides = read_asides(storage.stat(layout.data_uri(sink, name)))
    for area, pick in AREAS.items():
        uri, rows = layout.aside_uri(sink, area, name), pick(asides)
        if not len(rows):
            storage.delete(uri)
        elif _asides_said(uri) != footer.origin["rejections"]:
            storage.replace(uri, pack_aside(rows, footer.origin))


def _asides_said(uri: str) -> str | None:
    """Returns of which samples without a row an object is, as its footer says it."""
    try:
        return cast(str | None, read_footer(storage.stat(uri)).origin.get("rejections"))
    except (FileNotFoundError, DamagedError):
        return None


def is_there(slot: Slot) -> bool:
    """Tells whether a shard has an object in `data/`."""
    try:
        storage.stat(slot.data_uri)
    except FileNotFoundError:
        return False
    return True


def _may_replace(slot: Slot, base: Base | None) -> bool:
    """Tells whether what is there now, looked at once more, is what is to be replaced.

    Between reading a shard and publishing it lie hours, in which another command may have published
    something newer.

    Raises:
        IncompleteError: If the shard has been planned anew since this command began.
    """
    _check_planned(slot)
    found = _look(slot.data_uri)
    return base is None if found is None else found[1] < slot.order


def _check_planned(slot: Slot) -> None:
    """Checks that a shard is still planned as it was when this command began."""
    plan = _read_plan(slot.sink.uri)
    if plan.generation(pc.index(plan.table["name"], slot.name).as_py()) != slot.generation:
        raise IncompleteError(
            f"another command has planned shard {slot.name} anew, since its files had changed: run "
            "the same command again"
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
