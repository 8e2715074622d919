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

        return lookup_backend("inductor")(graph, inputs)
