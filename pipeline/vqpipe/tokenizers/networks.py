"""All networks that tokenizers are built of, by the name of their class in `config.json`."""

from vqpipe.tokenizers import rqvae, titok, var
from vqpipe.tokenizers.tokenizer import NetworkCheckpoint
from vqpipe.tokenizers.vq import VQCheckpoint

VQ_MODEL = "VQModel"
"""diffusers' own."""
NETWORKS: dict[str, type[NetworkCheckpoint]] = {
    VQ_MODEL: VQCheckpoint,
    rqvae.NAME: rqvae.RQVAECheckpoint,
    titok.NAME: titok.TiTokCheckpoint,
    var.NAME: var.VARCheckpoint,
}
"""A line for each."""
