"""What a driver takes at 10^5 and 10^6 shards: seconds and memory of each thing that it does.

    python -m tests.benchmarks.scale [--shards 100000 1000000] [--only plan_of sha256 ...]

Each step runs in a process of its own, after what it needs has been made; its peak of memory is
that of the process, with what it had before the step beside it. Nothing is stored that nobody
reads. *list* and *list_shards* ask an HTTP server on this machine, which makes up the pages of
S3's ListObjectsV2, by the client that a run has. Steps of a sink are given a listing at the level
of `storage.list_files`, and footers as they are when they have been read; what reading one takes is
measured by itself (*footers*), over HTTP as well.
"""

import argparse
import contextlib
import functools
import json
import os
import pickle
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa

from tests.benchmarks import machine, many
from tests.sink.runs import facts_of_codes, facts_of_kept, make_run
from tests.storage.ports import free_port
from tests.storage.servers import AWS
from vqpipe import schema, storage
from vqpipe.code_layout import CodeLayout
from vqpipe.engine.portions import portions
from vqpipe.engine.tasks import todo_rows as rows_of
from vqpipe.schema import File
from vqpipe.sink import subtotals, success, todo, totals
from vqpipe.sink.counted import COUNTED, digest_of
from vqpipe.sink.footer import HISTOGRAM, Footer, pack_histogram
from vqpipe.sink.footer import ORIGIN as ORIGIN_KEY
from vqpipe.sink.growth import Growth
from vqpipe.sink.objects import pack_object
from vqpipe.sink.plan import Plan
from vqpipe.sink.plan_file import parse_plan
from vqpipe.sink.ranges import Staged
from vqpipe.sink.run import Opened
from vqpipe.sink.sums import SUMS
from vqpipe.sink.writer import Writer
from vqpipe.sources import list_shards as find_shards
from vqpipe.stages.encode import CodesProduct

CODES = CodeLayout.grid(16, 16, 16_384)
DONE = 0.99
"""Share of the shards that a resume finds committed."""
FOOTERS = 500
"""That are read over HTTP."""


def peak_bytes(process="self"):
    """Returns the most memory that a process had, 0 of one that is gone.

    `getrusage` counts what its parent had too.
    """
    try:
        said = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    return int(said.partition("VmHWM:")[2].split()[0]) * 1024 if "VmHWM" in said else 0


def core_s():
    """Returns the core seconds that this process has taken."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class Bench:
    """What steps are given: so many shards, a folder, and what has been made of them."""

    def __init__(self, shards, folder):
        self.shards, self.folder = shards, Path(folder)

    @property
    def plan_file(self):
        return self.folder / "plan.parquet"

    @functools.cached_property
    def plan(self):
        return parse_plan("plan", self.plan_file.read_bytes())

    @functools.cached_property
    def sink(self):
        facts = facts_of_codes(CODES) | facts_of_kept(pa.schema([]))
        return Opened(many.SINK, make_run(plan_sha256="0" * 64, facts=facts), self.plan)

    @property
    def writer(self):
        kept = pa.schema([])
        return Writer(self.sink, CodesProduct(kept, schema.codes_field(CODES), CODES))

    def listed(self, share=1.0, parts=()):
        """Returns what stands in for `storage.list_files` of a sink with so much done."""
        done = int(self.shards * share)

        def list_files(uri, **_):
            if uri == f"{many.SINK}/totals":
                return list(parts)
            return [many.data(i) for i in range(done)] if uri == f"{many.SINK}/data" else []

        return mock.patch.object(storage, "list_files", list_files)

    def make_parts(self, read_footer):
        """Writes what workers would of all objects; returns the files."""
        folder = self.folder / "totals"
        folder.mkdir(exist_ok=True)

        def publish(uri, data):
            (folder / uri.rpartition("/")[2]).write_bytes(data)

        with mock.patch.object(storage, "publish", publish):
            self.publish_parts(read_footer)
        return [File(str(path), path.stat().st_size, "1") for path in sorted(folder.iterdir())]

    def publish_parts(self, read_footer):
        """Puts the sums of workers into the sink."""
        for first in range(0, self.shards, totals.PART):
            part = self._part(range(first, min(first + totals.PART, self.shards)), read_footer)
            subtotals.publish_part(self.sink, part)

    def _part(self, indices, read_footer):
        """Returns the sums over some objects, as if each had been added, but for the time of it."""
        one, count = totals.begin_totals(self.sink.run), len(indices)
        files = [many.data(index) for index in indices]
        one.add(read_footer(files[0]), files[0])
        row = one.counted.table.to_pylist()[0]
        columns = {name: pa.repeat(row[name], count) for name in COUNTED.names if row[name]}
        columns |= {
            "name": [many.name(index) for index in indices],
            "size": [file.size for file in files],
            "version": [file.version for file in files],
            "source_uri": [many.tar(index).uri for index in indices],
            "source_size": [many.size(index) for index in indices],
            "source_version": [many.version(index) for index in indices],
            "digest": [digest_of(read_footer(file)) for file in files],
            "generation": [0] * count,
            "revision": [0] * count,
        }
        columns |= {
            n: pa.nulls(count, COUNTED.field(n).type) for n in set(COUNTED.names) - columns.keys()
        }
        table = pa.table({n: columns[n] for n in COUNTED.names}, schema=COUNTED)
        part = totals.begin_totals(self.sink.run)
        for name in SUMS:
            setattr(part, name, getattr(one, name) * count)
        part.objects = sum(map(int.from_bytes, columns["digest"])) % 2**256
        part.histogram = one.histogram * count
        part.reasons = Counter({reason: each * count for reason, each in one.reasons.items()})
        part.counted.extend(table)
        return part

    def stored(self, index):
        """Makes an object that can be read over HTTP; returns it as it is listed."""
        histogram = np.random.default_rng(index).poisson(15, CODES.codebook_size)
        tar = many.tar(index)
        source = {"uri": tar.uri, "size": tar.size, "version": tar.version}
        said = {"fingerprint": self.sink.run.fingerprint, "shard": many.name(index)}
        footer = {
            ORIGIN_KEY: json.dumps(ORIGIN | said | {"source": source}),
            HISTOGRAM: pack_histogram(histogram),
        }
        data = pack_object(pa.table({"codes": np.zeros(1)}), footer)
        path = self.folder / "run" / "data" / f"{many.name(index)}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return File(f"{many.SINK}/data/{many.name(index)}.parquet", len(data), "1")


def list_files(_):
    """The source, listed by S3's client: a page of a thousand a request."""
    return lambda: storage.list_files(many.SOURCE)


def list_shards(_):
    """The same with all that makes shards of files."""
    return lambda: find_shards(many.SOURCE)


def plan_of(bench):
    """The plan of listed shards."""
    shards = [many.shard(i) for i in range(bench.shards)]
    return lambda: Plan.of(shards)


def sha256(bench):
    """Its digest."""
    return bench.plan.sha256


def to_bytes(bench):
    """The plan as a file."""
    return bench.plan.to_bytes


def load(bench):
    """The plan read from memory."""
    data = bench.plan_file.read_bytes()
    return lambda: parse_plan("plan", data)


def grow(bench):
    """What a resume does: the plan held against a listing that is the same."""
    listed = parse_plan("plan", bench.plan_file.read_bytes())
    return lambda: bench.plan.grow(listed, Growth(), "sink")


def unfinished(bench):
    """What is left of a sink of which 99 % are done, two listings included."""
    with_listing, sink = bench.listed(DONE), bench.sink

    def run():
        with with_listing:
            assert len(todo.unfinished(sink)) == bench.shards - int(bench.shards * DONE)

    return run


def todo_rows(bench):
    """Shards dealt out to tasks of Ray, nothing being done yet."""
    left = {index: Staged() for index in range(bench.shards)}
    sizes = bench.plan.table["size"].to_numpy()[list(left)].tolist()
    return lambda: rows_of(left, portions(sizes, 16_000))


def pack_writer(bench):
    """What every worker is given, put together once."""
    writer = bench.writer
    return lambda: pickle.dumps(writer, protocol=5)


def take_writer(bench):
    """What each task does with it: unpacked, the name of one shard."""
    kept = []
    data = pickle.dumps(bench.writer, protocol=5, buffer_callback=kept.append)
    return lambda: pickle.loads(data, buffers=kept).sink.plan.shard(7)


ORIGIN = {
    "generation": 0,
    "revision": 0,
    "seen": 1000,
    "good": 998,
    "rejected": 2,
    "reasons": {"corrupt": 2},
    "rejected_images": 2,
    "damage": None,
    "passed_over": 0,
    "kept_nulls": {},
    "audited": 1,
    "flips": 0,
    "psnr_images": 1,
    "psnr_db_sum": 27.5,
    "examples": {},
    "rejections": "ab" * 32,
    "rejections_bytes": 900,
}
"""Of a shard of a thousand images."""


def _made_up(bench):
    """Returns what stands in for `read_footer`: what one says, without reading anything."""
    origin = ORIGIN | {"fingerprint": bench.sink.run.fingerprint}
    histogram = np.random.default_rng(0).poisson(15, CODES.codebook_size)
    first, last = -len(".parquet") - 7, -len(".parquet")

    def read_footer(file):
        tar = many.tar(int(file.uri[first:last]))
        source = {"uri": tar.uri, "size": tar.size, "version": tar.version}
        name = tar.uri.removeprefix(f"{many.SOURCE}/").removesuffix(".tar")
        return Footer(origin | {"shard": name, "source": source}, histogram)

    return read_footer


def read_totals(bench):
    """The sink added up from footers that have been read already, all shards with a rejection."""
    sink, footers = bench.sink, mock.patch.object(totals, "read_footer", _made_up(bench))

    def run():
        with bench.listed(), footers:
            assert totals.read_totals(sink).shards == bench.shards

    return run


def read_parts(bench):
    """The same where workers have added up all but a part of it; parts are read from a disk.

    With that all that `_SUCCESS` takes after it: two listings, the plan read and held three times.
    """
    sink, read_footer = bench.sink, _made_up(bench)
    files = bench.make_parts(read_footer)
    stored = {file.uri: Path(file.uri) for file in files}
    plan = bench.plan_file.read_bytes()
    lists = bench.listed(parts=files[:-1])
    written = {}
    verbs = {
        "read": lambda uri: (
            stored[uri].read_bytes() if uri in stored else _read(written, uri, plan)
        ),
        "stat": lambda uri: _stat(written, uri),
        "publish": lambda uri, data: written.setdefault(uri, data) is data,
        "replace": written.__setitem__,
        "delete": lambda uri: written.pop(uri, None),
    }

    def run():
        with contextlib.ExitStack() as stack:
            stack.enter_context(lists)
            for name, verb in verbs.items():
                stack.enter_context(mock.patch.object(storage, name, verb))
            stack.enter_context(mock.patch.object(totals, "read_footer", read_footer))
            stack.enter_context(mock.patch.object(success, "settle_asides", _do_nothing))
            found = totals.read_totals(sink)
            assert found.shards == bench.shards
            success.write_summary(sink, found, {})
            success.mark_success(sink, found)

    return run


def _do_nothing(*_):
    """Stands in for a call whose arguments a mock would keep."""


def _read(written, uri, plan):
    if uri.endswith("/plan.parquet"):
        return plan
    if uri not in written:
        raise FileNotFoundError(uri)
    return written[uri]


def _stat(written, uri):
    if uri not in written:
        raise FileNotFoundError(uri)
    return File(uri, len(written[uri]), "1")


def footers(bench):
    """Of a sink over HTTP, read by the threads of one process: five hundred of them."""
    files = list(map(bench.stored, range(FOOTERS)))
    return lambda: totals.read_totals(bench.sink, files)


STEPS = {
    each.__name__: each
    for each in (
        list_files,
        list_shards,
        plan_of,
        sha256,
        to_bytes,
        load,
        grow,
        unfinished,
        todo_rows,
        pack_writer,
        take_writer,
        read_totals,
        read_parts,
        footers,
    )
}


def measure(step, shards, folder):
    """Runs a step in this process; prints what it took as JSON."""
    run = STEPS[step](Bench(shards, folder))
    before, started, computed = peak_bytes(), time.perf_counter(), core_s()
    found = run()
    wall, computed = time.perf_counter() - started, core_s() - computed
    size = len(found) if isinstance(found, bytes) else None
    said = {"wall_s": wall, "core_s": computed, "before": before, "peak": peak_bytes()}
    json.dump(said | {"bytes": size}, sys.stdout)


def make(bench):
    """Makes the plan that other steps begin with."""
    bench.plan_file.write_bytes(Plan.of(map(many.shard, range(bench.shards))).to_bytes())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shards", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--only", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--child", nargs=3, metavar=("STEP", "SHARDS", "FOLDER"))
    options = parser.parse_args()
    if options.child:
        step, shards, folder = options.child
        measure(step, int(shards), folder)
        return
    print(machine.in_words())
    for shards in options.shards:
        report(shards, options.only)


def report(shards, steps):
    """Prints a line for each step."""
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        os.environ.update(AWS | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"})
        make(Bench(shards, folder))
        print(f"{shards:,} shards, plan of {Path(folder, 'plan.parquet').stat().st_size:,} bytes")
        with many.serve(shards, folder, port):
            for step in steps:
                command = [sys.executable, "-m", "tests.benchmarks.scale", "--child"]
                done = subprocess.run(
                    [*command, step, str(shards), folder],
                    capture_output=True,
                    text=True,
                    check=False,
                )
                if done.returncode:
                    print(f"{step:<16} failed: {done.stderr[-300:]}", flush=True)
                    continue
                said = json.loads(done.stdout)
                size = f", {said['bytes']:,} bytes" if said["bytes"] else ""
                print(
                    f"{step:<16}{said['wall_s']:8.2f} s, of a core {said['core_s']:8.2f} s, memory "
                    f"{said['peak'] / 1e6:6,.0f} MB, {said['before'] / 1e6:6,.0f} before{size}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
