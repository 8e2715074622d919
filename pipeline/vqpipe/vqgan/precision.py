"""How exactly float32 is multiplied: switches that belong to the whole process.

From torch 2.9 on each kind of product has a switch, `fp32_precision`, that takes "ieee", "tf32" or,
on a CPU, "bf16", and "none", which is what the switch above says. Whoever then asks for the old
ones, `allow_tf32`, is told that both were mixed, and by an error: so only one kind is ever touched.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import backends

Precision = Literal["ieee", "tf32"]

HAS_SWITCH_A_KIND = hasattr(backends.cuda.matmul, "fp32_precision")
"""Whether torch is 2.9 or later."""
_FULL = ("ieee", "none")
"""What a switch that nothing above speaks for may say when there is nothing to change."""


@contextmanager
def float32_products(precision: Precision) -> Iterator[None]:
    """Has products and convolutions of float32 computed in a precision, for the length of a block.

    What a switch said before, it says again afterwards. Torch begins with TF32 in convolutions
    unless a switch above them says otherwise, for which there is no word: once changed and put
    back, they stay with TF32 even when the switch above is turned later.

    Args:
        precision: "ieee" is float32; "tf32" lets a GPU, not a CPU, take mantissas of 10 bits.
    """
    if not HAS_SWITCH_A_KIND:
        with _by_old_switches(precision):
            yield
        return
    before = [(switch, switch.fp32_precision) for switch in (*_of_gpu(), *_of_cpu())]
    try:
        for switch in _of_gpu():
            _turn(switch, precision)
        for switch in _of_cpu():
            _turn(switch, "ieee")
        yield
    finally:
        for switch, said in before:
            _restore(switch, said)


def _of_gpu() -> tuple[Any, ...]:
    return backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn  # type: ignore[attr-defined]


def _of_cpu() -> tuple[Any, ...]:
    """oneDNN's, which takes bfloat16 for float32 where a process is content with "medium"."""
    return backends.mkldnn.matmul, backends.mkldnn.conv  # type: ignore[attr-defined]


def _turn(switch: Any, precision: Precision) -> None:  # noqa: ANN401 - torch's own have no type
    is_full = switch.fp32_precision in _FULL
    if not (is_full and precision == "ieee"):
        switch.fp32_precision = precision


def _restore(switch: Any, said: str) -> None:  # noqa: ANN401 - as above
    """Has a switch follow the one above it again, if that one says the same."""
    if switch.fp32_precision == said:
        return
    switch.fp32_precision = "none"
    if switch.fp32_precision != said:
        switch.fp32_precision = said


@contextmanager
def _by_old_switches(precision: Precision) -> Iterator[None]:
    """Does the same before torch 2.9; "highest" also keeps bfloat16 out of a CPU's products."""
    before = torch.get_float32_matmul_precision(), backends.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        backends.cudnn.allow_tf32 = precision == "tf32"
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        backends.cudnn.allow_tf32 = before[1]
