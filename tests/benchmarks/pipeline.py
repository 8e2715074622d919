"""Throughput of the whole pipeline, against what it could be at best and what others reach.

    python -m tests.benchmarks.pipeline [--images 20000] [--rounds 5] [--picture throughput.png]

Sides (`tests.benchmarks.peers`) take turns in every round, each in processes of its own; a share is
taken within a round, and the median of all rounds counts. JPEGs of 500 x 375 to 256 px, a stub in
place of the network.

    floor     plain processes, one a core, that only read, open and resize
    openers   what workers of `vqpipe encode` do up to the codec, in plain processes, without Ray
    ours      `vqpipe encode`'s graph: from tars of 1,000 images, from one tar, and from tars on S3
    loader    a torch DataLoader as people write it
    raydata   Ray Data as its documentation shows it
    daft      Daft as its documentation shows it, if it is installed

Rates are of the steady part; beside them stands the rate over the whole time, start included.
"""

import argparse
import importlib.util
import json
import shutil
import statistics
import tarfile
import tempfile
from pathlib import Path

from tests.benchmarks import machine, sides
from tests.benchmarks.picture import draw
from tests.benchmarks.tars import build_tars
from tests.storage.servers import AWS, serve_rclone

IMAGES_A_TAR = 1_000


def main():
    options = parse_options()
    root = Path(tempfile.mkdtemp(prefix="vqbench"))
    try:
        with serve_rclone(build_sources(root, options.images)) as endpoint:
            rounds = [measure_round(root, endpoint, options.sides) for _ in range(options.rounds)]
    finally:
        shutil.rmtree(root, ignore_errors=True)
    shares = {side: [row[side].rate / row["floor"].rate for row in rounds] for side in rounds[0]}
    for side, found in shares.items():
        report(side, found, [row[side] for row in rounds])
    said = {"images": options.images, "machine": machine.facts(), "shares": shares}
    print(
        json.dumps(said | {"rates": {side: [row[side].rate for row in rounds] for side in shares}})
    )
    if options.picture:
        draw(options.picture, shares, machine.in_words())


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sides", nargs="+", default=all_sides(), choices=all_sides())
    parser.add_argument("--picture", help="PNG to draw")
    return parser.parse_args()


def all_sides():
    """Returns the names of the sides; the floor comes first in every round."""
    found = ["floor", "openers", "ours", "ours, one tar", "ours, from S3", "loader", "raydata"]
    return [*found, "daft"] if importlib.util.find_spec("daft") else found


def build_sources(root, images):
    """Returns a folder with the images in many tars, in one, and in files, and a tenth of them."""
    folder = root / "sources"
    build_tars(folder / "many", images, max(1, images // IMAGES_A_TAR))
    build_tars(folder / "one", images, 1)
    build_tars(folder / "few", max(1, images // 10), 8)
    with tarfile.open(folder / "one" / "000.tar") as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", None)  # before 3.11.4 there is none
        tar.extractall(folder / "files")
    return folder


def measure_round(root, endpoint, asked):
    """Returns what each side did, by its name."""
    folder = root / "sources"
    s3 = {**AWS, "AWS_ENDPOINT_URL": endpoint}
    places = {
        "floor": ("floor", folder / "many", {}),
        "openers": ("openers", folder / "many", {}),
        "ours": ("ours", folder / "many", {}),
        "ours, one tar": ("ours", folder / "one", {}),
        "ours, from S3": ("ours", "s3://many/", s3),
        "loader": ("loader", folder / "many", {}),
        "raydata": ("raydata", folder / "few", {}),  # it would take all day
        "daft": ("daft", folder / "files", {}),
    }
    row = {}
    for name in ["floor", *(each for each in asked if each != "floor")]:
        side, source, environment = places[name]
        row[name] = sides.run(side, source, root / "sink", environment)
        print(f"{name}: {row[name].rate:,.0f} images/s", end="  ", flush=True)
    print()
    return row


def report(side, shares, done):
    """Prints one side's shares of the floor, and what it did."""
    whole = statistics.median(each.images / each.total_s for each in done)
    rate = statistics.median(each.rate for each in done)
    listed = ", ".join(f"{share:.2f}" for share in shares)
    print(
        f"{side:14} {statistics.median(shares):.2f} of the floor ({listed}); {rate:,.0f} images/s, "
        f"{whole:,.0f} with the start"
    )


if __name__ == "__main__":
    main()
