"""torch's compiler, as the codec has it make kernels."""

import warnings
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.fx import GraphModule

Compiled = Callable[..., Any]
"""A graph as one function, its kernels made."""


def inductor(graph: GraphModule, inputs: list[Tensor]) -> Compiled:
    """Returns the graph compiled; a backend of `torch.compile`, by the name of torch's own.

    Importing Inductor warns of torch's own code (2.11 to 2.13: `torch.jit.script_method`), and
    compiling for float32 warns that TF32 is off, as it has to be. Where a program or pytest makes
    errors of warnings, both would end the compilation, and look as if there were no compiler.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch._dynamo import lookup_backend  # noqa: PLC0415 (takes a second)

        _keep_workers_awake()
        return lookup_backend("inductor")(graph, inputs)


def _keep_workers_awake() -> None:
    """Has processes that compile kernels stay, and not end a minute after they were last needed.

    From torch 2.9 on they do, and in 2.11 a process where new ones took their place hangs for five
    minutes when it ends (https://github.com/pytorch/pytorch/issues/176968, mended in later ones).
    """
    from torch._inductor import config  # noqa: PLC0415

    if hasattr(config, "quiesce_async_compile_pool"):
        config.quiesce_async_compile_pool = False
