"""Sinks of all kinds of codes, columns and keys, and exports of them on this machine's disk."""

import numpy as np
import pyarrow as pa

from tests.export import exports
from tests.sink import sinks
from tests.sink.runs import facts_of_codes, facts_of_kept, make_run, tar_shard
from vqpipe import schema
from vqpipe.code_layout import CodeLayout
from vqpipe.sink.commit import commit_rows
from vqpipe.sink.growth import Growth
from vqpipe.sink.plan import Plan
from vqpipe.sink.start import start_run
from vqpipe.sink.writer import Writer
from vqpipe.stages.encode import CodesProduct

GRIDS = CodeLayout("grids", ((2, 3), (3, 2), (1, 6), (2, 2)), (16,))
STACKED = CodeLayout("stacked", ((2, 3, 2),), (5, 300))
SCALES = CodeLayout("scales", ((1, 1), (2, 2), (3, 2)), (16,))
SEQUENCE = CodeLayout("sequence", ((7,),), (4096,))
LAYOUTS = {"grids": GRIDS, "stacked": STACKED, "scales": SCALES, "sequence": SEQUENCE}
CODEBOOKS = {2: "uint8", 65_536: "uint16", 65_537: "uint32", 262_144: "uint32"}
"""Types of codes in the sink."""
ODD_KEYS = ("a.b/c.png", ".", "..", "/", "", "ä 🐈", "x\ny\t", "50%", "a~b", "a%2Eb", "\\", "__k__")
KEPT = pa.schema([pa.field("label", pa.int64()), pa.field("txt", pa.string())])


def make_sink(uri, layout, counts=(("a", 3), ("b", 5)), table=None, **product):
    """Makes a complete sink of codes in a layout; each row has the highest code of each codebook.

    Args:
        uri: Where.
        layout: Of the codes.
        counts: Of each shard its name and its rows.
        table: Of one shard, kept columns instead of a label and a caption.
        product: What else is in rows, as `CodesProduct` has it.
    """
    kept = KEPT if table is None else table.schema
    listed = Plan.of(tar_shard(name) for name, _ in counts)
    facts = facts_of_codes(layout) | facts_of_kept(kept)
    asked = make_run(plan_sha256=listed.sha256(), facts=facts)
    field = schema.codes_field(layout)
    opened = start_run(str(uri), asked, listed, Growth())
    writer = Writer(opened, CodesProduct(kept, field, layout, **product))
    for index, (name, count) in enumerate(counts):
        rows = [_row(layout, index, f"{name}/{i}", i, count) for i in range(count)]
        made = pa.Table.from_pylist(rows, schema=writer.product.rows)
        if table is not None:
            for column in kept.names:
                place = made.schema.get_field_index(f"kept.{column}")
                made = made.set_column(place, made.schema.field(place), table[column])
        commit_rows(made, writer)
    sinks.end(writer)
    return str(uri)


def _row(layout, index, key, number, total):
    shape = layout.shapes[number % len(layout.shapes)] if layout.differs else (layout.length,)
    rng = np.random.default_rng((index, number))
    bounds = np.resize(layout.codebooks, int(np.prod(shape)))
    codes = rng.integers(0, bounds)
    codes[: len(layout.codebooks)] = np.array(layout.codebooks) - 1
    return {
        "shard": index,
        "row": number,
        "total": total if number == total - 1 else None,
        "key": key,
        "view": 0,
        "width": 100,
        "height": 50,
        "crop": [25, 0, 75, 50],
        "flip": False,
        "codes": codes.tolist(),
        "latents": [0.5] * 12,  # where the schema has a column of them
        "kept.label": number,
        "kept.txt": f"caption of {key}",
        **({"grid_h": shape[0], "grid_w": shape[1]} if layout.differs else {}),
    }


def with_odd_keys(rows):
    """Has rows of a shard have keys that mean something elsewhere."""
    exports.describe(rows)
    for row in rows:
        row["key"] = ODD_KEYS[row["row"] % len(ODD_KEYS)]


def shape_of(layout, row):
    """Returns the shape of a row's codes."""
    return (row["grid_h"], row["grid_w"]) if layout.differs else layout.shape


def local(out, tmp_path):
    """Returns a folder with all files of an export, wherever that is."""
    folder = tmp_path / "local"
    for name, data in exports.files_of(out).items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    return folder


MANY_KINDS = {
    "big": (pa.array([2**63, 0, None], pa.uint64()), [2**63, 0, None]),
    "score": (pa.array([0.1, float("nan"), None], pa.float64()), [0.1, None, None]),
    "taken": (pa.array([18_000, -1, None], pa.date32()), ["2019-04-14", "1969-12-31", None]),
    "seen": (
        pa.array([0, 1, None], pa.timestamp("ns", "UTC")),
        ["1970-01-01 00:00:00.000000000Z", "1970-01-01 00:00:00.000000001Z", None],
    ),
    "price": (pa.array([1, None, -2]).cast(pa.decimal128(21, 2)), ["1.00", None, "-2.00"]),
    "bytes": (pa.array([b"\x00\xff", b"", None]), ["AP8=", "", None]),
    "words": (pa.array([["a", "ä\n"], [], None]), [["a", "ä\n"], [], None]),
    "box": (pa.array([{"x": 1, "t": ["u"]}, {"x": None, "t": None}, None]),) * 2,
    "names": (
        pa.array([[("a", 1)], [], None], pa.map_(pa.string(), pa.int8())),
        [[["a", 1]], [], None],
    ),
    "kind": (pa.array(["cat", None, "cat"]).dictionary_encode(), ["cat", None, "cat"]),
    "good": (pa.array([True, None, False]), [True, None, False]),
}
"""Columns by name: as Arrow has them, and as JSON should."""
MANY_KINDS["box"] = (MANY_KINDS["box"][0], MANY_KINDS["box"][0].to_pylist())


def make_sink_of_many_kinds(uri):
    """Makes a sink of one shard with three rows and all of these columns."""
    table = pa.table({name: column for name, (column, _) in MANY_KINDS.items()})
    return make_sink(uri, CodeLayout.grid(2, 3, 16), (("a", 3),), table)


def check_many_kinds(documents):
    """Checks what JSON has of the rows of such a sink."""
    assert len(documents) == 3
    for name, (_, expected) in MANY_KINDS.items():
        assert [each[name] for each in documents] == expected, name
