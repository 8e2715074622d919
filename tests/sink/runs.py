"""Sinks with a run in them and encoded rows to commit, the same for the same arguments."""

import itertools
import json
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vqpipe import schema
from vqpipe.code_layout import CodeLayout
from vqpipe.commands.kept import name_types, pack_schema
from vqpipe.schema import File, Shard
from vqpipe.sink import todo
from vqpipe.sink.growth import Growth
from vqpipe.sink.plan import Plan
from vqpipe.sink.run import parse_run
from vqpipe.sink.start import start_run
from vqpipe.sink.writer import Writer
from vqpipe.stages.encode import CodesProduct
from vqpipe.stages.read import NO_ROW

KEPT = pa.schema([pa.field("caption", pa.string()), pa.field("score", pa.float32())])
_CODEC = {
    "dtype": "float32",
    "pixel_range": "signed",
    "eager": False,
    "model_sha256": "5e" * 32,
}
IDENTITY = {
    "encode": {
        "source": "s3://photos",
        "format": "webdataset",
        "image": None,
        "key": None,
        "key_until": "first-dot",
        "keep": [],
        "resolution": 32,
        "resample": "bicubic",
        "background": [255, 255, 255],
        "max_pixels": 10_000,
        **_CODEC,
    },
    "decode": {
        "source": "codes/",
        "kind": "codes",
        "format": "png",
        "quality": None,
        "layout": "parquet",
        **_CODEC,
    },
    "evaluate": {"source": "codes/", "codes": "f1" * 32, "model_sha256": "5e" * 32},
}
IDENTITY["compact"] = {
    "source": "codes/",
    "codes": "f1" * 32,
    "snapshot": "5a" * 32,
    "rows_per_file": 100,
    "shuffle": 3,
    "encode": {"stage": "encode", **IDENTITY["encode"]},
    "model_sha256": "5e" * 32,
}
"""What `run.json` says of each stage's choices."""
_MADE = {"created": "2026-01-02T03:04:05Z", "versions": {"torch": "2.13.0", "pillow": "13.0"}}
FACTS = {
    "encode": {
        "layout": CodeLayout.grid(2, 3, 16).document(),
        "codebook_size": 16,
        "codebook_sha256": "cb" * 32,
        "model": "vqgan/",
        "model_options": {"model": "vqgan/"},
        "kept": {},
        **_MADE,
    },
    "decode": {"size": [8, 8], "model": "vqgan/", "kept": {}, **_MADE},
    "evaluate": {"picture_px": 8, **_MADE, "networks": {"lpips": None, "inception": None}},
}
FACTS["compact"] = {
    **FACTS["encode"],
    "shard_column": "shard",
    "source_run": {"stage": "encode", "fingerprint": "f1" * 32, **_MADE},
    "source_totals": {"shards": 2, "encoded": 7, "rejected": 1},
    "source_histogram": "c0" * 32,
}
"""What it says besides."""


def tar_shard(name, size=100, version="1"):
    return Shard(name, "webdataset", (File(f"s3://photos/{name}.tar", size, version),))


def make_run(stage="encode", plan_sha256="", *, facts=(), **identity):
    """Returns a run as its `run.json` has it, with other facts and choices where they are given."""
    said = {
        "fingerprint": "",
        **(FACTS[stage] | dict(facts)),
        "identity": {"stage": stage, **(IDENTITY[stage] | identity)},
        "plan_sha256": plan_sha256,
    }
    return parse_run(json.dumps(said).encode(), "sink")


def facts_of_codes(codes):
    """Returns what `run.json` says of a layout of codes."""
    return {"layout": codes.document(), "codebook_size": codes.codebook_size}


def facts_of_kept(kept):
    """Returns what `run.json` says of kept columns."""
    return {"kept": name_types(kept), "kept_schema": pack_schema(kept)}


def start(
    sink, names=("a",), *, codebook_size=16, grid=(2, 3), kept=KEPT, facts=(), count=1, **identity
):
    """Returns the writer of a run of `vqpipe encode` that has just been started in the sink.

    Its samples have `count` views each.
    """
    listed = Plan.of(tar_shard(name) for name in names)
    codes = CodeLayout.grid(*grid, codebook_size)
    more = {"views": count} if count > 1 else {}
    facts = {**facts_of_codes(codes), **facts_of_kept(kept), **more} | dict(facts)
    asked = make_run(plan_sha256=listed.sha256(), facts=facts, **identity)
    opened = start_run(str(sink), asked, listed, Growth())
    return Writer(opened, CodesProduct(kept, schema.codes_field(codes), codes, count))


def codes_of(writer, index, row, view=0):
    """Returns the codes of one view of a sample, the only ones that it can have."""
    rng = np.random.default_rng((index, row, view) if view else (index, row))
    return rng.integers(
        0, writer.product.codebook_size, writer.product.codes.type.list_size
    ).tolist()


def flips_of(row):
    """Returns how many codes of an audited sample differ from float32's; most are not audited."""
    return row % 3 if row % 2 == 0 else None


def psnr_of(row):
    """Returns the PSNR of what an audited sample's codes decode to."""
    return 20.0 + row if row % 2 == 0 else None


def encoded_rows(writer, index, total, numbers=None, rejected=(), left_out=()):
    """Returns rows of a shard as they come from the codec; by default all of them.

    Of samples that are rejected, some are so in all of their views, others in one or two.
    """
    numbers = range(total) if numbers is None else numbers
    samples = (
        _left_out_rows(writer, index, number, total)
        if number in left_out
        else _rows(writer, index, number, total, number in rejected)
        for number in numbers
    )
    rows = list(itertools.chain.from_iterable(samples))
    return pa.Table.from_pylist(rows, schema=writer.product.rows)


LEFT_OUT = {"reason": "left_out", "message": "width >= 150", "passed_over": 2}
"""What is in the row of a sample that is left out."""


def _left_out_rows(writer, index, number, total):
    for view in range(writer.product.views):
        yield _row(writer, index, number, total, True, view) | LEFT_OUT


def _rows(writer, index, number, total, is_rejected):
    views = writer.product.views
    first, last = [(0, views), (0, 1), (views - 1, views), (views // 2, views)][number % 4]
    for view in range(views):
        yield _row(writer, index, number, total, is_rejected and first <= view < last, view)


def no_rows(writer, index, total):
    """Returns the row that stands for a shard of which nothing is left to read."""
    row = {"shard": index, "row": NO_ROW, "total": total}
    rows = [row | {"view": view} for view in range(writer.product.views)]
    return pa.Table.from_pylist(rows, schema=writer.product.rows)


def _row(writer, index, number, total, is_rejected, view):
    row = {
        "shard": index,
        "row": number,
        "total": total if number == total - 1 else None,
        "key": f"{writer.sink.plan.name(index)}/{number}",
        "view": view,
    }
    if is_rejected:
        return row | {"reason": "corrupt", "message": f"row {number} is bad"}
    return row | {
        "kept.caption": f"caption {number}",
        "kept.score": number / 2,
        "width": 100 + number,
        "height": 50,
        "crop": [25, 0, 75, 50],
        "flip": False,
        "codes": codes_of(writer, index, number, view),
        "flips": None if view else flips_of(number),
        "psnr_db": None if view else psnr_of(number),
    }


def rows_left(writer, index, total, rejected=()):
    """Returns what a command that resumes would bring to the commit; None for nothing at all."""
    left = todo.unfinished(writer.sink)
    if index not in left:
        return None
    staged = left[index]
    if staged.complete:
        return no_rows(writer, index, staged.total)
    numbers = [number for number in range(total) if not staged.holds(number)]
    return encoded_rows(writer, index, total, numbers, rejected)


def query(sink, folder, what):
    """Returns what DuckDB finds in all objects of `data/` or `rejected/`; nothing if none is."""
    if not any(Path(sink, folder).rglob("*.parquet")):
        return []
    files = f"{sink}/{folder}/**/*.parquet"
    return duckdb.sql(f"select {what} from read_parquet('{files}') order by all").fetchall()


def visible(sink, folder):
    """Returns the paths of the files in one folder of a sink, as the file system has them."""
    base = Path(sink, folder)
    return sorted(str(p.relative_to(base)) for p in base.rglob("*") if p.is_file())


def check_committed(writer, totals, rejected=(), left_out=()):
    """Checks, by DuckDB, that every sample is exactly once in data, rejected or left out.

    Args:
        writer: The run.
        totals: Rows of each shard.
        rejected: Row numbers that are rejected in every shard.
        left_out: Row numbers that are left out of every shard.
    """
    samples = [(i, row) for i, total in enumerate(totals) for row in range(total)]
    name = writer.sink.plan.name
    good = [
        (f"{name(i)}/{row}", row, view, codes_of(writer, i, row, view))
        for i, row in samples
        if row not in {*rejected, *left_out}
        for view in range(writer.product.views)
    ]
    bad = [(f"{name(i)}/{row}", row, "corrupt") for i, row in samples if row in rejected]
    found = query(writer.sink.uri, "data", "key, row, view, codes::UINTEGER[]")
    assert found == sorted(good)
    assert query(writer.sink.uri, "rejected", "key, row, reason") == sorted(bad)
    out = [(f"{name(i)}/{row}", row, "width >= 150") for i, row in samples if row in left_out]
    assert query(writer.sink.uri, "left_out", "key, row, why") == sorted(out)
    assert visible(writer.sink.uri, "data") == sorted(
        f"{n}.parquet" for n in writer.sink.plan.names
    )


def read_data(writer, index=0):
    """Returns one data object by pyarrow: its rows and its footer's metadata."""
    file = pq.ParquetFile(Path(writer.sink.uri, "data", f"{writer.sink.plan.name(index)}.parquet"))
    return file.read(), file.metadata.metadata
