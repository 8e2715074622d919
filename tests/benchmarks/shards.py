"""What a shard costs the driver: many shards of few images, through a Ray of this machine.

    python -m tests.benchmarks.shards [--shards 10000] [--images 2]

The graph is the real one, with a stub in place of the network. What grows with images is small
here, so that the driver's core seconds are those of shards: of scheduling, of receipts, of display.
One driver does no more shards/s than one core has time for, and no more the actor that counts.
"""

import argparse
import functools
import inspect
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter as Messages
from pathlib import Path
from unittest import mock

import cloudpickle
import ray

from tests.benchmarks import machine, scale
from tests.benchmarks.peers import ours
from tests.makers import jpeg, tar_of
from vqpipe.commands import launch
from vqpipe.commands.progress import Progress
from vqpipe.engine import cluster, graph
from vqpipe.engine.counter import Counter
from vqpipe.engine.laggards import FACTOR, LEAST_S, Laggards
from vqpipe.engine.ledger import RemoteLedger
from vqpipe.engine.report import Ended, Report
from vqpipe.engine.resources import Resources
from vqpipe.occupancy import Spent
from vqpipe.sink import subtotals


def build(folder, shards, images):
    """Makes tars of a few small photos each."""
    folder.mkdir()
    tar = tar_of({f"{index}.jpg": jpeg(32, 32, index) for index in range(images)})
    for index in range(shards):
        (folder / f"{index:07d}.tar").write_bytes(tar)


class Measured(Counter):
    """The counter, which also counts the messages that workers send, of each kind."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.messages = Messages()
        self.is_busy = False
        self.before_s = time.process_time()

    def measured(self):
        """Returns messages by kind, and the core seconds that this process has taken for them."""
        return dict(self.messages), time.process_time() - self.before_s


def count(name):
    """Returns a method of the counter that counts its calls by others."""
    method = getattr(Counter, name)

    @functools.wraps(method)
    def counted(self, *arguments, **named):
        is_outer, self.is_busy = not self.is_busy, True
        self.messages[name] += is_outer
        try:
            return method(self, *arguments, **named)
        finally:
            self.is_busy = not is_outer

    return counted


for each, _ in inspect.getmembers(Counter, inspect.isfunction):
    if not each.startswith("_") and each != "read":  # that is the driver
        setattr(Measured, each, count(each))


def make_measured():
    """Stands in for `make_counter`."""
    made = ray.remote(Measured).options(num_cpus=0).remote(Laggards(FACTOR, LEAST_S))
    MADE.append(made)
    return made


MADE = []
READERS, EACH = 8, 1500


def measure_crowd():
    """Returns the counter's core seconds for a shard where many readers talk to it at once."""
    counter = make_measured()
    shards = READERS * EACH
    ray.get(counter.hand_out.remote(list(range(shards)), [1] * shards, "here"))
    _, before_s = ray.get(counter.measured.remote())
    ray.get([_read.remote(counter, first) for first in range(0, shards, EACH)])
    return (ray.get(counter.measured.remote())[1] - before_s) / shards


@ray.remote(num_cpus=0)
def _read(counter, first):
    ledger, done = RemoteLedger(counter), Report(256, 20_000_000, 256, spent=Spent(read_s=1.0))
    ended = None
    for shard in range(first, first + EACH):
        ledger.begin_shard(shard, f"read {shard}", ended)
        ended = Ended(shard, f"read {shard}", True, done, "10.0.0.1/0123ab")


def drive(source, sink):
    """Runs the graph as a command does; prints what this process took, from its first commit on."""
    for module in (ours, sys.modules[__name__]):
        cloudpickle.register_pickle_by_value(module)
    work, begun, marks = ours.work_of(source, sink), time.perf_counter(), []
    progress = Progress(len(work.writer.sink.plan), 0)
    before = scale.peak_bytes()
    with cluster.connect(None), mock.patch.object(graph, "make_counter", make_measured):
        for tick in graph.run(work, Resources(), codec=ours.StubCodec):
            launch._count(progress, tick)
            if progress.shards:
                marks.append((time.perf_counter(), scale.core_s(), progress.shards))
        messages, counter_s = ray.get(MADE[0].measured.remote())
        crowd_s = measure_crowd()
    (first, computed, done), (last, computed_at_end, shards) = marks[0], marks[-1]
    said = {
        "shards": progress.shards,
        "start_s": first - begun,
        "wall_s": last - first,
        "core_s": computed_at_end - computed,
        "counted": shards - done,
        "counter_s": counter_s,
        "crowd_s": crowd_s,
        "messages": messages,
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
    shards, sent = said["shards"], said["messages"]
    kinds = ", ".join(f"{name} {sent[name] / shards:.2f}" for name in sorted(sent) if sent[name])
    each, crowd = said["counter_s"] / shards, said["crowd_s"]
    print(f"counter: {sum(sent.values()) / shards:.2f} messages a shard ({kinds})")
    print(
        f"of its process {1e3 * each:.2f} ms of a core a shard as they came, {1e3 * crowd:.2f} ms "
        f"where {READERS} readers talk at once, so at most {1 / crowd:,.0f} shards/s"
    )


if __name__ == "__main__":
    main()
