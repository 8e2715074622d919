"""The codebook, between encoder and decoder: latents to nearest entries, codes back to vectors."""

import torch
from torch import Tensor, nn

from vqpipe.vqgan.nearest import find_nearest

Lookup = tuple[None, None, Tensor]
"""Perplexity and one-hot encodings, which diffusers no longer computes, then the codes."""


class VectorQuantizer(nn.Module):
    """Nearest-neighbour quantizer with the constructor, state dict and results of diffusers 0.42's.

    Args:
        n_e: Codebook size.
        vq_embed_dim: Length of a codebook vector, C.
        beta: Weight of the lesser term of the loss.
        remap: Only None: codes mean codebook entries, renumbering them is refused.
        sane_index_shape: Whether `forward` returns its codes as (B, h, w) instead of (B * h * w,).
        legacy: Whether beta weighs the codebook term, as in published checkpoints, or the
            commitment term.
    """

    def __init__(
        self,
        n_e: int,
        vq_embed_dim: int,
        beta: float,
        remap: None = None,
        *,
        sane_index_shape: bool = False,
        legacy: bool = True,
    ) -> None:
        super().__init__()
        if remap is not None:
            raise ValueError(f"remap is {remap!r}; it must be None")
        self.n_e, self.vq_embed_dim, self.beta = n_e, vq_embed_dim, beta
        self.sane_index_shape, self.legacy = sane_index_shape, legacy
        self.embedding = nn.Embedding(n_e, vq_embed_dim)
        nn.init.uniform_(self.embedding.weight, -1.0 / n_e, 1.0 / n_e)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Lookup]:
        """Return quantized (B, C, h, w), straight-through; the scalar loss; and the look-up.

        Args:
            z: Latents (B, C, h, w), floating.
        """
        z = z.permute(0, 2, 3, 1).contiguous()  # (B, h, w, C)
        codes = find_nearest(
            z.reshape(-1, self.vq_embed_dim), self.embedding.weight
        )  # (B * h * w,)
        z_q = self.embedding(codes).reshape(z.shape)  # (B, h, w, C)
        loss = self._measure_loss(z, z_q)
        z_q = z + (z_q - z).detach()
        if self.sane_index_shape:
            codes = codes.reshape(z.shape[:3])
        return z_q.permute(0, 3, 1, 2).contiguous(), loss, (None, None, codes)

    def _measure_loss(self, z: Tensor, z_q: Tensor) -> Tensor:
        """Return codebook plus commitment loss (https://arxiv.org/abs/1711.00937, equation 3)."""
        commitment = torch.mean((z_q.detach() - z) ** 2)
        codebook = torch.mean((z_q - z.detach()) ** 2)
        return (
            commitment + self.beta * codebook if self.legacy else self.beta * commitment + codebook
        )

    def get_codebook_entry(
        self, indices: Tensor, shape: tuple[int, int, int, int] | None = None
    ) -> Tensor:
        """Return quantized (B, C, h, w) for shape (B, h, w, C), or a vector per code without one.

        Args:
            indices: Codes of any shape, int32 or int64, in [0, n_e).
            shape: (B, h, w, C), or None.
        """
        z_q = self.embedding(indices)  # (*indices.shape, C)
        return z_q if shape is None else z_q.view(shape).permute(0, 3, 1, 2).contiguous()
