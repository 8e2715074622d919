"""How long `vqpipe inspect` and `vqpipe diff` take on sinks of many shards.

    python -m tests.benchmarks.inspect [--shards 100000] [--remote 3000] [--rounds 3]

Sinks are made without images: 1,000 samples a shard and 16,384 entries, as footers count them.
Where only a share of the footers is read, only that share is made; all others would be refused.
Every time is that of a command in a process of its own, imports included (`--help` shows them).
The remote sinks are behind moto's HTTP server on the same machine, one process of Python.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.sink import sinks
from tests.storage.servers import AWS, serve_moto
from vqpipe.inspection.survey import FEW

MODEL = {"codebook_size": 16384, "grid": (16, 16)}
ROWS = 1000


def make(folder, shards, done, real, *, is_complete=False, **identity):
    """Returns a local sink of a run that has committed `done` of its shards."""
    names = [f"train/{index:06d}" for index in range(shards)]
    writer = sinks.begin(folder, names, **MODEL, **identity)
    sinks.fill(writer, done, real, ROWS)
    if is_complete:
        sinks.succeed(writer, ROWS)
    return str(folder)


def measure(arguments, rounds):
    """Returns the medians of the seconds that a command takes, and of those that it computes."""
    times = []
    for _ in range(rounds):
        started, computed = time.perf_counter(), computed_s()
        subprocess.run(
            [sys.executable, "-m", "vqpipe", *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        times.append((time.perf_counter() - started, computed_s() - computed))
    return [statistics.median(each) for each in zip(*times, strict=True)]


def computed_s():
    """Returns the core seconds of the children so far: what other work cannot lengthen."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def report(title, arguments, rounds, log=None):
    before = requests(log)
    wall, computed = measure(arguments, rounds)
    said = f", {(requests(log) - before) // rounds:,} requests" if log else ""
    print(f"{title:<50}{wall:6.1f} s, of a core {computed:6.1f} s{said}", flush=True)


def requests(log):
    """Returns how many requests the server has logged."""
    return log.read_text().count("HTTP/1.1") if log else 0


def measure_local(folder, shards, rounds):
    complete = make(folder / "complete", shards, shards, FEW, is_complete=True)
    half = make(folder / "half", shards, shards * 6 // 10, FEW, dtype="bfloat16")
    report("imports alone (--help)", ["inspect", "--help"], rounds)
    report(f"disk, {shards:,} shards, complete", ["inspect", complete], rounds)
    report(f"disk, {shards:,} shards, 60 % done", ["inspect", half], rounds)
    report("the same, --rejected", ["inspect", half, "--rejected"], rounds)
    diff = ["diff", complete, half, "--shards", "1"]
    report("diff of both, codes of 1 shard", diff, rounds)


def measure_remote(folder, shards, rounds, endpoint, log):
    import boto3

    s3 = boto3.client("s3", endpoint_url=endpoint)
    s3.create_bucket(Bucket="bench")
    for name, options in {
        "complete": {"done": shards, "real": 0, "is_complete": True},
        "half": {"done": shards, "real": shards},
    }.items():
        local = Path(make(folder / name, shards, **options))
        files = [path for path in local.rglob("*") if path.is_file()]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda path: upload(s3, folder, path), files))
    report(f"HTTP, {shards:,} shards, complete", ["inspect", "s3://bench/complete"], rounds, log)
    half = ["inspect", "s3://bench/half"]
    report(f"HTTP, {shards:,} shards, all done, no _SUCCESS", half, rounds, log)
    report("the same, --exact, as it was before", [*half, "--exact"], rounds, log)


def upload(s3, folder, path):
    s3.upload_file(str(path), "bench", str(path.relative_to(folder)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument("--remote", type=int, default=3000, help="0: no remote sinks")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure_local(Path(folder, "local"), options.shards, options.rounds)
        if options.remote:
            log, place = Path(folder, "moto.log"), Path(folder, "remote")
            with serve_moto(log) as endpoint:
                os.environ.update(AWS | {"AWS_ENDPOINT_URL": endpoint})
                measure_remote(place, options.remote, options.rounds, endpoint, log)


if __name__ == "__main__":
    main()
