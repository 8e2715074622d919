"""Sinks as `vqpipe encode` leaves them, made without a model; small ones, and one of any size."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa

from tests.makers import jpeg
from tests.sink.runs import encoded_rows, make_run, start, tar_shard
from vqpipe import schema, storage
from vqpipe.images import ImageFormat
from vqpipe.picks import pick_names
from vqpipe.schema import REJECTED, data_schema
from vqpipe.sink import success, totals
from vqpipe.sink.commit import commit_rows
from vqpipe.sink.footer import HISTOGRAM, ORIGIN, pack_histogram
from vqpipe.sink.growth import Growth
from vqpipe.sink.objects import digest, pack_asides, pack_object
from vqpipe.sink.plan import Plan
from vqpipe.sink.start import start_run
from vqpipe.sink.writer import Writer
from vqpipe.stages.decode import ImagesProduct
from vqpipe.stages.evaluate import ScoresProduct

PICTURE = jpeg(8, 8)
"""Of every row of scores."""
LAST = {
    "seconds": 14.0,
    "start_up_seconds": 4.0,
    "images_this_run": 40,
    "images_per_second": 4.0,
    "devices": ["NVIDIA H200"],
}
"""What the last command says of itself in `summary.json`."""


def begin(sink, names=("a", "b", "c"), **how):
    """Returns the writer of a run of some shards."""
    return start(sink, names, **how)


def commit(writer, index, rows, rejected=(), change=None):
    """Commits one shard; `change` is given its rows as dictionaries before."""
    table = encoded_rows(writer, index, rows, rejected=rejected)
    if change:
        listed = table.to_pylist()
        change(listed)
        table = table.from_pylist(listed, table.schema)
    commit_rows(table, writer)


def end(writer, last=LAST, *, is_complete=True):
    """Writes what a command writes at its end."""
    found = totals.read_totals(writer.sink)
    success.write_summary(writer.sink, found, last)
    if is_complete:
        success.mark_success(writer.sink, found)


NO_KEPT = pa.schema([])
IMAGES = ImagesProduct(NO_KEPT, ImageFormat("png"), "parquet", (8, 8))
SCORES = ScoresProduct(tuple(schema.score_fields(has_lpips=False, has_features=False)))


def decode(sink, names=("a", "b", "c"), rows=3):
    """Makes a sink of `vqpipe decode`, complete."""
    return _make(sink, "decode", names, rows, IMAGES, {"image": b"png"})


def score(sink, names=("a", "b", "c"), rows=3):
    """Makes a sink that `vqpipe evaluate` keeps its scores in, complete; each row has its own."""
    plain = {"ssim": 0.5, "l1": 0.25, "unlike": 1, "original": PICTURE, "decoded": PICTURE}
    return _make(sink, "evaluate", names, rows, SCORES, plain)


def _make(sink, stage, names, rows, product, plain):
    """Makes a complete sink of which the last sample of each shard is rejected."""
    listed = Plan.of(tar_shard(name) for name in names)
    opened = start_run(str(sink), make_run(stage, listed.sha256()), listed, Growth())
    writer = Writer(opened, product)
    for index, name in enumerate(opened.plan.names):
        found = [
            {
                "shard": index,
                "row": row,
                "key": f"{name}/{row}",
                "place": row,
                "psnr_db": 20.0 + row,
            }
            | plain
            for row in range(rows)
        ]
        bad = {"reason": "corrupt", "message": "bad", "total": rows + 1}
        found.append({"shard": index, "row": rows, "key": f"{name}/bad"} | bad)
        commit_rows(pa.Table.from_pylist(found, schema=product.rows), writer)
    end(writer)
    return writer


def drift(*distances, median, shards):
    """Returns what `evaluation.json` has of the most distant shards, of so many."""
    most = [{"shard": f"s{i}", "distance": d, "samples": 20} for i, d in enumerate(distances)]
    return {"shards": shards, "median": median, "most": most}


def evaluate(writer, **other):
    """Writes what `vqpipe evaluate` would; returns it."""
    done = totals.read_totals(writer.sink)
    spread = dict.fromkeys(("std", "min", "p05", "median", "p95", "max"), 0.0)
    found = {
        "fingerprint": writer.sink.run.fingerprint,
        "run": {
            "plan_sha256": writer.sink.plan.sha256(),
            "shards_planned": len(writer.sink.plan),
            "shards": done.shards,
            "encoded": done.good,
            "data_bytes": done.data_bytes,
        },
        "created": "2026-01-03T03:04:05Z",
        "samples": 2048,
        "shards": 64,
        "rejected": 0,
        "metrics": {
            "psnr_db": {"mean": 26.25, **spread},
            "ssim": {"mean": 0.8125, **spread},
            "l1": {"mean": 0.0312, **spread},
        },
        "rfid": None,
        "codes_unlike_float32": 0.0012,
        "drift": {"shards": 0, "median": None, "most": []},
        "rejected_by_reason": {},
    } | other
    storage.replace(f"{writer.sink.uri}/evaluation.json", json.dumps(found).encode())
    return found


def fill(writer, done, real, rows=8, rejected=1):
    """Puts objects into `data/` of a local sink by the fast way: without `fsync`, no row stored.

    Args:
        writer: A run with any number of shards.
        done: How many of them are to have an object.
        real: How many of these, in the order in which they are picked, have a footer of their own;
            the others have one that nobody should read.
        rows: Samples that a footer counts.
        rejected: Of these, rejected ones, of shards with a footer of their own.
    """
    indices = {name: index for index, name in enumerate(writer.sink.plan.names[:done])}
    some = _object(writer, 0, rows, 0)
    for name in indices:
        _place(writer, "data", name, some)
    for name in pick_names(indices, real):
        data = _object(writer, indices[name], rows, rejected)
        _place(writer, "data", name, data)
        if rejected:
            _place(writer, "rejected", name, data)  # only its name matters


def _place(writer, folder, name, data):
    path = Path(writer.sink.uri, folder, f"{name}.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def succeed(writer, rows=8):
    """Writes `_SUCCESS` of a run with so many samples a shard, whatever is in `data/`."""
    histogram, count = _histogram(writer, 0, rows), len(writer.sink.plan)
    found = totals.Totals(histogram, count, count * rows, data_bytes=count * rows * 400)
    document = json.dumps(success.describe_success(writer.sink.plan, found))
    storage.replace(f"{writer.sink.uri}/_SUCCESS", document.encode())


def _histogram(writer, index, rows):
    codes = np.random.default_rng(index).integers(
        writer.product.codebook_size, size=rows * writer.product.codes.type.list_size
    )
    return np.bincount(codes, minlength=writer.product.codebook_size)


def _object(writer, index, rows, rejected):
    """Returns an object whose footer is true of nothing but itself."""
    bad = [
        {"key": f"{index}/{row}", "row": row, "reason": "corrupt", "message": "bad"}
        for row in range(rejected)
    ]
    rejections = pack_asides(pa.Table.from_pylist(bad, schema=REJECTED))
    origin = {
        "fingerprint": writer.sink.run.fingerprint,
        "shard": writer.sink.plan.name(index),
        "source": writer.sink.plan.source(index),
        "generation": writer.sink.plan.generation(index),
        "revision": 0,
        "layout": dict(writer.sink.run.facts.layout),
        "codebook_size": writer.product.codebook_size,
        "seen": rows,
        "good": rows - rejected,
        "rejected": rejected,
        "reasons": {"corrupt": rejected} if rejected else {},
        "rejected_images": rejected,
        "damage": None,
        "passed_over": 0,
        "kept_nulls": {},
        "audited": 0,
        "flips": 0,
        "examples": {
            "corrupt": [
                {name: each[name] for name in ("key", "row", "message")} for each in bad[:5]
            ]
        }
        if bad
        else {},
        "rejections": digest(rejections),
        "rejections_bytes": len(rejections),
    }
    footer = {
        ORIGIN: json.dumps(origin),
        HISTOGRAM: pack_histogram(_histogram(writer, index, rows - rejected)),
    }
    empty = data_schema(writer.product.kept, writer.product.codes).empty_table()
    return pack_object(empty, footer, rejections)
