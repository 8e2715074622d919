"""Janus and Janus-Pro as transformers names their tensors (`models/janus`): LlamaGen's VQ-16.

transformers compares latents and entries as they are when it encodes, and only to decode brings
entries to length 1. The models were trained on codes of deepseek-ai/Janus, which are LlamaGen's.
"""

from vqpipe.tokenizers import llamagen
from vqpipe.tokenizers.family import Family
from vqpipe.tokenizers.naming import COMPVIS, Naming
from vqpipe.tokenizers.taming import SIGNS

NAMING = Naming(COMPVIS, is_finest_first=False)

FAMILY = Family(
    name="janus",
    models="Janus and Janus-Pro in transformers' names",
    signs=SIGNS,
    is_named=lambda config: config.get("model_type") in ("janus", "janus_vqgan"),
    convert=lambda part: llamagen.convert(part, NAMING),
    pixel_range="signed",
)
