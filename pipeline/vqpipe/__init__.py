"""Image datasets to discrete VQ codes and back, with nothing lost and nothing twice.

    vqpipe.encode, .decode, .evaluate, .compact    commands as functions; each returns a Result
    vqpipe.plan                                    what a run would take, as a dictionary
    vqpipe.CodesDataset, .CodesLoader              codes in batches, for a trainer
    vqpipe.VQModel                                 the network alone, as diffusers has it

Each is imported when it is asked for: `import vqpipe` takes neither torch nor Ray. All but
the two for a trainer need what the extra `pipeline` installs.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vqpipe.commands.functions import compact, decode, encode, evaluate, plan
    from vqpipe.commands.result import Result
    from vqpipe.dataset.dataset import CodesDataset
    from vqpipe.dataset.loader import CodesLoader
    from vqpipe.vqgan import VQModel

    __version__: str

__all__ = [
    "CodesDataset",
    "CodesLoader",
    "Result",
    "VQModel",
    "__version__",
    "compact",
    "decode",
    "encode",
    "evaluate",
    "plan",
]

_HOMES = {
    "CodesDataset": "vqpipe.dataset.dataset",
    "CodesLoader": "vqpipe.dataset.loader",
    "Result": "vqpipe.commands.result",
    "VQModel": "vqpipe.vqgan",
    "compact": "vqpipe.commands.functions",
    "decode": "vqpipe.commands.functions",
    "encode": "vqpipe.commands.functions",
    "evaluate": "vqpipe.commands.functions",
    "plan": "vqpipe.commands.functions",
}
"""Where to find what is here, by name."""

if not TYPE_CHECKING:  # else every name would be there, of any type

    def __getattr__(name: str) -> object:
        if name == "__version__":
            return importlib.import_module("importlib.metadata").version("vqpipe")
        if name not in _HOMES:
            raise AttributeError(f"module 'vqpipe' has no attribute {name!r}")
        try:
            return getattr(importlib.import_module(_HOMES[name]), name)
        except ModuleNotFoundError as error:
            from vqpipe.extras import explain_missing  # noqa: PLC0415 (seldom needed)

            said = explain_missing(error, f"vqpipe.{name} needs")
            raise ModuleNotFoundError(said, name=error.name) from error


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
