"""Opening, coding and writing a few images as a run does it, with a watch beside it.

What is measured runs the functions of a run: the sandbox that opens images, the step that has its
codecs prepared, the assembly of an object. Nothing is written anywhere.
"""

import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vqpipe import schema
from vqpipe.images import Preprocess
from vqpipe.images.sandbox import Sandbox
from vqpipe.rejections import LEFT_OUT
from vqpipe.sink.assembly import assemble
from vqpipe.sink.samples import settle
from vqpipe.sink.writer import Writer
from vqpipe.stages.encode import CodesProduct, Encoding
from vqpipe.stages.measured import Coding, Opening, Writing
from vqpipe.stages.open import images_of, put_views
from vqpipe.stages.step import Ready

if TYPE_CHECKING:
    from vqpipe.codec.placed import Placed

OPENED_TOGETHER = 16
"""Rows that a child is given at a time; to hand over a table takes it 0.2 ms."""
_OPENING_S = 3.0
"""Least seconds of opening on all cores, the same images again and again."""
_CODING_S = {"cpu": 6.0, "cuda": 6.0}
_CODED_TOGETHER = {"cpu": 4, "cuda": 256}
_LEAST_CODED = 16
_PIXEL_BYTES = 2**29
"""Most bytes of opened images that are held for the codec."""
_AUDITED = 4


def measure_opening(rows: pa.Table, how: Preprocess, cores: int) -> tuple[pa.Table, Opening]:
    """Returns rows with their images opened, as many as there is memory for, and what it took.

    As many children open images as there are cores, so that what cores take from each other counts:
    two threads of one, memory, and whatever else this machine has to do.

    Args:
        rows: As they were read.
        how: How images become views.
        cores: Children.
    """
    blocks = list(_slices(rows, OPENED_TOGETHER))
    cores = max(1, min(cores, len(blocks)))
    crew = _Crew(blocks, how)
    threads = [threading.Thread(target=crew.work, args=(i, cores)) for i in range(cores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if crew.errors:
        raise crew.errors[0]
    counts = np.sum([crew.seen[i] for i in range(len(blocks))], axis=0)
    rate = sum(images / seconds for images, seconds in crew.pace)
    good, left_out = int(counts[0]), int(counts[1])
    opened = sum(images for images, _ in crew.pace)
    found = Opening(len(rows), good, left_out, opened, cores / rate, cores)
    return pa.concat_tables([crew.held[i] for i in sorted(crew.held)]), found


class _Crew:
    """Children that open the same blocks until each was opened and some time has passed."""

    def __init__(self, blocks: Sequence[pa.Table], how: Preprocess) -> None:
        self._blocks, self._how = blocks, how
        self._most = max(1, _PIXEL_BYTES // (how.views * how.view_bytes * OPENED_TOGETHER))
        self.held: dict[int, pa.Table] = {}
        """Opened blocks, the first ones."""
        self.seen: dict[int, tuple[int, int]] = {}
        """Of each block, how many samples opened and how many are left out."""
        self.pace: list[tuple[int, float]] = []
        """Of each child, images and seconds."""
        self.errors: list[Exception] = []

    def work(self, first: int, step: int) -> None:
        """Opens every so manieth block, beginning with one, then all of them again."""
        sandbox = Sandbox(self._how)
        try:
            sandbox.open(images_of(self._blocks[first].slice(0, 1), self._how))  # it starts
            self._measure(sandbox, first, step)
        except Exception as error:  # noqa: BLE001 (of a thread, raised by who waits for it)
            self.errors.append(error)
        finally:
            sandbox.close()

    def _measure(self, sandbox: Sandbox, first: int, step: int) -> None:
        mine = list(range(first, len(self._blocks), step))
        images, started = 0, time.perf_counter()
        for place in itertools.chain(mine, itertools.cycle(mine)):
            seconds = time.perf_counter() - started
            if seconds >= _OPENING_S and mine[-1] in self.seen:
                break
            block = self._blocks[place]
            opened = put_views(block, sandbox.open(images_of(block, self._how)))
            images += len(block)
            self._note(place, opened)
        self.pace.append((images, time.perf_counter() - started))

    def _note(self, place: int, opened: pa.Table) -> None:
        if place in self.seen:
            return
        settled = settle(opened.drop_columns(["pixels"]), self._how.views)
        reasons = settled["reason"]
        left_out = pc.sum(pc.equal(reasons, LEFT_OUT)).as_py() or 0
        self.seen[place] = (reasons.null_count // self._how.views, left_out)
        if place < self._most:
            self.held[place] = opened


def _slices(rows: pa.Table, size: int) -> Iterator[pa.Table]:
    return (rows.slice(start, size) for start in range(0, len(rows), size))


def measure_coding(opened: pa.Table, step: Encoding, placed: "Placed") -> tuple[pa.Table, Coding]:
    """Returns rows with their codes, as many as there was time for, and what it took.

    Args:
        opened: Rows with their images opened.
        step: What the codec does.
        placed: The device, and what makes codecs on it.

    Raises:
        ConfigError: If the codec cannot be made, or does not take such images.
    """
    kind, batch_size = placed.kind, placed.batch_size
    rows = opened.filter(pc.is_null(opened["reason"]))
    started = time.perf_counter()
    ready = step.prepare(placed.make)
    ready.warm_up()
    together = max(batch_size, _CODED_TOGETHER[kind])
    later = _with_rows(rows, 1)  # no first image of a shard, which would be looked at twice
    blocks = list(_slices(later, together)) if len(rows) else []
    if blocks:
        ready.run(blocks[0].slice(0, batch_size), _ignore)
    warm_up_s = time.perf_counter() - started
    done, views, view_s = _code(ready, blocks, kind)
    coding = Coding(
        device=placed.name,
        kind=kind,
        devices=placed.count,
        views=views,
        view_s=view_s,
        audit_s=_audit_s(ready, later, view_s) if step.audit and blocks else 0.0,
        audit_share=step.audit,
        warm_up_s=warm_up_s,
        batch_size=batch_size,
    )
    return _with_rows(done, -1) if len(done) else done, coding


def _code(ready: Ready, blocks: Sequence[pa.Table], kind: str) -> tuple[pa.Table, int, float]:
    """Returns rows with codes, views that were encoded, and seconds for one of them."""
    done: list[pa.Table] = []
    views, seconds = 0, 0.0
    for place in itertools.count() if blocks else ():
        is_enough = seconds >= _CODING_S[kind] and views >= _LEAST_CODED
        if is_enough or (kind == "cpu" and place >= len(blocks) and views >= _LEAST_CODED):
            break
        block, started = blocks[place % len(blocks)], time.perf_counter()
        coded = ready.run(block, _ignore)
        seconds, views = seconds + time.perf_counter() - started, views + len(block)
        if place < len(blocks):
            done.append(coded)
    return pa.concat_tables(done) if done else pa.table({}), views, seconds / max(1, views)


def _audit_s(ready: Ready, rows: pa.Table, view_s: float) -> float:
    """Returns seconds more for an image that is looked at twice."""
    few = _with_rows(rows.slice(0, _AUDITED), None)
    ready.run(few.slice(0, 1), _ignore)  # which warms up what looks
    started = time.perf_counter()
    ready.run(few, _ignore)
    return max(0.0, (time.perf_counter() - started) / len(few) - view_s)


def _ignore(_: int) -> None:
    pass


def _with_rows(rows: pa.Table, more: int | None) -> pa.Table:
    """Returns rows with their numbers, and their views', moved; all 0 for None."""
    numbers = rows["row"].to_numpy()
    values = np.zeros_like(numbers) if more is None else numbers + more
    rows = _put(rows, "row", values)
    return _put(rows, "view", np.zeros(len(rows))) if more is None else rows


def _put(rows: pa.Table, name: str, values: Any) -> pa.Table:  # noqa: ANN401 (an array of numbers)
    field = rows.schema.field(name)
    return rows.set_column(rows.column_names.index(name), field, pa.array(values).cast(field.type))


def measure_writing(coded: pa.Table, writer: Writer) -> Writing | None:
    """Returns what rows become as objects; None where there are too few.

    The size of an object grows by its rows and, for codes that no row before had, by entries of its
    dictionary. A large object has all of them, and a small one is measured.

    Args:
        coded: Rows with their codes.
        writer: Whose objects they would become; nothing of it is written.
    """
    product = writer.product
    assert isinstance(product, CodesProduct), "rows of codes"
    rows = settle(coded.filter(pc.is_null(coded["reason"])), product.views)
    samples = len(rows) // product.views
    if samples < 2:
        return None
    half, whole, one = samples // 2, samples, 1
    made = {each: _assemble(rows, each, writer) for each in {one, half, whole}}
    words = {each: _dictionary_bytes(rows.slice(0, each * product.views), product) for each in made}
    per_row = (made[whole][0] - made[half][0] - words[whole] + words[half]) / (
        (whole - half) * product.views
    )
    per_row = max(1.0, per_row)
    fixed = made[whole][0] - per_row * len(rows)
    row_s = max(0.0, (made[whole][1] - made[one][1]) / ((whole - one) * product.views))
    return Writing(len(rows), per_row, max(0.0, fixed), row_s, made[one][1])


def _assemble(rows: pa.Table, samples: int, writer: Writer) -> tuple[int, float]:
    """Returns the bytes of an object of the first samples, and the seconds that it takes."""
    product = writer.product
    some = rows.slice(0, samples * product.views)
    numbers = np.arange(samples, dtype=np.int32).repeat(product.views)
    some = _put(some, "row", numbers)
    some = some.select(product.rows.names).cast(product.rows)
    index = writer.sink.plan.places[next(iter(writer.sink.plan.names))]
    started = time.perf_counter()
    with assemble(writer.slot(index), product, [some], samples, None) as found:
        seconds = time.perf_counter() - started
        assert found is not None, "nothing is revised"
        return len(found.data), seconds


def _dictionary_bytes(rows: pa.Table, product: CodesProduct) -> int:
    """Returns the bytes of the different codes of rows, each once."""
    if not product.has_codes:
        return 0
    codes = schema.flat_of(rows[product.codes.name])
    return len(np.unique(codes)) * codes.dtype.itemsize
