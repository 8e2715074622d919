"""The VQGAN network and its weights, interchangeable with `diffusers.VQModel`.

README.md beside this says what is the same, what differs on purpose, and what is left out.
"""

from vqpipe.vqgan.config import VQConfig
from vqpipe.vqgan.model import DecoderOutput, VQEncoderOutput, VQModel
from vqpipe.vqgan.quantizer import VectorQuantizer

__all__ = ["DecoderOutput", "VQConfig", "VQEncoderOutput", "VQModel", "VectorQuantizer"]
