"""MAGVITv2 as Show-o and MMaDA have it: no codebook, a bit for the sign of each latent.

Names and arithmetic of showlab/Show-o (`models/modeling_magvitv2.py`). A code is the signs of the
latents as bits, the first latent's the highest. The nearest of all vectors of +1 and -1 has the
same signs, so these are the codebook, in the order of the bits. Its decoder has other widths than
its encoder, and both have levels with fewer blocks than others: blocks that do nothing fill them.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vqpipe.errors import CheckpointError
from vqpipe.tokenizers.architecture import architecture_of
from vqpipe.tokenizers.family import Family, Network, Part
from vqpipe.tokenizers.naming import COMPVIS, Naming, idle_blocks
from vqpipe.tokenizers.taming import to_vq_model
from vqpipe.vqgan.model import expected_state

NAMING = Naming(
    {
        **COMPVIS,
        ".quant_conv.": ".encoder.quant_conv.",
        ".post_quant_conv.": ".decoder.post_quant_conv.",
        ".quantize.embedding.weight": ".quantize.embedding",
    }
)
CODEBOOK = "quantize.embedding"


def convert(part: Part) -> Network:
    """Return the same as a VQModel whose codebook has all signs."""
    config = architecture_of(part.state, NAMING, part.source)
    fill = idle_blocks(part.state, NAMING.by_theirs(expected_state(config)))
    network = to_vq_model(part, config, NAMING, fill)
    if not torch.equal(part.state[CODEBOOK].float(), signs(config.embed_dim)):
        raise CheckpointError(
            f"{part.source}: {CODEBOOK} is not the table of all signs in the order of their bits; "
            "this is no MAGVITv2 as Show-o has it, or the file is damaged"
        )
    did = f"{config.embed_dim} signs made a codebook; blocks that do nothing added to short levels"
    return Network(network.name, network.config, network.state, (did,))


def signs(bits: int) -> Tensor:
    """Return (2^bits, bits): +1 where a row's number has the bit set, else -1; high bits first."""
    places = torch.arange(bits - 1, -1, -1)
    return (torch.arange(2**bits)[:, None] >> places & 1).float() * 2 - 1


def _is_named(config: Mapping[str, Any]) -> bool:
    return config.get("_class_name") == "MAGVITv2"


FAMILY = Family(
    name="magvit",
    models="MAGVITv2 of Show-o and MMaDA",
    signs=("encoder.quant_conv.weight", "decoder.post_quant_conv.weight", CODEBOOK),
    is_named=_is_named,
    convert=convert,
    pixel_range="signed",
    leftovers=("quantize.power_vals",),
)
