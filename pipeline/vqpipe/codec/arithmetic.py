"""What the names of types mean to torch: of a network, of what goes in, of what comes out."""

import contextlib

import numpy as np
import torch
from torch import Tensor

from vqpipe.codec.config import DType
from vqpipe.vector_layout import VectorDType
from vqpipe.vqgan.precision import float32_products

NETWORK_DTYPE = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""Of weights and activations, by how a run computes."""
HOST_DTYPE: dict[type, torch.dtype] = {
    np.uint8: torch.uint8,
    np.int64: torch.int64,
    np.float32: torch.float32,
}
"""Of what comes from the host."""


def round_to(vectors: Tensor, dtype: VectorDType) -> Tensor:
    """Returns float32 numbers in another type, row by row; of bfloat16, its bits as uint16."""
    found = vectors.to(getattr(torch, dtype)).contiguous()
    return found.view(torch.uint16) if dtype == "bfloat16" else found


def arithmetic(dtype: DType) -> contextlib.AbstractContextManager[None]:
    """Allows or forbids TF32 for the length of a block."""
    return float32_products("tf32" if dtype == "tf32" else "ieee")
