"""mosaicml-streaming's own reader and writer of MDS, without the rest of that library.

Importing the library imports transformers and torchvision; what reads and writes files needs none
of it. Its packages are made here, without running what stands in their `__init__`.
"""

import contextlib
import importlib
import sys
import types
from importlib.util import find_spec

import pytest


@contextlib.contextmanager
def streaming():
    """Returns the modules that read and write MDS, within a block."""
    spec = find_spec("streaming")
    if spec is None:
        pytest.skip("mosaicml-streaming is installed by `make test` alone")
    root = spec.submodule_search_locations[0]
    packages = {"streaming": root, "streaming.base": f"{root}/base"}
    packages["streaming.base.format"] = f"{root}/base/format"
    try:
        for name, path in packages.items():
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].__path__ = [path]
        yield (
            importlib.import_module("streaming.base.format.mds.reader").MDSReader,
            importlib.import_module("streaming.base.format.mds.writer").MDSWriter,
        )
    finally:
        for name in [each for each in sys.modules if each.partition(".")[0] == "streaming"]:
            del sys.modules[name]
