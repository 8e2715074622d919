"""Reads a whole sink back and checks what a run promises of it.

Nothing that an object says of itself is believed: rows are counted, codes are counted, page
checksums are checked, and the result is held against footer, plan and totals. A breach is a line
of data, not an exception, so that one damaged object hides no other.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vqpipe import schema, storage
from vqpipe.code_layout import CodeLayout
from vqpipe.errors import DamagedError, StorageError, VqpipeError
from vqpipe.inspection import gallery, vectors
from vqpipe.inspection.provenance import Provenance
from vqpipe.schema import GRID, IMAGE, File, flat_of
from vqpipe.sink import layout
from vqpipe.sink.asides import AREAS, count_left_out, left_out_of, rejected_of
from vqpipe.sink.beside import LAYOUTS, PLACE, list_places, shard_of
from vqpipe.sink.filenames import safe_folder
from vqpipe.sink.footer import read_footer
from vqpipe.sink.losses import find_damage, least_images
from vqpipe.sink.objects import Object, count_codes, read_asides, read_object
from vqpipe.sink.plan import Plan
from vqpipe.sink.run import CodesRun, CompactRun, DecodeRun, EvaluateRun, Run, Sink
from vqpipe.sink.samples import first_views
from vqpipe.sink.slot import Slot
from vqpipe.sink.success import describe_success
from vqpipe.sink.totals import find_loss, read_totals
from vqpipe.storage.ahead import map_ahead

_READERS, _IMAGE_READERS = 8, 2
"""Objects that are looked at at once; a shard of images takes memory for all of them."""


@dataclass(frozen=True)
class Breach:
    """One thing in a sink that is not as it must be."""

    check: str
    """Name of the check, a key of `CHECKS`."""
    where: str
    """URI of the object, or name of the shard."""
    message: str


CHECKS = {
    "plan": "plan.parquet is the one that run.json names",
    "complete": "every planned shard has its object in data/",
    "foreign": "data/, rejected/, left_out/ and staging/ hold nothing else",
    "readable": "every object can be read to its end, checksums included",
    "schema": "columns and types are those of the run",
    "source": "the footer names the run, and the version of the source that was planned",
    "rows": "every row of a shard is there once, encoded, rejected or left out",
    "keys": "no key is there twice in a shard, but for images and views of one sample",
    "codes": "codes are there, and below the codebook size",
    "latents": "latents and quantized are there, and finite",
    "images": "images are there, each as it is listed, and no others in their tars or folders",
    "counts": "the footer counts samples and codes as they are",
    "rejected": "rejected/ says what data/ says",
    "left_out": "left_out/ says what data/ says",
    "totals": "_SUCCESS says what the objects add up to",
    "same": "samples, rows and codes are those that the source had, each code as often",
}
"""What is checked, by name."""

_ONLY_OF = {"codes": CodesRun, "latents": CodesRun, "images": DecodeRun, "same": CompactRun}
"""Checks of what some stages make."""


def checks_of(run: Run) -> dict[str, str]:
    """Returns what is checked of a run's sink, by name."""
    lacks = set()
    if isinstance(run, CodesRun):
        has = {"codes": not run.identity.drop_codes, "latents": bool(run.facts.vectors)}
        lacks = {name for name, is_there in has.items() if not is_there}
    return {
        name: said
        for name, said in CHECKS.items()
        if isinstance(run, _ONLY_OF.get(name, Run)) and name not in lacks
    }


@dataclass(frozen=True)
class _Shard:
    """One data object, read to its end."""

    slot: Slot
    object: Object
    provenance: Provenance | None
    """Of a compacted sink: which rows it is to have."""

    @property
    def table(self) -> pa.Table:
        return self.object.table

    @property
    def run(self) -> Run:
        return self.slot.sink.run

    @property
    def said(self) -> dict[str, Any]:
        """What its footer says."""
        return self.object.footer.origin


@dataclass(frozen=True)
class _Checked:
    """A sink while it is checked."""

    sink: Sink
    is_complete: bool
    places: dict[str, str | None] = field(default_factory=dict)
    """Where the images of each shard lie, as its object says; None where that cannot be read."""
    provenance: Provenance | None = None
    """Of a compacted sink: which rows its files are to have."""


def verify(sink: Sink, *, is_complete: bool) -> Iterator[Breach]:
    """Yields every breach found in a sink.

    Args:
        sink: What to verify, with its plan as stored.
        is_complete: Whether `_SUCCESS` is there; without it, work that is under way is no breach.

    Raises:
        StorageError: If the store does not answer.
    """
    uri, plan = sink.uri, sink.plan
    if plan.first().sha256() != sink.run.plan_sha256:
        yield Breach("plan", layout.plan_uri(uri), "it is another plan, or a damaged one")
    provenance = None
    if isinstance(sink.run, CompactRun):
        try:
            provenance = Provenance.load(uri, sink.run)
        except (VqpipeError, FileNotFoundError) as error:
            yield Breach("plan", layout.snapshot_uri(uri, sink.run.identity.snapshot), str(error))
    data, asides = _list(uri, "data"), {area: _list(uri, area) for area in AREAS}
    yield from _check_listing(uri, plan, data, asides, is_complete=is_complete)
    there = ((index, data[name]) for index, name in enumerate(plan.names) if name in data)
    checked = _Checked(sink, is_complete, provenance=provenance)
    readers = _READERS if isinstance(sink.run, CodesRun) else _IMAGE_READERS
    for breaches in map_ahead(lambda each: list(_check_object(checked, *each)), there, readers):
        yield from breaches
    yield from _check_places(checked)
    if is_complete:
        for area, found in asides.items():
            yield from _check_area(sink, area, data, found)
        yield from _check_totals(sink)


def _list(sink: str, area: str) -> dict[str, File]:
    """Returns the objects of a folder by shard; by URI where no shard is named so."""
    base = storage.join_uri(sink, area)
    files = storage.list_files(base)
    return {layout.stem(base, f.uri) if f.uri.endswith(".parquet") else f.uri: f for f in files}


def _check_listing(
    sink: str,
    plan: Plan,
    data: dict[str, File],
    asides: dict[str, dict[str, File]],
    *,
    is_complete: bool,
) -> Iterator[Breach]:
    names = set(plan.names)
    for found in (data, *asides.values()):
        for name in sorted(found.keys() - names):
            yield Breach("foreign", found[name].uri, "no planned shard has this object")
    if is_complete:
        for name in sorted(names - data.keys()):
            yield Breach("complete", layout.data_uri(sink, name), "it is missing")
        yield from _check_staging(sink, data)


def _check_staging(sink: str, data: dict[str, File]) -> Iterator[Breach]:
    """Yields what nobody needs; another command may be about to revise or replace a shard."""
    for name, uris in layout.list_staged(sink).items():
        for uri in uris:
            if not layout.is_range(uri) or _is_used_up(uri, data.get(name)):
                yield Breach("foreign", uri, "left behind in staging/; it may be removed")


def _is_used_up(uri: str, committed: File | None) -> bool:
    if committed is None:
        return True
    try:
        return layout.is_used_up(uri, read_footer(committed).order)
    except (FileNotFoundError, StorageError):  # the object is a breach of its own
        return False


def _check_places(checked: _Checked) -> Iterator[Breach]:
    """Yields tars and folders of images that no object in `data/` speaks of."""
    sink, run = checked.sink, checked.sink.run
    if not isinstance(run, DecodeRun) or run.identity.layout not in LAYOUTS:
        return
    tars, planned = run.identity.layout == "webdataset", sink.plan.names
    shards = dict(zip(planned if tars else map(safe_folder, planned), planned, strict=True))
    lying, used = list_places(sink.uri, tars=tars), set(checked.places.values())
    for place in sorted(lying - used):
        whose = shard_of(place)
        shard = shards.get(whose[0]) if whose else None
        uri = storage.join_uri(sink.uri, place)
        if shard is None:
            yield Breach("foreign", uri, "no planned shard has these images")
        elif checked.is_complete and checked.places.get(shard, "") is not None:
            yield Breach("foreign", uri, "left behind: data/ speaks of others; it may be removed")


def _check_object(checked: _Checked, index: int, file: File) -> Iterator[Breach]:
    slot = Slot(checked.sink, index)
    checked.places[slot.name] = None
    try:
        found = read_object(file.uri)
    except (FileNotFoundError, DamagedError) as error:
        yield Breach("readable", file.uri, str(error))
        return
    origin = found.footer.origin
    checked.places[slot.name] = origin.get(PLACE, "")
    if not checked.is_complete and origin["generation"] < slot.generation:
        return  # it waits to be replaced
    shard = _Shard(slot, found, checked.provenance)
    problem = _wrong_schema(shard)
    if problem:
        yield Breach("schema", file.uri, problem)
        return
    for check in filter(checks_of(shard.run).__contains__, _SHARD_CHECKS):
        problem = _SHARD_CHECKS[check](shard)
        if problem:
            yield Breach(check, file.uri, problem)


def _wrong_schema(shard: _Shard) -> str | None:
    own = _own_schema(shard.run, shard.table.schema)
    found = shard.table.schema
    kept = _kept_of(shard.run)
    names = [*own.names, *kept]
    if isinstance(shard.run, CompactRun):
        own = own.append(pa.field(shard.run.facts.shard_column, pa.string()))
        names.append(shard.run.facts.shard_column)
    if found.names != names:
        return f"columns are {', '.join(found.names)}; they must be {', '.join(names)}"
    wrong = [field.name for field in own if not _is_field(found.field(field.name), field)]
    wrong += [name for name, kind in kept.items() if not _is_type(found.field(name).type, kind)]
    return f"the type of {', '.join(wrong)}, or what it says of it, is wrong" if wrong else None


def _is_field(found: pa.Field, wanted: pa.Field) -> bool:
    """Tells whether a column has a type, and says of itself what it has to say, if anything."""
    said = found.metadata or {}
    return found.type == wanted.type and (wanted.metadata or {}).items() <= said.items()


def _kept_of(run: Run) -> Mapping[str, str]:
    """Returns the kept columns of a run's `data/`: names of types by name."""
    return run.facts.kept if isinstance(run, CodesRun | DecodeRun) else {}


def _is_type(found: pa.DataType, name: str) -> bool:
    """Tells whether a type has that name; Parquet calls what is in a list `element`."""
    return str(found).replace("<element:", "<item:") == name.replace("<element:", "<item:")


def _own_schema(run: Run, found: pa.Schema) -> pa.Schema:
    """Returns the columns that `data/` has without kept ones."""
    none = pa.schema([])
    if isinstance(run, CodesRun):
        codes = None if run.identity.drop_codes else schema.codes_field(run.facts.codes)
        return schema.data_schema(none, codes, list(map(schema.vectors_field, run.facts.vectors)))
    if isinstance(run, DecodeRun):
        return schema.images_schema(none, has_files=run.identity.layout != "parquet")
    has = {name: name in found.names for name in ("lpips", "features_original", "view")}
    scores = schema.score_fields(
        has_lpips=has["lpips"], has_features=has["features_original"], has_views=has["view"]
    )
    return schema.scores_schema(scores)


def _wrong_source(shard: _Shard) -> str | None:
    said, expected = shard.said, shard.slot.origin
    wrong = [name for name in expected if said.get(name) != expected[name] and name != "revision"]
    return f"its {' and '.join(wrong)} is not that of the run" if wrong else None


def _wrong_rows(shard: _Shard) -> str | None:
    views, seen = _views_of(shard.run), shard.said["seen"]
    if isinstance(shard.run, CompactRun):
        if shard.provenance is None:
            return None  # the snapshot that says it is a breach of its own
        column = shard.run.facts.shard_column
        return shard.provenance.find_fault(shard.slot.index, shard.table, column)
    good, aside = (
        part["row"].to_numpy(zero_copy_only=False) for part in (shard.table, shard.object.asides)
    )
    rows = np.sort(np.concatenate([good, np.repeat(aside, views)]))
    if not np.array_equal(rows, np.repeat(np.arange(seen), views)):
        missing = np.setdiff1d(np.arange(seen), rows)
        return f"of {seen} rows, {len(missing)} are missing, or some are twice"
    if views > 1 and not np.array_equal(
        shard.table["view"].to_numpy(), np.arange(len(good)) % views
    ):
        return f"the {views} views of a sample do not follow one another"
    return None


def _views_of(run: Run) -> int:
    """Returns how many rows a good sample has."""
    return run.facts.views if isinstance(run, CodesRun) else 1


def _wrong_keys(shard: _Shard) -> str | None:
    rows = shard.table.select(["key", *_parts_of_keys(shard.run)])
    counts = rows.group_by(rows.column_names, use_threads=False).aggregate([([], "count_all")])
    twice = counts.filter(pc.greater(counts["count_all"], 1))["key"].to_pylist()
    return f"{len(twice)} keys are there more than once, first {twice[0]!r}" if twice else None


def _parts_of_keys(run: Run) -> list[str]:
    """Returns the columns that tell apart the rows of a sample."""
    if isinstance(run, CodesRun):
        shard = [run.facts.shard_column] if isinstance(run, CompactRun) else []
        return ["view", *([IMAGE] if run.identity.has_several_images else []), *shard]
    return [schema.PLACE.name] if isinstance(run, EvaluateRun) else []


def _wrong_codes(shard: _Shard) -> str | None:
    assert isinstance(shard.run, CodesRun), "no other sink's codes are checked"
    codes, size = flat_of(shard.table["codes"]), shard.run.facts.codebook_size
    if shard.table["codes"].null_count:
        return f"{shard.table['codes'].null_count} images have none"
    if len(codes) and codes.max() >= size:
        return f"code {codes.max()} is not below {size}"
    return _wrong_grids(shard.table, shard.run.facts.codes)


def _wrong_grids(table: pa.Table, codes: CodeLayout) -> str | None:
    """Returns which codes are not as many as their grid has places, if images differ in theirs."""
    if not codes.differs:
        return None
    grids = zip(*(table[each.name].to_pylist() for each in GRID), strict=True)
    lengths = pc.list_value_length(table["codes"]).to_pylist()
    for row, (grid, length) in enumerate(zip(grids, lengths, strict=True)):
        shape = codes.shape_of(*grid)
        if shape is None or math.prod(shape) != length:
            key = table["key"][row].as_py()
            return f"{length} codes of {key!r} are not those of a grid of {grid[0]} x {grid[1]}"
    return None


def _wrong_latents(shard: _Shard) -> str | None:
    assert isinstance(shard.run, CodesRun), "no other sink's latents are checked"
    return vectors.find_fault(shard.table, shard.run.facts.vectors)


def _wrong_images(shard: _Shard) -> str | None:
    return gallery.find_fault(shard.slot.sink.uri, shard.table, shard.said)


def _wrong_counts(shard: _Shard) -> str | None:
    said, rejections, run = shard.said, rejected_of(shard.object.asides), shard.run
    good = first_views(shard.table, _views_of(run))
    left_out = count_left_out(left_out_of(shard.object.asides))
    counted = {
        "good": len(good),
        "rejected": len(rejections),
        "seen": len(good) + len(shard.object.asides),
        "reasons": dict(Counter(rejections["reason"].to_pylist())),
        "rejected_images": least_images(rejections),
        "damage": find_damage(rejections),
        "kept_nulls": {name: good[name].null_count for name in _kept_of(run)},
        **{name: left_out.get(name) for name in ("left_out", "left_out_by")},
    }
    wrong = [name for name, value in counted.items() if said.get(name) != value]
    if wrong:
        return f"the footer is wrong about {', '.join(wrong)}"
    if not isinstance(run, CodesRun):
        return None
    return _wrong_histogram(run, shard.table, shard.object.footer.histogram)


def _wrong_histogram(run: CodesRun, table: pa.Table, said: npt.NDArray[np.int64]) -> str | None:
    """Returns what is wrong with the counts of codes; of those left out the sum alone is known."""
    if run.identity.drop_codes and isinstance(run, CompactRun):
        return "the footer counts codes, which were left out" if len(said) else None
    if run.identity.drop_codes:
        codes = _count_places(table, run.facts.codes)
        is_right = len(said) == run.facts.codebook_size and said.sum() == codes
        return None if is_right else f"the footer's histogram does not count {codes} codes"
    histogram = count_codes(table, run.facts.codebook_size)
    is_equal = np.array_equal(histogram, said)
    return None if is_equal else "the footer's histogram is not that of the codes"


def _count_places(table: pa.Table, codes: CodeLayout) -> int:
    """Returns how many codes the images of a table have, by their grids where these differ."""
    if not codes.differs:
        return len(table) * codes.length
    grids = zip(*(table[each.name].to_pylist() for each in GRID), strict=True)
    shapes = (codes.shape_of(*grid) for grid in grids)
    return sum(math.prod(shape) for shape in shapes if shape is not None)


_SHARD_CHECKS: dict[str, Callable[[_Shard], str | None]] = {
    "source": _wrong_source,
    "rows": _wrong_rows,
    "keys": _wrong_keys,
    "codes": _wrong_codes,
    "latents": _wrong_latents,
    "images": _wrong_images,
    "counts": _wrong_counts,
}


def _check_area(
    sink: Sink, area: str, data: dict[str, File], there: dict[str, File]
) -> Iterator[Breach]:
    """Yields where `rejected/` or `left_out/` says something else than `data/`."""

    def check(name: str) -> Breach | None:
        uri = layout.aside_uri(sink.uri, area, name)
        try:
            expected = AREAS[area](read_asides(data[name])[1])
            found = expected.schema.empty_table()
            if name in there:
                found = read_object(there[name].uri).table.cast(expected.schema)
        except (FileNotFoundError, StorageError, ValueError, pa.ArrowException) as error:
            return Breach("readable", uri, str(error))
        if found.equals(expected):
            return None
        message = f"it has {len(found)} samples where data/ has {len(expected)}, or others"
        return Breach(area, uri, message)

    names = (name for name in sink.plan.names if name in data)
    yield from filter(None, map_ahead(check, names, _READERS))


def _check_totals(sink: Sink) -> Iterator[Breach]:
    uri = layout.success_uri(sink.uri)
    try:
        objects = layout.list_committed(
            sink.uri
        ).values()  # their footers, whatever is kept of them
        found = read_totals(sink, objects)
        expected = describe_success(sink.plan, found)
        said = dict(json.loads(storage.read(uri)))
    except (VqpipeError, TypeError, ValueError) as error:
        yield Breach("totals", uri, f"it cannot be held against the objects: {error}")
        return
    wrong = [name for name, value in expected.items() if said.get(name) != value]
    if wrong:
        yield Breach("totals", uri, f"it is wrong about {', '.join(wrong)}")
    loss = find_loss(sink.run, found) if isinstance(sink.run, CompactRun) else None
    if loss:
        yield Breach("same", sink.uri, loss)
