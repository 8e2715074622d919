"""Throughput of the whole pipeline, against its parts measured in the same run.

    python -m tests.benchmarks.pipeline [--images 20000] [--rounds 3]

    floor   as many plain processes as cores that only open and resize the images
    ours    the encode graph with a stub in place of the network
    plain   the same work as Ray Data's documentation shows it: read_webdataset, map, write_parquet

`floor` and `ours` are images per second in steady state, and their ratio is taken within a round.
The stub takes the place of a GPU, so blocks have the sizes that they have with one.
One tar is compared with eight of as many images in all, by the time from first image to end.
"""

import argparse
import multiprocessing
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import cloudpickle
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.benchmarks.tars import build_tars
from tests.sink.runs import make_run
from vqpipe import schema
from vqpipe.codec.config import CodecConfig
from vqpipe.codec.weights import Weights
from vqpipe.engine import capacity, cluster, graph
from vqpipe.engine.blocks import KeepBlocks
from vqpipe.images import Preprocess, open_image, square
from vqpipe.schema import Selection
from vqpipe.sink.plan import Growth, Plan
from vqpipe.sink.ranges import Staged
from vqpipe.sink.run import start_run
from vqpipe.sink.writer import Writer
from vqpipe.sources import list_shards, read_shard
from vqpipe.stages.encode import CodesProduct, Encoding
from vqpipe.stages.read import SampleReader
from vqpipe.stages.work import Work

STEADY = 0.3, 0.95
"""Between which shares of the images the rate is taken: past the start of all workers, which goes
on for some ten seconds, and before the last shards run dry."""
FLOOR_TIMEOUT_S = 600
RESOLUTION, GRID, CODEBOOK = 256, 16, 16_384
CHECKPOINT = Path(__file__).parents[2] / "infra" / "demo" / "checkpoint"


class StubCodec:
    """Codes at no cost: what is left is the pipeline."""

    def __init__(self, *_, **__):
        pass

    def warm_up(self, *_):
        return 0.0

    def encode(self, images, on_batch):
        on_batch(len(images))
        return np.zeros((len(images), GRID, GRID), np.int64), np.ones(len(images), bool)


def floor_worker(folder, part, parts, results):
    how, count, started = Preprocess(square(RESOLUTION)), 0, time.perf_counter()
    for shard in list_shards(str(folder)).shards:
        for sample in read_shard(shard, Selection(), pa.schema([])):
            if sample.row % parts == part:
                open_image(sample.data, how)
                count += 1
    results.put((count, time.perf_counter() - started))


def measure_floor(folder):
    """Returns images/s of plain processes, one a core."""
    context = multiprocessing.get_context("spawn")
    results, cores = context.Queue(), capacity.cores()
    arguments = [(folder, part, cores, results) for part in range(cores)]
    processes = [context.Process(target=floor_worker, args=a) for a in arguments]
    for process in processes:
        process.start()
    found = [results.get(timeout=FLOOR_TIMEOUT_S) for _ in processes]
    for process in processes:
        process.join()
    return sum(count for count, _ in found) / max(seconds for _, seconds in found)


def measure_ours(folder, sink):
    """Returns images/s in steady state, and seconds from the first image to the end."""
    listing = list_shards(str(folder))
    frozen = Plan.of(listing.shards)
    facts = {"grid": [GRID, GRID], "codebook_size": CODEBOOK}
    asked = make_run(plan_sha256=frozen.sha256(), facts=facts)
    opened = start_run(str(sink), asked, frozen, Growth())
    codes = schema.codes_field(CODEBOOK, (GRID, GRID))
    kept = pa.schema([])
    product = CodesProduct(kept, codes, (GRID, GRID), CODEBOOK)
    work = Work(
        writer=Writer(opened, product),
        reader=SampleReader(Selection(), kept),
        opens=Preprocess(square(RESOLUTION)),
        step=Encoding(codes, CodecConfig(), square(RESOLUTION), audit=0.0),
        weights=Weights.load(str(CHECKPOINT)),
        todo={index: Staged() for index in range(len(frozen))},
    )
    ticks = graph.run(work, graph.Resources(), codec=StubCodec)
    curve = [(time.perf_counter(), tick.counts.encoded) for tick in ticks]
    ended = time.perf_counter()
    total = sum(shard.num_rows for shard in _footers(sink))
    first_time = next(moment for moment, count in curve if count)
    steady = [point for point in curve if total * STEADY[0] <= point[1] <= total * STEADY[1]]
    (begin, before), (end, after) = steady[0], steady[-1]
    return (after - before) / (end - begin), ended - first_time


def _footers(sink):
    return [pq.read_metadata(path) for path in (sink / "data").rglob("*.parquet")]


def measure_plain(folder, sink):
    """Returns images/s of Ray Data as its documentation shows it, Ray's start left out."""
    import ray
    from ray.data._internal.logical.optimizers import get_physical_ruleset

    get_physical_ruleset().remove(KeepBlocks)  # ours puts it back
    context = ray.data.DataContext.get_current()
    context.target_max_block_size = ray.data.context.DEFAULT_TARGET_MAX_BLOCK_SIZE

    def open_row(row):
        image = Image.fromarray(row["jpg"])  # read_webdataset has opened it
        left = (image.width - image.height) // 2
        box = (left, 0, left + image.height, image.height)
        square = image.resize((RESOLUTION, RESOLUTION), Image.Resampling.BICUBIC, box=box)
        return {"key": row["__key__"], "pixels": np.asarray(square)}

    class Stub:
        def __call__(self, batch):
            count = len(batch["key"])
            return {"key": batch["key"], "codes": np.zeros((count, GRID * GRID), np.uint16)}

    started = time.perf_counter()
    dataset = ray.data.read_webdataset(str(folder))
    images = dataset.map(open_row).map_batches(Stub, batch_size=64, concurrency=1)
    images.write_parquet(str(sink))
    total = ray.data.read_parquet(str(sink)).count()
    return total / (time.perf_counter() - started)


def main():
    options = parse_options()
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    graph.BLOCK_IMAGES["cpu"] = graph.BLOCK_IMAGES["cuda"]
    root = Path(tempfile.mkdtemp(prefix="vqbench"))
    rows = []
    try:
        eight = build_tars(root / "eight", options.images, 8)
        one = build_tars(root / "one", options.images, 1)
        for _ in range(options.rounds):
            rows.append(measure_round(eight, one, root / "written", options.plain))
            print("  ".join(f"{name} {value:,.1f}" for name, value in rows[-1].items()), flush=True)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    print()
    report("ours / floor, eight tars", [row["eight"] / row["floor"] for row in rows])
    report("ours / floor, one tar", [row["one"] / row["floor"] for row in rows])
    report("time of one tar / eight tars", [row["one_s"] / row["eight_s"] for row in rows])
    if options.plain:
        report("plain / floor", [row["plain"] / row["floor"] for row in rows])


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plain", action="store_true", help="measure plain Ray Data as well")
    return parser.parse_args()


def measure_round(eight, one, written, plain):
    """Returns one round's figures: rates in images/s, and names that end in `_s` in seconds."""
    row = {"floor": measure_floor(eight)}
    with cluster.connect(None):
        row["eight"], row["eight_s"] = measure_ours(eight, written / "eight")
    with cluster.connect(None):
        row["one"], row["one_s"] = measure_ours(one, written / "one")
    if plain:
        with cluster.connect(None):
            row["plain"] = measure_plain(eight, written / "plain")
    shutil.rmtree(written)
    return row


def report(name, ratios):
    listed = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    print(f"{name:30} median {statistics.median(ratios):.2f}  of {listed}")


if __name__ == "__main__":
    main()
