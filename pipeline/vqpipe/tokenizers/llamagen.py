"""LlamaGen's VQ-8 and VQ-16, which Janus and Janus-Pro took over: cosine instead of distance.

Names and arithmetic of FoundationVision/LlamaGen (`tokenizer/tokenizer_image/vq_model.py`), which
deepseek-ai/Janus has letter for letter (`janus/models/vq_model.py`). Latents and entries are
brought to length 1 before they are compared, and the decoder gets entries of length 1. Where the
entries have it to begin with,

    |z - e|^2 = |z|^2 + 1 - 2 z e

puts them in the order of z e, which is that of the cosine, however long z is.
"""

import torch.nn.functional as F
from torch import Tensor

from vqpipe.tokenizers.architecture import architecture_of
from vqpipe.tokenizers.family import Family, Network, Part
from vqpipe.tokenizers.naming import COMPVIS, Naming
from vqpipe.tokenizers.taming import to_vq_model

CODEBOOK = "quantize.embedding.weight"

NAMING = Naming(
    COMPVIS
    | {
        ".mid_block.resnets.0.": ".mid.0.",
        ".mid_block.attentions.0.": ".mid.1.",
        ".mid_block.resnets.1.": ".mid.2.",
        ".down_blocks.": ".conv_blocks.",
        ".up_blocks.": ".conv_blocks.",
        ".resnets.": ".res.",
    },
    is_finest_first=False,
)
NORMALISED = "entries of the codebook brought to length 1: cosine made distance"


def normalise(codebook: Tensor) -> Tensor:
    """Return entries (K, C) of length 1, float32 whatever they are stored as."""
    return F.normalize(codebook.double(), dim=1).float()


def convert(part: Part, naming: Naming = NAMING) -> Network:
    """Return the same as a VQModel whose codebook has entries of length 1."""
    config = architecture_of(part.state, naming, part.source)
    network = to_vq_model(part, config, naming)
    state = {**network.state, CODEBOOK: normalise(network.state[CODEBOOK])}
    return Network(network.name, network.config, state, (NORMALISED,))


FAMILY = Family(
    name="llamagen",
    models="LlamaGen's VQ-8 and VQ-16, Janus and Janus-Pro",
    signs=("encoder.conv_blocks.0.res.0.conv1.weight", CODEBOOK, "quant_conv.weight"),
    is_named=lambda config: config.get("model_type") == "multi_modality",
    convert=convert,
    pixel_range="signed",
    leftovers=("quantize.codebook_used",),
)
