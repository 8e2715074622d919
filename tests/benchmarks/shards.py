"""What a shard costs the driver: many shards of few images, through a Ray of this machine.

    python -m tests.benchmarks.shards [--shards 10000] [--images 2]

The graph is the real one, with a stub in place of the network. What grows with images is small
here, so that the driver's core seconds are those of shards: of scheduling, of receipts, of display.
One driver does no more shards/s than one core has time for.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cloudpickle
import ray

from tests.benchmarks import machine, scale
from tests.benchmarks.peers import ours
from tests.makers import jpeg, tar_of
from vqpipe.commands import launch
from vqpipe.commands.progress import Progress
from vqpipe.engine import cluster, graph
from vqpipe.engine.counter import make_counter
from vqpipe.engine.resources import Resources
from vqpipe.occupancy import Spent
from vqpipe.sink import subtotals


def build(folder, shards, images):
    """Makes tars of a few small photos each."""
    folder.mkdir()
    tar = tar_of({f"{index}.jpg": jpeg(32, 32, index) for index in range(images)})
    for index in range(shards):
        (folder / f"{index:07d}.tar").write_bytes(tar)


MESSAGES = 20_000


def measure_counter():
    """Returns the core seconds that the actor of counts takes for a message."""
    counter = make_counter()
    computed = counter.__ray_call__.remote(_core_s)
    before = ray.get(computed)
    for _ in range(MESSAGES):
        counter.saw.remote(256, 20_000_000, Spent(read_s=1.0))
    return (ray.get(counter.__ray_call__.remote(_core_s)) - before) / MESSAGES


def _core_s(_):
    return time.process_time()


def drive(source, sink):
    """Runs the graph as a command does; prints what this process took, from its first commit on."""
    for module in (ours, sys.modules[__name__]):
        cloudpickle.register_pickle_by_value(module)
    work, begun, marks = ours.work_of(source, sink), time.perf_counter(), []
    progress = Progress(len(work.writer.sink.plan), 0)
    before = scale.peak_bytes()
    with cluster.connect(None):
        for tick in graph.run(work, Resources(), codec=ours.StubCodec):
            launch._count(progress, tick)
            if progress.shards:
                marks.append((time.perf_counter(), scale.core_s(), progress.shards))
        message_s = measure_counter()
    (first, computed, done), (last, computed_at_end, shards) = marks[0], marks[-1]
    said = {
        "shards": progress.shards,
        "start_s": first - begun,
        "wall_s": last - first,
        "core_s": computed_at_end - computed,
        "counted": shards - done,
        "message_s": message_s,
        "messages": MESSAGES,
        "parts": len(subtotals.list_parts(sink)),
        "before": before,
        "peak": scale.peak_bytes(),
    }
    print(json.dumps(said))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--child", nargs=2, metavar=("SOURCE", "SINK"))
    options = parser.parse_args()
    if options.child:
        drive(*options.child)
        return
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "tars")
        build(source, options.shards, options.images)
        command = [sys.executable, "-m", "tests.benchmarks.shards", "--child"]
        done = subprocess.run(
            [*command, str(source), f"{folder}/sink"],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            env={**os.environ, "VQPIPE_CURVE": f"{folder}/curve"},  # the stub writes one
        )
        said = json.loads(done.stdout.splitlines()[-1])
    each = 1e3 * said["core_s"] / said["counted"]
    print(machine.in_words())
    print(
        f"{said['shards']:,} shards of {options.images} images in {said['wall_s']:,.0f} s; of the "
        f"driver {each:.2f} ms of a core a shard, so at most {1e3 / each:,.0f} shards/s; memory "
        f"{said['peak'] / 1e6:,.0f} MB, {said['before'] / 1e6:,.0f} before Ray; {said['parts']} "
        "parts added up by workers"
    )
    print(
        f"counter: {1e6 * said['message_s']:.0f} us of a core a message, so at most "
        f"{1 / said['message_s']:,.0f} messages/s; {said['messages']:,} of them"
    )


if __name__ == "__main__":
    main()
