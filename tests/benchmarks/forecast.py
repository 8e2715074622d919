"""How far off a forecast is: `vqpipe plan`, then the very run that it spoke of, in turns.

    python -m tests.benchmarks.forecast [--rounds 3] [--many 3000] [--sources tars parquet folder]

The demo's sources at the size of the demo, where nearly all of a run is Ray's start; and with
`--many`, so many photos at 64 px in 8 tars, where work is. Both sides are whole commands, from the
prompt to the prompt. Other work on the machine changes from minute to minute, so that each forecast
is held against the run right behind it, and the load before and after is printed with it.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from infra.demo.run import OPTIONS
from infra.demo.samples import build_sources

from tests.benchmarks import machine
from tests.benchmarks.tars import build_tars

MODEL = ("--model", str(Path(__file__).parents[2] / "infra" / "demo" / "checkpoint"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--many", type=int, default=0)
    parser.add_argument("--sources", nargs="*", default=list(OPTIONS))
    asked = parser.parse_args()
    print(machine.in_words())
    root = Path(tempfile.mkdtemp(prefix="vqcast"))
    try:
        for name, options in sources(root, asked).items():
            ratios = []
            for _ in range(asked.rounds):
                forecast_s, run_s, load = measure([*options, *MODEL], root / "sink")
                ratios.append(forecast_s / run_s)
                print(f"{name}: forecast {forecast_s:.1f} s, run {run_s:.1f} s, ", end="")
                print(f"ratio {ratios[-1]:.2f}, load {load}", flush=True)
            print(f"{name}: median ratio {statistics.median(ratios):.2f}\n", flush=True)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def sources(root, asked):
    """Returns the options of each source that is asked for."""
    built = build_sources(root / "demo")
    found = {
        name: ["--source", str(built[name]), *OPTIONS[name]]
        for name in built
        if name in asked.sources
    }
    if asked.many:
        many = build_tars(root / "many", asked.many, 8)
        found[f"{asked.many} photos"] = ["--source", str(many), "--resolution", "64"]
    return found


def compare(asked, sink):
    """Returns how many times as long as a run took the forecast before it said."""
    forecast_s, run_s, _ = measure(asked, sink)
    return forecast_s / run_s


def measure(asked, sink):
    """Returns the seconds that were forecast, those that the run took, and the load meanwhile."""
    loads = [os.getloadavg()[0]]
    said = json.loads(vqpipe("plan", *asked, "--json"))
    loads.append(os.getloadavg()[0])
    started = time.perf_counter()
    vqpipe("encode", *asked, "--sink", str(sink))
    seconds = time.perf_counter() - started
    loads.append(os.getloadavg()[0])
    shutil.rmtree(sink)
    return said["runs"][0]["wall_seconds"], seconds, " ".join(f"{each:.0f}" for each in loads)


def vqpipe(*arguments):
    """Returns what a command prints."""
    command = [sys.executable, "-m", "vqpipe", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
