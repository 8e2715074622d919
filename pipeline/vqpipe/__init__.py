"""Image datasets to discrete VQ codes and back, with nothing lost and nothing twice.

    vqpipe.encode, .decode, .evaluate, .compact    commands as functions; each returns a Result
    vqpipe.VQModel                                 the network alone, as diffusers has it

Each is imported when it is asked for: `import vqpipe` takes neither torch nor Ray.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vqpipe.commands.functions import compact, decode, encode, evaluate
    from vqpipe.commands.result import Result
    from vqpipe.vqgan import VQModel

    __version__: str

__all__ = ["Result", "VQModel", "__version__", "compact", "decode", "encode", "evaluate"]

_HOMES = {
    "Result": "vqpipe.commands.result",
    "VQModel": "vqpipe.vqgan",
    "compact": "vqpipe.commands.functions",
    "decode": "vqpipe.commands.functions",
    "encode": "vqpipe.commands.functions",
    "evaluate": "vqpipe.commands.functions",
}
"""Where to find what is here, by name."""

if not TYPE_CHECKING:  # else every name would be there, of any type

    def __getattr__(name: str) -> object:
        if name == "__version__":
            return importlib.import_module("importlib.metadata").version("vqpipe")
        if name not in _HOMES:
            raise AttributeError(f"module 'vqpipe' has no attribute {name!r}")
        return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
