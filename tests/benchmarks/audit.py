"""What looking at one image in a thousand twice costs, as a share of what encoding takes without.

Measured where it happens: two runs beside each other differ by more than a hundredth on a machine
that others use too, whatever is done in them.

python -m tests.benchmarks.audit
"""

import argparse
import functools
import statistics
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from vqpipe import schema
from vqpipe.codec.codec import Codec
from vqpipe.codec.config import CodecConfig
from vqpipe.codec.weights import Weights
from vqpipe.stages.audit import Audit
from vqpipe.stages.encode import Encoding

CHECKPOINT = Path(__file__).parents[2] / "infra" / "demo" / "checkpoint"
SIDE, ROWS, SHARE, GRID = 64, 1000, 0.001, (16, 16)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", help="others are compared with float32 too")
    options = parser.parse_args()
    weights, table, watch = Weights.load(str(CHECKPOINT)), rows(), Stopwatch()
    Audit.pick, Audit.look = watch.timed(Audit.pick), watch.timed(Audit.look)
    codes = schema.codes_field(weights.description.codebook_size, GRID)
    ready = Encoding(codes, CodecConfig(dtype=options.dtype), (SIDE, SIDE), SHARE).prepare(
        lambda how, size: Codec(weights, how, device=options.device, batch_size=size)
    )
    one_round(ready, table, watch)  # what is done once, such as to choose kernels
    shares = [one_round(ready, table, watch) for _ in range(options.rounds)]
    looked = ROWS - ready.run(table, lambda _: None)["psnr_db"].null_count
    shown = ", ".join(f"{share:.3%}" for share in shares)
    print(f"{options.device}, {options.dtype}: {looked} of {ROWS} images looked at, for {shown}")
    print(f"of the time of encoding; median {statistics.median(shares):.3%}")


def rows():
    """Returns a shard's worth of opened rows, and its first image with them."""
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, SIDE * SIDE * 3, np.uint8).tobytes() for _ in range(ROWS)]
    view = {"view": 0, "flip": False, "pixels_height": SIDE, "pixels_width": SIDE}
    rows = [
        {"shard": 0, "row": i, "key": f"{i}", "pixels": data, **view}
        for i, data in enumerate(pixels)
    ]
    return pa.Table.from_pylist(rows, schema=schema.opened_schema(pa.schema([])))


class Stopwatch:
    """Adds up the seconds that functions take."""

    def __init__(self):
        self.seconds = 0.0

    def timed(self, function):
        @functools.wraps(function)
        def run(*args):
            started = time.perf_counter()
            try:
                return function(*args)
            finally:
                self.seconds += time.perf_counter() - started

        return run


def one_round(ready, table, watch):
    """Returns the time of the audit by that of all else."""
    watch.seconds, started = 0.0, time.perf_counter()
    ready.run(table, lambda _: None)
    return watch.seconds / (time.perf_counter() - started - watch.seconds)


if __name__ == "__main__":
    main()
