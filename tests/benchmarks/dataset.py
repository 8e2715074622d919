"""Rows/s that a trainer's process gets of codes, beside other readers of the same codes.

    python -m tests.benchmarks.dataset [--rounds 3] [--most-s 8] [--folder DIR]

A million rows of 256 codes in a hundred shards, shuffled, as (256, 256) int64 tensors. Sides take
turns, each in a process of its own, a round at a time; imports are not counted, nor what comes
behind the last batch. `cold` is a process whose reader's cache is empty: all of an epoch with
opening, where a pass was cut at --most-s seconds at the rate until then. `warm` is the next one.
The kernel's cache of files is as it is. What a reader cannot read as it is was converted before,
for which the time is said. Rates a second of core time say what a process takes where others are
at work too.
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import psutil

from tests.benchmarks import machine, records
from tests.benchmarks.readers import peers
from tests.benchmarks.readers.codes import codes_of, files_of, hashes_of
from tests.benchmarks.readers.made import make_sink
from tests.storage.servers import AWS, serve_moto
from vqpipe import storage

SIDES = {
    "ours": "vqpipe.CodesDataset",
    "hf": "datasets, streaming",
    "lit": "LitData, its chunks",
    "lit_parquet": "LitData, Parquet",
    "mds": "MosaicML streaming, MDS",
    "hf_table": "datasets, a table on the disk",
    "floor": "numpy.memmap and a permutation",
}
PEERS = ("hf", "lit", "lit_parquet", "mds")
"""Streaming readers, which ours is held against."""
_ROWS, _TIMEOUT_S = 10**6, 1800


def run(side, **asked):
    """Returns what a process found that had one reader to measure."""
    own = os.pathsep.join([*peers.path_of(side), *(path for path in sys.path if path)])
    quiet = {"PYTHONPATH": own, "DISABLE_VERSION_CHECK": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.readers.run", json.dumps({"side": side} | asked)],
        env={**os.environ, **quiet},
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
    )
    if done.returncode:
        raise RuntimeError(f"{side}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


class Bench:
    """A folder, and what is measured in it."""

    def __init__(self, folder, most_s):
        self.folder, self.most_s = folder, most_s

    def prepare(self, sink):
        """Has each side write what it reads, and look at what it then gives; returns who can."""
        hashes = self.folder / "hashes.npy"
        np.save(hashes, np.sort(np.concatenate([hashes_of(codes_of(p)) for p in files_of(sink)])))
        able = []
        for side, name in SIDES.items():
            try:
                took = self._prepare(side, sink, hashes)
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                print(f"{name}: not measured: {error}", flush=True)
                continue
            print(f"{name}: converted in {took:.0f} s; its rows are those of the sink", flush=True)
            able.append(side)
        return able

    def _prepare(self, side, sink, hashes):
        place = self.folder / side
        _remove(place)
        how = {"place": str(place), "cache": str(self._cache(side)), "sink": str(sink)}
        took = run(side, does="prepare", **how)["seconds"]
        _remove(self._cache(side))
        run(side, does="check", workers=0, hashes=str(hashes), **how)
        return took

    def _cache(self, side):
        return self.folder / "cache" / side

    def measure(self, side, place=None, *, cold=False, epochs=1, rows=10**6, workers=0, **more):
        """Returns what opening took, and the figures of epochs."""
        if cold:
            _remove(self._cache(side))
        most_s = 10**6 if cold and side == "ours" else self.most_s
        where = {"place": str(place or self.folder / side), "cache": str(self._cache(side))}
        how = {"epochs": epochs, "rows": rows, "workers": workers, "most_s": most_s}
        return run(side, does="measure", **where, **how, options=more)

    def round(self, sides):
        """Returns figures of each side, cold and then warm."""
        found = {}
        for side in sides:
            cold = self.measure(side, cold=True)
            warm = self.measure(side, epochs=2)
            found[side] = _figures(cold, warm)
            print(f"  {SIDES[side]}: {_in_words(found[side])}", flush=True)
        return found

    def round_of_workers(self, sides, workers=2):
        """Returns rates with workers, whose readers' cache is warm."""
        rates = {}
        for side in sides:
            rates[side] = self.measure(side, workers=workers)["epochs"][0]["rate"]
            print(f"  {workers} workers, {SIDES[side]}: {rates[side]:,.0f} rows/s", flush=True)
        return rates


def _remove(place):
    if place.is_symlink():
        place.unlink()
    shutil.rmtree(place, ignore_errors=True)


def _figures(cold, warm):
    (of_cold,), of_warm = cold["epochs"], warm["epochs"]
    return {
        "warm": statistics.median(each["rate"] for each in of_warm),
        "core": statistics.median(each["core_rate"] for each in of_warm),
        "warm_first": warm["opened"] + of_warm[0]["first"],
        "cold": _ROWS / (cold["opened"] + _ROWS / of_cold["rate"]),
        "cold_first": cold["opened"] + of_cold["first"],
        "memory": [each["memory"] for each in of_warm],
    }


def _in_words(found):
    return (
        f"warm {found['warm']:,.0f} rows/s, {found['core']:,.0f} a second of core time, first "
        f"batch {found['warm_first']:.2f} s; cold {found['cold']:,.0f} rows/s, first batch "
        f"{found['cold_first']:.2f} s"
    )


def report(rounds):
    """Prints a table of medians and ranges, and the ratios of ours to the best of its peers."""
    heads = "warm, rows/s", "a second of core time", "first batch, s", "cold, rows/s"
    print(f"\n| reader | {' | '.join(heads)} | first batch, s |\n|---|---|---|---|---|---|")
    for side in rounds[0]:
        cells = [_cell([each[side][name] for each in rounds], name) for name in _COLUMNS]
        print(f"| {SIDES[side]} | {' | '.join(cells)} |")
        for name in _COLUMNS:
            values = [each[side][name] for each in rounds]
            unit = "s" if name.endswith("first") else "rows/s"
            records.note(f"{side} {name}", statistics.median(values), unit, rounds=values)
    for name in ("warm", "core", "cold"):
        _report_ratios(name, [{side: each[side][name] for side in each} for each in rounds])
    _report_memory(rounds[-1])


_COLUMNS = ("warm", "core", "warm_first", "cold", "cold_first")


def _cell(values, name):
    form = "{:.2f}" if name.endswith("first") else "{:,.0f}"
    shown = [form.format(each) for each in (statistics.median(values), min(values), max(values))]
    return "{} ({} to {})".format(*shown)


def _report_ratios(name, rounds):
    """Prints ours as a multiple of the best of its peers, round by round."""
    ratios = [each["ours"] / max(each[side] for side in PEERS if side in each) for each in rounds]
    listed, middle = ", ".join(f"{ratio:.2f}" for ratio in ratios), statistics.median(ratios)
    print(f"ours / best streaming peer, {name}: median {middle:.2f} of {listed}")
    records.note(f"ours / best peer {name}", middle, "1", rounds=ratios)


def _report_memory(found):
    print(
        "\nMB of private memory after 10, 50 and 100 % of each epoch (or where a pass was cut); in"
    )
    print("brackets what of it is not pages of files")
    for side, figures in found.items():
        epochs = [
            ", ".join(f"{uss / 10**6:.0f} ({own / 10**6:.0f})" for uss, own in each)
            for each in figures["memory"]
        ]
        print(f"| {SIDES[side]} | {' | '.join(epochs)} |")


def measure_shapes(bench, rounds):
    """Prints rates of ours of other columns, shapes and orders."""
    print("\n| ours | warm, rows/s | a second of core time | first batch, s |\n|---|---|---|---|")
    for name, (place, rows, options) in _cases(bench).items():
        bench.measure("ours", place, cold=True, rows=rows, **options)
        found = [bench.measure("ours", place, rows=rows, **options) for _ in range(rounds)]
        passes = [each["epochs"][0] for each in found]
        rate = _cell([each["rate"] for each in passes], "rate")
        core = _cell([each["core_rate"] for each in passes], "rate")
        first = statistics.median(
            o["opened"] + e["first"] for o, e in zip(found, passes, strict=True)
        )
        print(f"| {name} | {rate} | {core} | {first:.2f} |", flush=True)


def _cases(bench):
    plain = make_sink(bench.folder, "plain")
    views, grids = make_sink(bench.folder, "views"), make_sink(bench.folder, "grids")
    kept = ["codes", "label", "caption"]
    return {
        "codes": (plain, 10**6, {}),
        "codes, batches of 64": (plain, 10**6, {"batch_size": 64}),
        "codes, batches of 1,024": (plain, 10**6, {"batch_size": 1024}),
        "codes as they are stored (uint16)": (plain, 10**6, {"dtype": "stored"}),
        "codes and label": (plain, 10**6, {"columns": ["codes", "label"]}),
        "codes, label, caption": (plain, 10**6, {"columns": kept}),
        "a window of 100,000": (plain, 10**6, {"window": 100_000}),
        "not shuffled": (plain, 10**6, {"shuffle": False}),
        "20 views, one an epoch": (views, 50_000, {}),
        "20 views, each by itself": (views, 10**6, {"views": "all"}),
        "three grids of 240 and 256 codes": (grids, 200_000, {}),
        "goes on in the middle of an epoch": (plain, 10**6, {"seen": 499_968}),
        "codes, 2 workers": (plain, 10**6, {"workers": 2}),
        "codes as they are stored, 2 workers": (plain, 10**6, {"workers": 2, "dtype": "stored"}),
    }


def measure_memory(bench, epochs=5):
    """Prints the private memory of ours over some epochs."""
    found = bench.measure("ours", make_sink(bench.folder, "plain"), epochs=epochs)
    _report_memory({"ours": {"memory": [each["memory"] for each in found["epochs"]]}})


def measure_first_batches(bench):
    """Prints what it takes until the first batch is there, of a cold reader."""
    plain = make_sink(bench.folder, "plain")
    for window in (None, 200_000, 50_000, 10_000):
        found = bench.measure("ours", plain, cold=True, window=window)
        first, rate = found["epochs"][0]["first"], found["epochs"][0]["rate"]
        took = f"open {found['opened']:.2f} s, first batch {first:.2f} s more"
        print(f"cold, window {window}: {took}, all at {rate:,.0f} rows/s", flush=True)


def measure_many_shards(bench):
    """Prints what opening and reading take of 10,000 shards."""
    many = make_sink(bench.folder, "many")
    snapshot = bench.folder / "many.snapshot.parquet"
    snapshot.unlink(missing_ok=True)
    for name, cold in (("cold", True), ("warm, by a snapshot that was kept", False)):
        found = bench.measure("ours", many, cold=cold, rows=10**5, snapshot=str(snapshot))
        first, rate = found["epochs"][0]["first"], found["epochs"][0]["rate"]
        took = f"open {found['opened']:.2f} s, first batch {first:.2f} s more"
        print(f"10,000 shards of 10 rows, {name}: {took}, all at {rate:,.0f} rows/s", flush=True)


def measure_s3(bench, rounds):
    """Prints what a cold and a warm reader of a bucket take, of 100,000 rows in 20 shards."""
    stored = make_sink(bench.folder, "stored")
    with serve_moto(bench.folder / "moto.log") as endpoint, _environment(endpoint):
        _upload(stored, endpoint)
        for _ in range(rounds):
            cold = bench.measure("ours", "s3://codes/stored", cold=True, rows=10**5)
            warm = bench.measure("ours", "s3://codes/stored", rows=10**5)
            for name, each in (("cold", cold), ("warm", warm)):
                took = each["opened"] + each["epochs"][0]["seconds"]
                first = each["opened"] + each["epochs"][0]["first"]
                print(f"S3 (moto on the same cores), {name}: first batch {first:.2f} s, ", end="")
                print(f"all of an epoch {10**5 / took:,.0f} rows/s with opening", flush=True)


@contextlib.contextmanager
def _environment(endpoint):
    before = dict(os.environ)
    os.environ.update(AWS | {"AWS_ENDPOINT_URL": endpoint})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _upload(sink, endpoint):
    import boto3

    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="codes")
    for path in sorted(sink.rglob("*")):
        if path.is_file():
            storage.publish(f"s3://codes/stored/{path.relative_to(sink)}", path.read_bytes())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--most-s", type=float, default=8.0, help="of an epoch, but ours when cold")
    parser.add_argument("--folder", help="where sinks are made, and stay; else they are removed")
    parser.add_argument("--only", choices=["sides", "workers", "ours"], action="append")
    options = parser.parse_args()
    wanted = options.only or ["sides", "workers", "ours"]
    with tempfile.TemporaryDirectory(prefix="vqbench") as made:
        _measure(Bench(Path(options.folder or made).resolve(), options.most_s), options, wanted)


def _measure(bench, options, wanted):
    print(f"{machine.in_words()}; load {psutil.getloadavg()[0]:.1f} at the start", flush=True)
    for peer, said in peers.install().items():
        print(f"{peer}: not installed: {said}")
    if {"sides", "workers"} & set(wanted):
        able = bench.prepare(make_sink(bench.folder, "plain"))
    if "sides" in wanted:
        report([_said(number, bench.round(able)) for number in range(options.rounds)])
    if "workers" in wanted:
        some = [side for side in able if side != "floor"]
        _report_workers([bench.round_of_workers(some) for _ in range(options.rounds)])
    if "ours" in wanted:
        measure_shapes(bench, options.rounds)
        measure_memory(bench)
        measure_first_batches(bench)
        measure_many_shards(bench)
        measure_s3(bench, options.rounds)
    print(f"load {psutil.getloadavg()[0]:.1f} at the end")


def _said(number, found):
    print(f"round {number + 1}, load {psutil.getloadavg()[0]:.1f}", flush=True)
    return found


def _report_workers(rounds):
    print("\n| reader | with 2 workers, rows/s |\n|---|---|")
    for side in rounds[0]:
        print(f"| {SIDES[side]} | {_cell([each[side] for each in rounds], 'rate')} |")
    _report_ratios("2 workers", rounds)


if __name__ == "__main__":
    main()
