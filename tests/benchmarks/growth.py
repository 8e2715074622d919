"""Whether ten times the images cost ten times as much, and no more memory.

    python -m tests.benchmarks.growth [--images 4000 40000]

Images/s in steady state, and the most memory of all processes together, pages that several share
counted once, of the graph with a stub (`peers/ours.py`).
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from tests.benchmarks import sides
from tests.benchmarks.tars import build_tars


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs=2, default=[4_000, 40_000])
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="vqgrowth"))
    try:
        for images in options.images:
            build_tars(root / str(images), images, images // 250)
        for _ in range(options.rounds):
            few, many = (
                sides.run("ours", root / str(images), root / "sink", looks_at_memory=True)
                for images in options.images
            )
            for images, done in zip(options.images, (few, many), strict=True):
                print(f"{images:,} images: {done.rate:,.0f} images/s, {done.peak / 1e6:,.0f} MB")
            print(f"images/s {many.rate / few.rate:.2f}, memory {many.peak / few.peak:.2f}")
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
