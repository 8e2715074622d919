"""Reads pickles that an export has written, and nothing but arrays and plain data in them."""

import pickle

import numpy as np


class _Plain(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        raise pickle.UnpicklingError(f"{module}.{name} is neither an array nor plain data")


def unpickle(file):
    return _Plain(file).load()
