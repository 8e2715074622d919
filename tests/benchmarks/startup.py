"""What a short run costs: 16 images, from the prompt to the prompt.

    python -m tests.benchmarks.startup [--rounds 5]

`vqpipe encode` and the smallest Ray Data program with the same operators (`peers/smallest.py`), in
turns; and of ours, what comes behind the last commit: Ray's end, and the summary.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.tars import build_tars

CHECKPOINT = Path(__file__).parents[2] / "infra" / "demo" / "checkpoint"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    root = Path(tempfile.mkdtemp(prefix="vqstart"))
    try:
        source = build_tars(root / "source", 16, 2)
        found = [measure(source, root / "sink") for _ in range(rounds)]
    finally:
        shutil.rmtree(root, ignore_errors=True)
    for ours, others, after in found:
        print(f"vqpipe {ours:.1f} s, Ray Data {others:.1f} s, after the last commit {after:.1f} s")
    ratio = statistics.median(ours / others for ours, others, _ in found)
    share = statistics.median(after / ours for ours, _, after in found)
    print(f"\nvqpipe / smallest Ray Data program: {ratio:.2f}; behind the last commit: {share:.0%}")


def measure(source, sink):
    """Returns seconds of ours, of the smallest program, and of ours behind the last commit."""
    options = ("--source", source, "--sink", sink, "--model", CHECKPOINT, "--resolution", "64")
    ours = timed([sys.executable, "-m", "vqpipe", "encode", *map(str, options)])
    after = time.time() - max(path.stat().st_mtime for path in (sink / "data").rglob("*.parquet"))
    shutil.rmtree(sink)
    others = timed([sys.executable, "-m", "tests.benchmarks.peers.smallest", source, sink])
    shutil.rmtree(sink)
    return ours, others, after


def timed(command):
    """Returns the seconds that a command takes."""
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
