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

from tests.benchmarks.records import note
from vqpipe import schema
from vqpipe.codec.codec import Codec
from vqpipe.codec.config import CodecConfig
from vqpipe.codec.weights import Weights
from vqpipe.stages.audit import Audit
from vqpipe.stages.encode import Encoding

CHECKPOINT = Path(__file__).parents[2] / "infra" / "demo" / "checkpoint"
SHARE, FACTOR = 0.001, 4
"""Of images looked at, and pixels a code along a side."""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", help="others are compared with float32 too")
    parser.add_argument("--side", type=int, default=64, help="of the images, in pixels")
    parser.add_argument("--rows", type=int, default=1000, help="images of the shard")
    parser.add_argument("--tiny", action="store_true", help="sizes that say nothing of speed")
    options = parser.parse_args()
    if options.tiny:
        options.side, options.rows, options.rounds = 16, 4, 1
    side, table = options.side, make_rows(options.rows, options.side)
    weights, watch = Weights.load(str(CHECKPOINT)), Stopwatch()
    Audit.pick, Audit.look = watch.timed(Audit.pick), watch.timed_to_the_end(Audit.look)
    codes = schema.codes_field(weights.description.layout_of(side, side))
    ready = Encoding(codes, CodecConfig(dtype=options.dtype), (side, side), SHARE).prepare(
        lambda how, size: Codec(weights, how, device=options.device, batch_size=size)
    )
    one_round(ready, table, watch)  # what is done once, such as to choose kernels
    shares = [one_round(ready, table, watch) for _ in range(options.rounds)]
    looked = len(table) - ready.run(table, lambda _: None)["psnr_db"].null_count
    shown = ", ".join(f"{share:.3%}" for share in shares)
    print(
        f"{options.device}, {options.dtype}: {looked} of {len(table)} images looked at, for {shown}"
    )
    print(f"of the time of encoding; median {statistics.median(shares):.3%}")
    name = f"audit, {side} px, {options.dtype}"
    note(name, statistics.median(shares), "of the time of encoding", looked=looked)


def make_rows(count, side):
    """Returns a shard's worth of opened rows, and its first image with them."""
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, side * side * 3, np.uint8).tobytes() for _ in range(count)]
    view = {"view": 0, "flip": False, "pixels_height": side, "pixels_width": side}
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

    def timed_to_the_end(self, begin):
        """Also times what `begin` returns, which waits for what was begun."""
        begin = self.timed(begin)
        return lambda *args: self.timed(begin(*args))


def one_round(ready, table, watch):
    """Returns the time of the audit by that of all else."""
    watch.seconds, started = 0.0, time.perf_counter()
    ready.run(table, lambda _: None)
    return watch.seconds / (time.perf_counter() - started - watch.seconds)


if __name__ == "__main__":
    main()
