"""What several views of an image cost against as many runs, and several shapes against squares.

    python -m tests.benchmarks.views [--rounds 5]

    views    processor time to open photos: all views of a recipe at once, against one view
    shapes   opening and codec on this CPU: squares of 128 px, and buckets of as many pixels, of
             the same photos in turns; both by the pixel, since buckets have a few fewer
    padding  rows that a GPU would be given for nothing, of all, where images are spread evenly over
             all shapes, the worst case: arithmetic on the batches that the codec would launch

Photos are the packaged ones, as JPEGs of quality 90. Medians; ratios are taken within a round.
"""

import argparse
import math
import statistics
import time

import numpy as np
from infra.demo.photos import PACKAGED, open_photo

from tests.makers import encoded
from tests.shell import CHECKPOINT
from vqpipe.codec.codec import Codec
from vqpipe.codec.config import CodecConfig, batch_size_for
from vqpipe.codec.weights import Weights
from vqpipe.images import Preprocess, square, views_of
from vqpipe.images.shapes import parse_buckets

RECIPES = {
    "ten-crop, ADM": {"kinds": ("ten-crop:1.1",), "resize": "adm"},
    "llamagen, 20 views": {"kinds": ("ten-crop:1.1", "ten-crop:1.05"), "resize": "adm"},
    "ten-crop, one step": {"kinds": ("ten-crop:1.1",)},
    "4m, ten random resized": {"kinds": ("random-resized:10",), "resize": "crop-first"},
}
TABLE = 1024
"""Images that a codec on a GPU is given at a time where shapes are several."""


def photos():
    """Returns the packaged photos as JPEGs."""
    return [encoded(open_photo(name), "JPEG", quality=90) for name in PACKAGED]


def opening_s(images, how):
    """Returns seconds of processor time to open images."""
    started = time.process_time()
    for image in images:
        assert isinstance(views_of(image, how), tuple)
    return time.process_time() - started


def measure_views(images, rounds):
    """Prints what all views of a recipe cost, against one view of the same resize."""
    for name, said in RECIPES.items():
        how = Preprocess(square(256), **said)
        one = Preprocess(square(256), resize=how.resize)
        pairs = [(opening_s(images, how), opening_s(images, one)) for _ in range(rounds)]
        ratio = statistics.median(all_s / one_s for all_s, one_s in pairs)
        print(f"{name}: {ratio:.2f} of one view's time, {how.views} runs would be {how.views}.00")


def measure_shapes(images, rounds):
    """Prints images/s of buckets by those of squares, for each pixel alike."""
    codec = Codec(Weights.load(str(CHECKPOINT)), CodecConfig())
    sides = {"squares": square(128), "buckets": parse_buckets(("128",), 16)}
    ratios = []
    for _ in range(rounds):
        spent = {}
        for name, shapes in sides.items():
            started, pixels = time.process_time(), 0
            for image in images:
                (view,) = views_of(image, Preprocess(shapes))
                codec.encode(view.pixels[np.newaxis])
                pixels += math.prod(view.size)
            spent[name] = (time.process_time() - started) / pixels
        ratios.append(spent["squares"] / spent["buckets"])
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    said = f"{statistics.median(ratios):.2f} of the squares' pixels a second ({spread})"
    print(f"buckets of {len(sides['buckets'])} shapes: {said}")


def count_padding():
    """Prints the share of rows that are padding, by arithmetic."""
    for shapes in (5, 13, 40, 63):
        size = batch_size_for("cuda", shapes)
        drawn = np.random.default_rng(0).multinomial(TABLE, np.full(shapes, 1 / shapes), 200)
        mean = (np.ceil(drawn / size) * size).sum(1).mean()
        print(f"{shapes} shapes, batches of {size}: {1 - TABLE / mean:.1%} padding")


def main():
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    images = photos()
    measure_views(images, rounds)
    measure_shapes(images, rounds)
    count_padding()


if __name__ == "__main__":
    main()
