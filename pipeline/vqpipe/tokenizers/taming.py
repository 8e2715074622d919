"""VQGANs as CompVis publishes them: taming-transformers, latent-diffusion, and Chameleon's.

A checkpoint is an autoencoder alone, or a whole latent diffusion model or transformer with the
autoencoder inside it as its first stage. Their code is the nearest entry of the codebook, as ours.
"""

from collections.abc import Mapping
from typing import Any

from vqpipe.tokenizers.architecture import architecture_of
from vqpipe.tokenizers.ddconfig import TRAINING_PARAMS, find_model, read_params
from vqpipe.tokenizers.family import Family, Network, Part
from vqpipe.tokenizers.naming import COMPVIS, Fill, Naming, rename
from vqpipe.vqgan.config import VQConfig
from vqpipe.vqgan.model import expected_state

NAMING = Naming(COMPVIS)
TARGETS = {
    "taming.models.vqgan.VQModel",
    "ldm.models.autoencoder.VQModel",
    "ldm.models.autoencoder.VQModelInterface",
}
"""Classes that this network is."""
SIGNS = (
    "encoder.mid.block_1.conv1.weight",
    "quantize.embedding.weight",
    "quant_conv.weight",
)
"""Names that all have whose network is CompVis', whatever they do with the codebook."""


def names_target(targets: set[str], config: Mapping[str, Any]) -> bool:
    """Return whether a config of CompVis' form is of one of these classes."""
    model = find_model(config)
    return model is not None and model.target in targets


def convert(part: Part) -> Network:
    """Return the same as a VQModel: names alone are others."""
    model = find_model(part.config) if part.config else None
    if model is None:
        config = architecture_of(part.state, NAMING, part.source)
    else:
        config = read_params(model.params, part.config_source, TRAINING_PARAMS)
    return to_vq_model(part, config, NAMING)


def to_vq_model(part: Part, config: VQConfig, naming: Naming, fill: Fill | None = None) -> Network:
    """Return a VQModel with these weights, checked.

    Args:
        part: The weights.
        config: Their architecture.
        naming: How they are named.
        fill: What stands for tensors that the family does without.
    """
    expected = expected_state(config)
    state = rename(part.state, naming.by_theirs(expected), expected, part.source, fill)
    return Network("VQModel", dict(config), state)


FAMILY = Family(
    name="taming",
    models="VQGANs of taming-transformers and latent-diffusion",
    signs=SIGNS,
    is_named=lambda config: names_target(TARGETS, config),
    convert=convert,
    leftovers=("loss.", "colorize"),
    holders={"": "model_ema."},
)
