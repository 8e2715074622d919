"""The families of checkpoints by name, as the command line says them; needs no torch.

This is the table of them: `tokenizers.families` finds each in the file of its name. Of those whose
names of tensors are the same, the first is the one that a config of CompVis' own is of.
"""

from typing import Literal

FamilyName = Literal[
    "taming",
    "llamagen",
    "janus",
    "ibq",
    "maskgit",
    "magvit",
    "chameleon",
    "movqgan",
    "rqvae",
    "titok",
    "var",
]
Which = Literal["ema", "raw"]
"""Weights as they were averaged over training, or as the last step left them."""
