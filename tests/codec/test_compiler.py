"""Compiling where every warning is an error, in a process that has compiled nothing before."""

import subprocess
import sys

import pytest

SCRIPT = """
import warnings
import torch
from vqpipe.codec.codec import _fuse

warnings.simplefilter("error")
images = torch.arange(4.0)

def assert_fused_equals(function):
    torch.testing.assert_close(_fuse(function)(images), function(images))

assert_fused_equals(lambda x: x.sin() + 1)  # imports the compiler, which warns of itself

from torch._inductor import compile_fx

def warn_and_compile(*args, compile_fx=compile_fx.compile_fx, **options):
    warnings.warn("TF32 is off")
    return compile_fx(*args, **options)

compile_fx.compile_fx = warn_and_compile
assert not getattr(compile_fx.config, "quiesce_async_compile_pool", False)  # torch 2.11 may hang
assert_fused_equals(lambda x: x.cos() + 2)
try:
    warnings.warn("ours")
except UserWarning:
    print("equal, and strict as before")
"""


@pytest.mark.slow
def test_fuse_where_warnings_are_errors_compiles_and_leaves_the_filters():
    ran = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, "equal, and strict as before\n"), ran.stderr
