"""What looking at one image in a thousand twice costs: encoding with an audit beside without.

python -m tests.benchmarks.audit
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline import schema
from pipeline.codec import Codec, CodecConfig
from pipeline.steps import Encoding
from pipeline.weights import Weights

CHECKPOINT = Path(__file__).parents[2] / "infra" / "demo" / "checkpoint"
SIDE, ROWS, GRID = 64, 1000, (16, 16)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", help="others are compared with float32 too")
    options = parser.parse_args()
    weights, table = Weights.load(str(CHECKPOINT)), rows()
    codes = schema.codes_field(weights.config.num_vq_embeddings, GRID)
    sides = {
        share: Encoding(codes, CodecConfig(dtype=options.dtype), SIDE, share).prepare(
            lambda how, size: Codec(weights, how, device=options.device, batch_size=size)
        )
        for share in (0.0, 0.001)
    }
    one_round(sides, table)  # what is done once, such as to fault pages in
    ratios = [one_round(sides, table) for _ in range(options.rounds)]
    looked = ROWS - sides[0.001].run(table, lambda _: None)["psnr_db"].null_count
    shown = ", ".join(f"{ratio:.4f}" for ratio in ratios)
    print(f"{looked} of {ROWS} images looked at; time with / without: {shown}")
    print(f"median {statistics.median(ratios):.4f}")


def rows():
    """Returns a shard's worth of opened rows, and its first image with them."""
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, SIDE * SIDE * 3, np.uint8).tobytes() for _ in range(ROWS)]
    rows = [
        {"shard": 0, "row": i, "key": f"{i}", "view": 0, "flip": False, "pixels": data}
        for i, data in enumerate(pixels)
    ]
    return pa.Table.from_pylist(rows, schema=schema.opened_schema(pa.schema([]), SIDE))


def one_round(sides, table):
    seconds = {}
    for share, ready in sides.items():
        started = time.perf_counter()
        ready.run(table, lambda _: None)
        seconds[share] = time.perf_counter() - started
    return seconds[0.001] / seconds[0.0]


if __name__ == "__main__":
    main()
