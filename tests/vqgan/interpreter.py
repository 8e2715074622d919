"""Triton's interpreter, which runs kernels on a CPU, and where it does not."""

import importlib.util
import os
import subprocess
import sys
from importlib.metadata import version

import pytest
import torch


def _is_older(package, *than):
    return tuple(map(int, version(package).split(".")[:2])) < than


needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="needs triton, which has no build for here"
)
takes_this_numpy = pytest.mark.skipif(
    importlib.util.find_spec("triton") is not None
    and _is_older("triton", 3, 7)
    and not _is_older("numpy", 2, 5),
    reason="the interpreter of triton before 3.7 makes loop bounds of arrays, as numpy 2.5 refuses",
)


def run_interpreted(script, cases, folder):
    """Returns what a script saves in a file, given one of cases; both are named to it."""
    torch.save(cases, folder / "cases.pt")
    command = [sys.executable, "-c", script, folder / "cases.pt", folder / "found.pt"]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment)
    return torch.load(folder / "found.pt", weights_only=True)
