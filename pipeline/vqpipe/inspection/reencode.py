"""Encodes samples of a finished sink again, from their source, and compares codes.

The one check that needs more than the sink. Whole shards are read, so that it also shows that the
sink accounts for every sample that the source has, under its own key, in its own place.
"""

import base64
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vqpipe import schema, storage
from vqpipe.codec.config import DType
from vqpipe.conditions.expression import parse
from vqpipe.images import Preprocess, square
from vqpipe.images.shapes import parse_word
from vqpipe.inspection import vectors
from vqpipe.inspection.verify import Breach
from vqpipe.picks import pick_names
from vqpipe.rejections import LEFT_OUT
from vqpipe.schema import Selection, lists_in
from vqpipe.sink.asides import left_out_of, rejected_of
from vqpipe.sink.footer import read_footer
from vqpipe.sink.objects import Object, read_object
from vqpipe.sink.plan import Plan
from vqpipe.sink.ranges import Staged
from vqpipe.sink.run import EncodeRun, EncodeSink, Sink
from vqpipe.sink.slot import Slot
from vqpipe.sink.todo import unfinished
from vqpipe.sources.parquet_footer import parse_schema
from vqpipe.stages.attempts import ATTEMPTS
from vqpipe.stages.conditions import Conditions
from vqpipe.stages.encode import Encode, encode_rows
from vqpipe.stages.open import Opener, open_rows
from vqpipe.stages.read import SampleReader
from vqpipe.vector_layout import COLUMNS

CHECKS = {
    "source_again": "the source holds just the samples that the sink accounts for",
    "codes_again": "samples encoded again from the source have what is stored of them",
}
"""What is checked, by name."""

BLOCK_ROWS = 64

_NAMED = ("row", "view", "key")
_TAKEN = ("width", "height", "crop", "flip")
"""Columns that say which part of the image a view is, equal whatever machine opens it."""

MOST_UNLIKE: dict[DType, float] = {
    "float32": 0.02,
    "tf32": 0.25,
    "bfloat16": 0.5,
    "float16": 0.5,
}
"""Share of an image's codes that may differ before its row is called wrong. Other hardware, and
other kernels on the same, round otherwise: in float32 that turns one code in many thousands, in
bfloat16 a twentieth on average and of single images more. Codes of another image are all unlike."""


@dataclass(frozen=True)
class Again:
    """What it takes to encode samples as the run did."""

    selection: Selection
    preprocess: Preprocess
    encode: Encode
    opener: Opener


@dataclass
class Reencoded:
    """What became of the views that were encoded again."""

    views: int = 0
    codes: int = 0
    unlike: int = 0
    """Codes that differ."""
    shards: int = 0
    breaches: list[Breach] = field(default_factory=list)

    def add(self, other: "Reencoded") -> None:
        """Adds what another shard showed."""
        self.views += other.views
        self.codes += other.codes
        self.unlike += other.unlike
        self.shards += other.shards
        self.breaches += other.breaches


def committed(sink: Sink) -> list[int]:
    """Returns the places of the shards that are there, as they are planned now."""
    left = unfinished(sink)
    return [index for index in range(len(sink.plan)) if index not in left]


def pick_shards(plan: Plan, done: list[int], share: float) -> list[int]:
    """Returns a share of the shards `done`, picked by a hash of their names; at least one.

    The pick is the same on any machine, and a larger share holds a smaller one.
    """
    places = {plan.name(index): index for index in done}
    return [places[name] for name in pick_names(places, max(1, round(share * len(done))))]


def preprocess_of(sink: EncodeSink, picked: list[int]) -> Preprocess:
    """Returns how images of some shards became views, under the largest limit that any had."""
    said = sink.run.identity
    shapes = tuple(map(parse_word, said.shapes)) or square(said.resolution)
    drawn = {"area": said.crop_area, "ratio": said.crop_ratio} if said.crop_area else {}
    return Preprocess.read(
        {
            "shapes": shapes,
            "resample": said.resample,
            "background": said.background,
            "max_pixels": _most_pixels(sink, picked),
            "draft": said.draft,
            "resize": said.resize,
            "kinds": said.views,
            "flip": said.flip,
            "seed": said.seed,
            "inside": said.inside,
            "where": parse(said.where).sizes,
            **drawn,
        }
    )


def _most_pixels(sink: EncodeSink, picked: list[int]) -> int:
    """Returns the largest limit under which an image of some shards was opened."""
    files = (storage.stat(Slot(sink, index).data_uri) for index in picked)
    retried = (read_footer(file).origin.get("retried", {}) for file in files)
    limits = [each["max_pixels"] for each in retried if each]
    return int(max([sink.run.identity.max_pixels, *limits]))


def compare_shard(sink: EncodeSink, index: int, again: Again) -> Reencoded:
    """Reads a shard from its source, encodes it, and compares with what the sink has of it.

    Raises:
        SourceChangedError: If the source is not what was encoded any more.
        StorageError: If a store does not answer.
    """
    uri = Slot(sink, index).data_uri
    whole = read_object(uri)
    stored, footer = whole.table, whole.footer
    fields = [stored.schema.field(name) for name in sink.run.facts.kept]
    kept = pa.schema(fields, metadata=stored.schema.metadata)
    found = Reencoded(shards=1)
    codes = schema.codes_field(sink.run.facts.codes)
    beside = list(map(schema.vectors_field, sink.run.facts.vectors))
    had, seen = _Stored.of(whole), 0
    # A shard that a reader could not read to its end may take this process down, too.
    deaths = ATTEMPTS if footer.total is None else 0
    reader = reader_of(sink.run, again.selection, kept)
    for block in reader.read(sink.plan, index, Staged(), BLOCK_ROWS, deaths):
        good = _without_images(block, had.rejected)
        opened = open_rows(good, again.preprocess, again.opener)
        rows = encode_rows(opened, again.encode, codes, vectors=beside)
        rows = rows.filter(pc.greater_equal(rows["row"], 0))
        seen += pc.count_distinct(rows["row"]).as_py()
        _compare(uri, sink.run, had, rows, found)
    if seen != footer.origin["seen"]:
        message = f"the source has {seen} samples, the sink accounts for {footer.origin['seen']}"
        found.breaches.append(Breach("source_again", uri, message))
    return found


def reader_of(run: EncodeRun, selection: Selection, kept: pa.Schema) -> SampleReader:
    """Returns what reads the samples of a run: those at its beginning, some of them left out."""
    packed, stored = run.facts.where_schema, parse(run.identity.where).stored
    asked = parse_schema(base64.b64decode(packed)) if packed else pa.schema([])
    return SampleReader(selection, kept, Conditions(stored, asked), run.facts.limit_last)


def _without_images(block: pa.Table, rows: set[int]) -> pa.Table:
    """Returns rows, some of them without their images.

    What was rejected because the codec died of it would be fatal here, too.
    """
    is_left_out = pc.is_in(block["row"], value_set=pa.array(sorted(rows), pa.int32()))
    none = pa.scalar(None, block.schema.field("image").type)
    images = pc.if_else(is_left_out, none, block["image"])
    return block.set_column(block.schema.get_field_index("image"), "image", images)


@dataclass(frozen=True)
class _Stored:
    """What a data object has, by row and view."""

    places: dict[tuple[int, int], int]
    keys: list[str]
    codes: list[npt.NDArray[np.integer]] | None
    """(h * w,) of each; None if the run left them out."""
    taken: list[dict[str, Any]]
    """Of each what `_TAKEN` has of it."""
    vectors: pa.Table
    """Columns of latents and quantized."""
    rejected: set[int]
    left_out: set[int]

    @classmethod
    def of(cls, found: Object) -> "_Stored":
        table = found.table
        views = zip(table["row"].to_pylist(), table["view"].to_pylist(), strict=True)
        return cls(
            {view: place for place, view in enumerate(views)},
            table["key"].to_pylist(),
            lists_in(table["codes"]) if "codes" in table.column_names else None,
            table.select(_TAKEN).to_pylist(),
            table.select([name for name in COLUMNS if name in table.column_names]),
            set(rejected_of(found.asides)["row"].to_pylist()),
            set(left_out_of(found.asides)["row"].to_pylist()),
        )


def _compare(uri: str, run: EncodeRun, stored: _Stored, rows: pa.Table, found: Reencoded) -> None:
    """Adds to `found` what rows that were encoded again say about those that are stored."""
    names = [each.name for each in run.facts.vectors]
    pairs: list[tuple[int, int]] = []
    for number, row in enumerate(rows.drop_columns(names).to_pylist()):
        place = stored.places.get((row["row"], row["view"] or 0))  # none of an image that fails
        if place is None:
            if fault := _wrong_aside(stored, row):
                found.breaches.append(Breach("source_again", uri, f"{_name(row)} {fault}"))
            continue
        found.breaches += _wrong(uri, run, stored, place, row)
        if row["codes"] is not None:
            pairs.append((number, place))
            found.views += 1
        if row["codes"] is not None and stored.codes is not None:
            found.codes += len(row["codes"])
            found.unlike += _count_unlike(stored.codes[place], row["codes"])
    found.breaches += _wrong_vectors(uri, run, stored, rows, pairs)


def _wrong_vectors(
    uri: str, run: EncodeRun, stored: _Stored, rows: pa.Table, pairs: list[tuple[int, int]]
) -> Iterator[Breach]:
    """Yields rows whose vectors are not those that are stored.

    Args:
        uri: Of the object.
        run: What made it.
        stored: What it has.
        rows: Rows that were encoded again.
        pairs: Places of the same image in these and there.
    """
    if not pairs:
        return
    again, before = (pa.array(each, pa.int64()) for each in zip(*pairs, strict=True))
    for each in run.facts.vectors:
        columns = stored.vectors[each.name].take(before), rows[each.name].take(again)
        most = vectors.farthest(each.name, MOST_UNLIKE[run.identity.dtype])
        apart = vectors.distances(*columns, each)
        for place in np.flatnonzero(apart > most):
            row = {name: rows[name][again[place].as_py()].as_py() for name in _NAMED}
            message = (
                f"{_name(row)}: its {each.name} are {apart[place]:.0%} of their length away from "
                "those of its source"
            )
            yield Breach("codes_again", uri, message)


def _wrong_aside(stored: _Stored, row: dict[str, Any]) -> str | None:
    """Returns what is wrong with a sample of which no row is stored; of a rejected one, nothing.

    What was rejected may pass by now.
    """
    if row["row"] in stored.left_out:
        return None if row["reason"] == LEFT_OUT else "is left out, and its source says otherwise"
    return None if row["row"] in stored.rejected else "is not there"


def _wrong(
    uri: str, run: EncodeRun, stored: _Stored, place: int, row: dict[str, Any]
) -> Iterator[Breach]:
    if row["key"] != stored.keys[place]:
        message = f"{_name(row)} is there under the key {stored.keys[place]!r}"
        yield Breach("source_again", uri, message)
    if row["codes"] is None:
        what = "left out" if row["reason"] == LEFT_OUT else "rejected"
        message = f"{_name(row)} has codes, and is {what} now: {row['message']}"
        yield Breach("codes_again", uri, message)
        return
    for name, had in stored.taken[place].items():
        if row[name] != had:
            message = f"{_name(row)}: its {name} is {row[name]}, and {had} is there"
            yield Breach("source_again", uri, message)
    if stored.codes is None:
        return
    unlike = _count_unlike(stored.codes[place], row["codes"]) / len(row["codes"])
    if unlike > MOST_UNLIKE[run.identity.dtype]:
        message = f"{_name(row)}: {unlike:.0%} of the codes are unlike those of its source"
        yield Breach("codes_again", uri, message)


def _count_unlike(stored: npt.NDArray[np.integer], codes: list[int]) -> int:
    """Returns how many codes differ: all of them if they are of another shape."""
    return int((stored != np.array(codes)).sum()) if len(stored) == len(codes) else len(codes)


def _name(row: dict[str, Any]) -> str:
    """Returns how a message calls a row, of one view or of several."""
    view = f", view {row['view']}" if row.get("view") else ""
    return f"row {row['row']}{view}, key {row['key']!r}"
