"""Chameleon's VQGAN, which Anole, Lumina-mGPT and Liquid take: taming's, published in two ways.

As `tokenizer/vqgan.ckpt` and `vqgan.yaml` (facebookresearch/chameleon, `chameleon/inference/
vqgan.py`), and inside a whole model in transformers' names (`models/chameleon`, `ChameleonVQVAE`),
which are the same. Of these many lack the decoder, which transformers leaves out.
"""

from vqpipe.errors import CheckpointError
from vqpipe.tokenizers import taming
from vqpipe.tokenizers.family import Family, Network, Part
from vqpipe.tokenizers.taming import SIGNS


def convert(part: Part) -> Network:
    """Return the same as a VQModel: names alone are others."""
    if not any(name.startswith("decoder.") for name in part.state):
        raise CheckpointError(
            f"{part.source} holds the tokenizer of Chameleon without its decoder, as transformers "
            "publishes it, so that nobody can see what its codes stand for; take the original "
            "release, tokenizer/vqgan.ckpt with vqgan.yaml beside it, whose codes are the same"
        )
    return taming.convert(part)


FAMILY = Family(
    name="chameleon",
    models="Chameleon, Anole, Lumina-mGPT and Liquid",
    signs=SIGNS,
    is_named=lambda config: config.get("model_type") in ("chameleon", "chameleon_vqgan"),
    same_as=("taming",),
    convert=convert,
    pixel_range="signed",
    leftovers=("loss.",),
)
