"""Time to open an image, by format and size, against the same in a few lines of Pillow.

    python -m tests.benchmarks.opening [--rounds 9] [--side 256]
    python -m tests.benchmarks.opening --codes

    plain   Pillow as a script has it: open, orientation, RGB, resize of the centred square, array
    ours    `open_image`, with all that it looks at besides
    draft   the same with `Preprocess.draft`, of JPEGs that it decodes at a part of their size

Milliseconds of processor time in one thread, medians; sides take turns, and ratios are taken within
a turn. The photo of sklearn's china.jpg, mirrored side by side until it is as large.

With `--codes` it is what drafts do to codes instead: of the demo's checkpoint in float32, packaged
photos as JPEGs of quality 90, where a draft changes any pixel at all. For scale, the exact view is
encoded once more after it was a JPEG of quality 95 with all of its colours.
"""

import argparse
import functools
import io
import statistics
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from infra.demo.photos import PACKAGED, open_photo
from PIL import Image, ImageOps

from tests.makers import encoded
from vqpipe.codec.codec import Codec
from vqpipe.codec.config import CodecConfig
from vqpipe.codec.weights import Weights
from vqpipe.images import Preprocess, open_image, square
from vqpipe.metrics import psnr

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
CHECKPOINT = Path(__file__).parents[2] / "infra" / "demo" / "checkpoint"
CODE_SIDES = (64, 128, 256)
"""Of views whose codes are compared, in pixels; packaged photos are too small for more."""
LABELS = (
    "codes unlike those of the exact view, %",
    "the same of the exact view saved as a JPEG of quality 95, %",
    "PSNR of the draft against the exact view, dB",
    "PSNR of what the exact view's codes decode to, dB",
    "PSNR of what the draft's codes decode to, dB",
)


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


def compare_codes():
    how = CodecConfig(dtype="float32", pixel_range="signed")
    codec = Codec(Weights.load(str(CHECKPOINT)), how, threads=1)
    print("| px | photos | figure | mean (range) |")
    for side in CODE_SIDES:
        compare_codes_at(side, codec)


def compare_codes_at(side, codec):
    """Prints how codes of drafts differ, and how near what they decode to is to the exact view."""
    how, found = Preprocess(square(side)), []
    for name in PACKAGED:
        data = encoded(open_photo(name), "JPEG", quality=90)
        exact, draft = (open_image(data, each).pixels for each in (how, replace(how, draft=True)))
        if not np.array_equal(exact, draft):
            found.append(effect_of(exact, draft, codec))
    for label, *figures in zip(LABELS, *found, strict=True):
        mean, scope = statistics.mean(figures), f"{min(figures):.2f} to {max(figures):.2f}"
        print(f"| {side} | {len(figures)} | {label} | {mean:.2f} ({scope}) |", flush=True)


def effect_of(exact, draft, codec):
    """Returns the figures of `LABELS`, of views (H, W, 3)."""
    file = encoded(exact, "JPEG", quality=95, subsampling=0)
    views = np.stack([exact, draft, np.asarray(Image.open(io.BytesIO(file)))])
    codes, _ = codec.encode(views)
    decoded, _ = codec.decode(codes[:2])
    unlike = [100 * float(np.mean(codes[0] != other)) for other in codes[1:]]
    return *unlike, psnr(draft, exact), *(psnr(each, exact) for each in decoded)


def compare_times(side, rounds):
    """Prints the table of the times."""
    how = Preprocess(square(side))
    print("| format | size | kB | plain, ms | ours, ms (/ plain) | draft, ms (/ ours) |")
    for name, (kind, more) in FORMATS.items():
        for width, height in SIZES:
            if width > LARGEST.get(name, width):
                continue
            data = encoded(photo_of(width, height), kind, **more)
            times = measure(sides_of(data, how), rounds)
            head = f"| {name} | {width}x{height} | {len(data) / 1000:,.0f}"
            print(f"{head} | {describe(times)} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--codes", action="store_true", help="what drafts do to codes")
    options = parser.parse_args()
    if options.codes:
        compare_codes()
    else:
        compare_times(options.side, options.rounds)


if __name__ == "__main__":
    main()
