"""Losing a CUDA device for good in one process, by an access that it does not allow.

`python -m tests.codec.stray access` loses it while a codec encodes, and says what that codec and
another one of the process raise, then and afterwards.
"""

import sys

import numpy as np
import torch

from tests.codec.models import DEMO
from vqpipe.codec.codec import Codec
from vqpipe.codec.config import CodecConfig
from vqpipe.codec.weights import Weights
from vqpipe.errors import VqpipeError


class _Beyond:
    """A tensor's memory, said to be a terabyte long."""

    def __init__(self, tensor):
        shape, place = (2**40,), (tensor.data_ptr(), False)
        self.__cuda_array_interface__ = {
            "shape": shape,
            "typestr": "|u1",
            "data": place,
            "version": 3,
        }


def write_beyond_the_end():
    """Has the device write where no memory is."""
    tensor = torch.zeros(16, dtype=torch.uint8, device="cuda")
    torch.as_tensor(_Beyond(tensor), device="cuda")[-16:].fill_(1)


def pick_beyond_the_end():
    """Has the device pick an element that is not there, which its kernel notices."""
    torch.zeros(1, device="cuda")[torch.full((1,), 7, device="cuda")]


STRAYS = {"access": write_beyond_the_end, "assertion": pick_beyond_the_end}


class Stray(Codec):
    """A codec that loses its device."""

    lose = staticmethod(write_beyond_the_end)

    def _encode_batch(self, images, vectors=()):
        self.lose()
        return super()._encode_batch(images, vectors)


def main():
    Stray.lose = staticmethod(STRAYS[sys.argv[1]])
    weights, how = Weights.load(str(DEMO)), CodecConfig(eager=True)
    images = np.zeros((3, 32, 32, 3), np.uint8)
    other = Codec(weights, how, device="cuda", batch_size=2)
    other.encode(images)
    for codec in (Stray(weights, how, device="cuda", batch_size=2), other, other):
        try:
            codec.encode(images)
            print("nothing")
        except (VqpipeError, RuntimeError) as error:
            print(type(error).__name__)


if __name__ == "__main__":
    main()
