"""The VQGAN network and its weights, interchangeable with `diffusers.VQModel`.

`pipeline/vqgan/README.md` says what is the same, what differs on purpose, and what is left out.
"""

from pipeline.vqgan.config import VQConfig
from pipeline.vqgan.model import DecoderOutput, VQEncoderOutput, VQModel
from pipeline.vqgan.quantizer import VectorQuantizer

__all__ = ["DecoderOutput", "VQConfig", "VQEncoderOutput", "VQModel", "VectorQuantizer"]
