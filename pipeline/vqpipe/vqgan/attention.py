"""Attention of one head: torch's fused kernels, or products of matrices where those are faster.

Flash kernels take heads of up to 256 channels; these models have one of 512, for which
`scaled_dot_product_attention` has a kernel without tensor cores' full rate: some 110 TFLOP/s on an
H100, by what is published of it. Two products of matrices run at 480, and the scores between them
cost 12 bytes each of memory's 3 to 4 TB/s (written, read, and written and read as weights of half
the size): 7 ps a score where the kernel takes 19. On older GPUs, A100s among them, the two come out
even, and torch's kernel stays. These are counts, not measurements; which form is taken follows from
shape, dtype and kind of GPU alone, so that all machines of a kind round alike, and
`tests/benchmarks/gpu/layers.py` measures both.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

FLASH_CHANNELS = 256
"""Heads of up to so many channels have flash kernels."""
SCORES_BYTES = 2**30
"""Memory of the scores that are held at once; images whose own take more go to torch's kernel."""


def can_multiply(device: torch.device) -> bool:
    """Tells whether products are the faster form on a device, and torch can compile them.

    Products of reduced precision with sums in float32 came with torch 2.8; `torch.compile` fails at
    them in 2.9.0 (pytorch/pytorch, issue 165892).
    """
    has_products = torch.__version__ >= (2, 10)  # type: ignore[operator] # a TorchVersion
    return has_products and torch.cuda.get_device_capability(device) >= (9, 0)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Returns softmax(q k^T / sqrt(C)) v, (B, 1, N, C), in the faster form where `can_multiply`.

    Args:
        q: (B, 1, N, C), floating.
        k: Likewise.
        v: Likewise.
    """
    N, C = q.shape[2:]
    is_half = q.dtype in (torch.bfloat16, torch.float16)
    if is_half and C > FLASH_CHANNELS and 4 * N * N <= SCORES_BYTES:
        return attend_by_products(q[:, 0], k[:, 0], v[:, 0])[:, None]
    return F.scaled_dot_product_attention(q, k, v)


def attend_by_products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Returns the same of (B, N, C) each, for as many images at a time as `SCORES_BYTES` allow.

    Scores and softmax are float32, as in the fused kernels; weights are rounded to q's dtype before
    the second product, as there.
    """
    count = max(1, SCORES_BYTES // (4 * q.shape[1] ** 2))
    parts = zip(*(torch.split(each, count) for each in (q, k, v)), strict=True)
    return torch.cat([_attend_at_once(*part) for part in parts])


def _attend_at_once(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    is_wide = q.dtype == torch.float32
    products = torch.bmm(q, k.mT) if is_wide else torch.bmm(q, k.mT, torch.float32)  # (B, N, N)
    weights = (products * q.shape[2] ** -0.5).softmax(dim=2)
    return torch.bmm(weights.to(v.dtype), v)
