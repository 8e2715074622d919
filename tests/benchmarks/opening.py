"""Time to open an image, by format and size, against the same in a few lines of Pillow.

    python -m tests.benchmarks.opening [--rounds 9] [--side 256]

    plain   Pillow as a script has it: open, orientation, RGB, resize of the centred square, array
    ours    `open_image`, with all that it looks at besides
    draft   the same with `Preprocess.draft`, of JPEGs that it decodes at a part of their size

Milliseconds of processor time in one thread, medians; sides take turns, and ratios are taken within
a turn. The photo of sklearn's china.jpg, mirrored side by side until it is as large.
"""

import argparse
import functools
import io
import statistics
import time
from dataclasses import replace

import numpy as np
from infra.demo.photos import open_photo
from PIL import Image, ImageOps

from tests.makers import encoded
from vqpipe.images import Preprocess, open_image, square

SIZES = ((500, 375), (1024, 768), (2000, 1500), (4000, 3000))
FORMATS = {
    "JPEG": ("JPEG", {"quality": 90}),
    "progressive JPEG": ("JPEG", {"quality": 90, "progressive": True}),
    "PNG": ("PNG", {}),
    "WebP": ("WEBP", {"quality": 90}),
}
LARGEST = {"PNG": 2000, "WebP": 2000}
"""Widths above which a format is not measured: such photos are JPEGs."""
ROUND_S = 0.05
"""Processor time of a side's turn, at least."""


def photo_of(width, height):
    """Returns an array (height, width, 3) of a photo, mirrored where it begins anew."""
    photo = np.asarray(open_photo("china"))
    rows, columns = (_mirrored(*each) for each in zip((height, width), photo.shape, strict=False))
    return photo[rows[:, None], columns]


def _mirrored(length, of):
    at = np.arange(length) % (2 * of)
    return np.minimum(at, 2 * of - 1 - at)


def open_plainly(data, side):
    with Image.open(io.BytesIO(data)) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    short = min(upright.size)
    left, top = (upright.width - short) // 2, (upright.height - short) // 2
    box = (left, top, left + short, top + short)
    return np.asarray(upright.resize((side, side), Image.Resampling.BICUBIC, box=box))


def seconds_of(function):
    """Returns the processor time of a call, of as many as take a while."""
    calls, started = 0, time.thread_time()
    while (spent := time.thread_time() - started) < ROUND_S:
        function()
        calls += 1
    return spent / calls


def measure(sides, rounds):
    """Returns the times of each side, by name, in turns."""
    for function in sides.values():
        function()
    turns = [{name: seconds_of(each) for name, each in sides.items()} for _ in range(rounds)]
    return {name: [turn[name] for turn in turns] for name in sides}


def sides_of(data, how):
    """Returns what is measured of an image, by name; drafts only where they change something."""
    sides = {
        "plain": functools.partial(open_plainly, data, how.size[0]),
        "ours": functools.partial(open_image, data, how),
        "draft": functools.partial(open_image, data, replace(how, draft=True)),
    }
    plain, ours, draft = sides["plain"](), sides["ours"]().pixels, sides["draft"]().pixels
    assert np.array_equal(plain, ours)
    if np.array_equal(ours, draft):
        del sides["draft"]
    return sides


def describe(times):
    """Returns a row of a table: medians, and in brackets the median ratio to the side before."""
    cells, before = [], None
    for found in times.values():
        median = f"{1000 * statistics.median(found):.2f}"
        ratios = [mine / theirs for mine, theirs in zip(found, before or found, strict=True)]
        cells.append(f"{median} ({statistics.median(ratios):.2f})" if before else median)
        before = found
    return " | ".join([*cells, *["-"] * (3 - len(cells))])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--side", type=int, default=256)
    options = parser.parse_args()
    how = Preprocess(square(options.side))
    print("| format | size | kB | plain, ms | ours, ms (/ plain) | draft, ms (/ ours) |")
    for name, (kind, more) in FORMATS.items():
        for width, height in SIZES:
            if width > LARGEST.get(name, width):
                continue
            data = encoded(photo_of(width, height), kind, **more)
            times = measure(sides_of(data, how), options.rounds)
            head = f"| {name} | {width}x{height} | {len(data) / 1000:,.0f}"
            print(f"{head} | {describe(times)} |", flush=True)


if __name__ == "__main__":
    main()
