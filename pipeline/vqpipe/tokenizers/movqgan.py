"""MoVQGAN of SBER, which Lumina-mGPT 2.0 takes: CompVis' encoder, and a decoder with spatial norms.

Names and arithmetic of ai-forever/MoVQGAN (`movqgan/models/vqgan.py`, class `MOVQ`, and
`movqgan/modules/vqvae/movq_modules.py`). diffusers has the network as its VQModel with spatial
norms; Kandinsky's `movq` is one in its names.
"""

from vqpipe.tokenizers.architecture import architecture_of
from vqpipe.tokenizers.averages import Rule
from vqpipe.tokenizers.ddconfig import check_remap, find_model
from vqpipe.tokenizers.family import Family, Network, Part
from vqpipe.tokenizers.taming import NAMING, SIGNS, names_target, to_vq_model

TARGET = "movqgan.models.vqgan.MOVQ"
PARTS = ("encoder", "decoder", "quantize", "quant_conv", "post_quant_conv")
"""Modules, each of which has running averages of its own."""


def convert(part: Part) -> Network:
    """Return the same as a VQModel: names alone are others."""
    model = find_model(part.config) if part.config else None
    if model:
        check_remap(model.params, part.config_source)
    return to_vq_model(part, architecture_of(part.state, NAMING, part.source), NAMING)


FAMILY = Family(
    name="movqgan",
    models="SBER's MoVQGAN, Lumina-mGPT 2.0",
    signs=(*SIGNS, "decoder.mid.block_1.norm1.conv_y.weight"),
    is_named=lambda config: names_target({TARGET}, config),
    convert=convert,
    pixel_range="signed",
    leftovers=("loss.", "colorize"),
    holders={f"{name}.": f"ema_{name}." for name in PARTS},
    rule=Rule("raw", "its own loader takes (`get_movqgan_model`)"),
)
