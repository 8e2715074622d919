"""Codecs and readers that fail, and `vqpipe` with them.

`python -m tests.endtoend.failing Codec encode ...` is such a command.

Images of one plain colour make a codec fail, members of a tar with certain names its reader.
"""

import ctypes
import functools
import importlib
import os
import sys
import time
from pathlib import Path

import numpy as np

from tests.codec.stray import write_beyond_the_end
from tests.makers import encoded
from vqpipe.codec.codec import Codec
from vqpipe.commands import cli
from vqpipe.engine import graph, pace
from vqpipe.errors import ConfigError

RAISES, KILLS = (255, 0, 0), (0, 255, 0)

_SITE = """
import ctypes
import tarfile

_extractfile = tarfile.TarFile.extractfile


def extractfile(tar, member):
    if "kills" in member.name:
        ctypes.string_at(0)
    if "raises" in member.name:
        raise LookupError(f"no way to read {member.name}")
    return _extractfile(tar, member)


tarfile.TarFile.extractfile = extractfile
"""


def plain(colour):
    """Returns a PNG of one colour, which no resize changes."""
    return encoded(np.full((64, 64, 3), colour, np.uint8), "PNG")


def write_site(folder):
    """Makes every Python whose path begins with the folder stumble over members of tars."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_SITE)
    return folder


class Sound(Codec):
    """One that works."""


class Poisoned(Codec):
    """One that some images make raise or die."""

    def encode_vectors(self, images, vectors, on_batch=lambda _: None):
        if (images == RAISES).all((1, 2, 3)).any():
            raise LookupError("no code for red")
        if (images == KILLS).all((1, 2, 3)).any():
            ctypes.string_at(0)
        return super().encode_vectors(images, vectors, on_batch)


class Slow(Poisoned):
    """One that some images make die, and whose rows go on in parts of some five."""

    def __init__(self, *args, **how):
        super().__init__(*args, **how)
        pace.HAND_ON_S = 1.0

    def encode_vectors(self, images, vectors, on_batch=lambda _: None):
        time.sleep(0.2 * len(images))
        return super().encode_vectors(images, vectors, on_batch)


class Broken(Codec):
    """One that always raises."""

    def encode_vectors(self, *_, **__):
        raise LookupError("no codes today")


class Killed(Codec):
    """One whose process always dies."""

    def encode_vectors(self, *_, **__):
        ctypes.string_at(0)


class Sick(Codec):
    """One whose device has failed."""

    def _encode_batch(self, *_, **__):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


class Astray(Codec):
    """One that loses its device once, in earnest if it is a GPU; a file says that it has."""

    def _encode_batch(self, images, vectors=()):
        try:
            Path(os.environ["VQPIPE_TEST_ASTRAY"]).touch(exist_ok=False)
        except FileExistsError:
            return super()._encode_batch(images, vectors)
        if images.is_cuda:
            write_beyond_the_end()
            return super()._encode_batch(images, vectors)
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


class NotFinite(Codec):
    """One whose latents are never finite."""

    def encode_vectors(self, images, vectors, on_batch=lambda _: None):
        codes, finite, *found = super().encode_vectors(images, vectors, on_batch)
        return codes, np.zeros_like(finite), *found


class OutOfMemory(Codec):
    """One whose machine has no memory left."""

    def encode_vectors(self, *_, **__):
        raise MemoryError("nothing left")


class Unmade(Codec):
    """One that cannot even be made."""

    def warm_up(self, *_):
        raise ConfigError("no compiler here")


def main():
    """Runs `vqpipe` with a codec of this module."""
    # Workers find classes by their module, and none of ours in `__main__`.
    codec = getattr(importlib.import_module("tests.endtoend.failing"), sys.argv[1])
    graph.run = functools.partial(graph.run, codec=codec)
    cli.run_to_end(sys.argv[2:])


if __name__ == "__main__":
    main()
