"""How many images a program has done, and when: a file that all of its processes add lines to."""

import os
import time
from itertools import accumulate
from pathlib import Path

FILE = "VQPIPE_CURVE"
"""Name in the environment of the file."""
STEADY = 0.3, 0.9
"""Between which shares of the images the rate is taken: past the start of all workers, which goes
on for some ten seconds, and before the last shards run dry."""


def note(images):
    """Notes that so many images more are done; a line is written at once or not at all."""
    line = f"{time.time():.4f} {images}\n".encode()
    file = os.open(os.environ[FILE], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line)
    os.close(file)


def read(path):
    """Returns the moments and the images done by then, in order."""
    lines = sorted(tuple(map(float, line.split())) for line in Path(path).read_text().splitlines())
    moments, counts = zip(*lines, strict=True)
    return list(zip(moments, accumulate(counts), strict=True))


def rate(points):
    """Returns images per second of the steady part."""
    total = points[-1][1]
    steady = [(at, n) for at, n in points if STEADY[0] * total <= n <= STEADY[1] * total]
    (begin, before), (end, after) = steady[0], steady[-1]
    return (after - before) / (end - begin)
