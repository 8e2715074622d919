"""IBQ: CompVis' network with the entry of the largest inner product, not of the least distance.

Of TencentARC/SEED-Voken (`src/IBQ/models/ibqgan.py`, `src/IBQ/modules/vqvae/quantize.py`, class
`IndexPropagationQuantize`) and of Emu3.5 (`src/vision_tokenizer/ibq.py`), with 1,024 to 262,144
entries. It becomes distance by more channels in the codebook, of which latents have zeros:

    |(z, 0) - (e, x)|^2 = |z|^2 + |e|^2 + x^2 - 2 z e,

so that with x^2 = M^2 - |e|^2, where M is the length of the longest entry, only z e differs between
entries. The root is rounded to float32, and what that leaves, up to 2^-22 M^2, outweighs some close
decisions: of 4,096 latents among 65,536 random entries one got another code. So it is rounded down,
and a second channel has the root of the rest.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vqpipe.tokenizers.architecture import architecture_of
from vqpipe.tokenizers.averages import Rule
from vqpipe.tokenizers.ddconfig import TRAINING_PARAMS, Model, find_model, read_params
from vqpipe.tokenizers.family import Family, Network, Part
from vqpipe.tokenizers.taming import NAMING, SIGNS, to_vq_model
from vqpipe.vqgan.config import VQConfig

TARGET = "src.IBQ.models.ibqgan.IBQ"
"""The class, where a config names it."""
OF_ENTROPY = {
    "use_entropy_loss",
    "entropy_temperature",
    "sample_minimization_weight",
    "batch_maximization_weight",
}
"""Arguments that only this quantiser has, all of its training."""
IGNORED = (
    TRAINING_PARAMS
    | OF_ENTROPY
    | {
        "beta",
        "cosine_similarity",  # kept and never read, `IndexPropagationQuantize.forward`
        "gradient_clip_val",
        "l2_normalize",  # never reaches the quantiser, `IBQ.__init__`
        "lr_drop_epoch",
        "lr_drop_iter",
        "lr_drop_rate",
        "max_iter",
        "min_learning_rate",
        "resume_lr",
        "sche_type",
        "scheduler_type",
        "stage",
        "use_shared_epoch",
        "warmup_epochs",
        "wp",
        "wp0",
        "wp_iter",
        "wpe",
    }
)
"""Arguments that do not change what a trained model computes."""

ADDED = 2
"""Channels that the codebook gains."""


def is_named(config: Mapping[str, Any]) -> bool:
    """Return whether a config is of SEED-Voken's class, or Emu3.5's list of its arguments.

    Beside the weights on the hub lies one that says nothing but a name.
    """
    if config.get("Name") == ["IBQ"]:
        return True
    model = find_model(config)
    if model is None:
        return False
    return model.target == TARGET or (not model.target and bool(OF_ENTROPY & set(model.params)))


def convert(part: Part) -> Network:
    """Return the same as a VQModel whose codebook has `ADDED` channels more."""
    config = _architecture(part)
    network = to_vq_model(part, config, NAMING)
    wider = dataclasses.replace(config, vq_embed_dim=config.embed_dim + ADDED)
    did = (
        f"inner product made distance, by {ADDED} channels in the codebook, of which latents have "
        "zeros",
    )
    return Network("VQModel", dict(wider), _widen(network.state), did)


def _architecture(part: Part) -> VQConfig:
    model = find_model(part.config) if part.config else None
    if model is None:
        return architecture_of(part.state, NAMING, part.source)
    return read_params(_known(model), part.config_source, IGNORED)


def _known(model: Model) -> Mapping[str, Any]:
    """Return the arguments of a class; Emu3.5's takes, and drops, whatever else there is."""
    if model.target:
        return model.params
    taken = {"ddconfig", "n_embed", "embed_dim", "remap"}
    return {name: value for name, value in model.params.items() if name in taken}


def _widen(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights with the channels added to the codebook and to what is around it."""
    codebook = state["quantize.embedding.weight"]
    before, bias = state["quant_conv.weight"], state["quant_conv.bias"]
    after = state["post_quant_conv.weight"]
    return {
        **state,
        "quantize.embedding.weight": add_lengths(codebook),
        "quant_conv.weight": torch.cat([before, before.new_zeros(ADDED, *before.shape[1:])]),
        "quant_conv.bias": torch.cat([bias, bias.new_zeros(ADDED)]),
        "post_quant_conv.weight": torch.cat([after, after.new_zeros(len(after), ADDED, 1, 1)], 1),
    }


def add_lengths(codebook: Tensor) -> Tensor:
    """Return entries (K, C + 2) float32 whose squared lengths are one, within 2^-43 of it.

    Args:
        codebook: Entries (K, C), floating.
    """
    entries = codebook.float()
    squares = entries.double().square().sum(1)
    left = squares.max() - squares  # (K,), not negative
    columns = []
    for _ in range(ADDED):
        root = _round_down(left.sqrt())
        columns.append(root)
        left = (left - root.double().square()).clamp(min=0)
    return torch.cat([entries, torch.stack(columns, 1)], 1)


def _round_down(x: Tensor) -> Tensor:
    """Return the largest float32 that are not above x, float64 from 0."""
    rounded = x.float()
    below = torch.nextafter(rounded, torch.zeros_like(rounded))
    return torch.where(rounded.double() > x, below, rounded)


FAMILY = Family(
    name="ibq",
    models="IBQ of SEED-Voken, and the tokenizer of Emu3.5",
    signs=SIGNS,
    is_named=is_named,
    convert=convert,
    pixel_range="signed",
    leftovers=("loss.",),
    holders={"": "model_ema."},
    rule=Rule("ema", "the models that are trained on its codes take"),
)
