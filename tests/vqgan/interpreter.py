"""Triton's interpreter, which runs kernels on a CPU, and where it does not."""

import importlib.util
from importlib.metadata import version

import pytest


def _is_older(package, *than):
    return tuple(map(int, version(package).split(".")[:2])) < than


takes_this_numpy = pytest.mark.skipif(
    importlib.util.find_spec("triton") is not None
    and _is_older("triton", 3, 7)
    and not _is_older("numpy", 2, 5),
    reason="the interpreter of triton before 3.7 makes loop bounds of arrays, as numpy 2.5 refuses",
)
