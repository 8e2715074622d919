"""The VQGAN network and its weights, interchangeable with `diffusers.VQModel`."""

from pipeline.vqgan.config import VQConfig
from pipeline.vqgan.model import DecoderOutput, VQEncoderOutput, VQModel
from pipeline.vqgan.quantizer import VectorQuantizer

__all__ = ["DecoderOutput", "VQConfig", "VQEncoderOutput", "VQModel", "VectorQuantizer"]
