"""The forms of a network's layers that only inference in one graph on CUDA has.

A network is made of torch's own operators, and stays so on a CPU, in training and where kernels run
one by one. `fuse` is for one that is about to be compiled for inference on CUDA: norms with their
activation become kernels of ours, and attention products of matrices. Each is the same function,
and differs from the plain form by rounding only.
"""

import functools
import importlib.util
import logging

import torch
from torch import nn

from vqpipe.vqgan.attention import can_multiply
from vqpipe.vqgan.group_norm import Form, normalise
from vqpipe.vqgan.layers import Attention, GroupNorm, SpatialNorm

logger = logging.getLogger(__name__)


def fuse(network: nn.Module) -> None:
    """Has layers take their fast forms, each where it can be had; changes nothing off CUDA.

    With gradients on, they are as before. What the network looks like from outside, its state-dict
    keys among it, does not change.

    Args:
        network: On its device, in its dtype and channels-last.
    """
    device = next(network.parameters()).device
    if device.type != "cuda":
        return
    with torch.cuda.device(device), torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, GroupNorm | SpatialNorm):
                layer.form = _choose_form(layer, device)
            elif isinstance(layer, Attention):
                layer.multiplies = can_multiply(device)


def _choose_form(layer: GroupNorm | SpatialNorm, device: torch.device) -> Form:
    is_spatial = isinstance(layer, SpatialNorm)
    norm = layer.norm_layer if isinstance(layer, SpatialNorm) else layer
    shape = (norm.num_channels, norm.num_groups)
    return "kernel" if _try_kernels(device, norm.weight.dtype, shape, is_spatial) else "by_channel"


@functools.cache
def _try_kernels(
    device: torch.device, dtype: torch.dtype, shape: tuple[int, int], is_spatial: bool
) -> bool:
    """Tells whether our kernels run for norms of these channels and groups, tried on zeros.

    The very kernels that the network will run are compiled here, since what a GPU or a version of
    torch or triton lacks for them is told by errors of many kinds, and after this nothing catches
    them.
    """
    if importlib.util.find_spec("triton") is None:
        return False
    try:
        return _run_kernels(
            nn.GroupNorm(shape[1], shape[0], device=device, dtype=dtype), is_spatial
        )
    except Exception as error:
        if isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error):
            raise  # says nothing of the kernels, whether torch or triton says it
        logger.warning("norms work without their fused kernels, more slowly: %s", error)
        return False


def _run_kernels(norm: nn.GroupNorm, is_spatial: bool) -> bool:
    """Runs all kernels of a norm, if there are any for its channels, and tells that."""
    from vqpipe.vqgan.group_norm_triton import suits  # noqa: PLC0415 - needs triton, takes long

    if not suits(norm.num_channels):
        return False
    x = norm.weight.new_zeros(1, norm.num_channels, 1, 32)
    for activation in (nn.SiLU(), nn.Identity()):
        for before in (None, norm.bias):
            normalise(x, norm, activation, before, (x, x) if is_spatial else None)
    return True
