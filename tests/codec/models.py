"""Models by what their pixels were trained to be."""

from pathlib import Path

import torch

from tests.vqgan.configs import CONFIGS
from vqpipe.vqgan import VQModel

DEMO = Path(__file__).parents[2] / "infra" / "demo" / "checkpoint"
"""Trained on pixels in [-1, 1]."""


@torch.no_grad()
def make_unit():
    """The demo model for pixels in [0, 1]: the step to and from [-1, 1] is part of its weights."""
    model = VQModel.from_pretrained(DEMO)
    first, last = model.encoder.conv_in, model.decoder.conv_out
    first.bias -= first.weight.sum((1, 2, 3))
    first.weight *= 2
    last.weight /= 2
    last.bias.add_(1).div_(2)
    return model


def make_untrained():
    """A model that has learnt nothing, so that nothing shows what its pixels are to be."""
    torch.manual_seed(0)
    return VQModel(**CONFIGS["other_groups"])
