"""Arrays as bytes that numpy reads, the same wherever and by whichever numpy they were written.

`.npy` and `.npz`: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html.
"""

import io
import pickle
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_TIME = (1980, 1, 1, 0, 0, 0)
"""Of members of archives, the earliest: contents alone decide what the bytes are."""


def npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """Returns what stands before the numbers of an array in a `.npy`."""
    file = io.BytesIO()
    said = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, said)
    return file.getvalue()


def to_npy(array: Array) -> bytes:
    """Returns an array as a `.npy`."""
    return npy_header(array.dtype, array.shape) + array.tobytes()


def to_npz(arrays: Mapping[str, Array]) -> bytes:
    """Returns arrays as a `.npz`."""
    return pack_zip({f"{name}.npy": to_npy(array) for name, array in arrays.items()})


def pack_zip(members: Mapping[str, bytes]) -> bytes:
    """Returns files as an archive, not compressed."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name, _TIME), data)
    return file.getvalue()


class _Pickler(pickle.Pickler):
    """Writes arrays as calls of `numpy.ndarray`, which has that name in numpy 1 and 2.

    Numpy's own pickles name `numpy._core` since 2.0, which trainers with an older one do not have.
    Arrays that are read of it cannot be written to.
    """

    def reducer_override(self, what: Any) -> Any:  # noqa: ANN401 (whatever is pickled)
        if isinstance(what, np.ndarray):
            return np.ndarray, (what.shape, what.dtype.str, what.tobytes())
        return NotImplemented


def to_pickle(what: object, protocol: int = 4) -> bytes:
    """Returns plain data and arrays as a pickle, for trainers that read nothing else."""
    file = io.BytesIO()
    _Pickler(file, protocol).dump(what)
    return file.getvalue()


def to_pth(what: object) -> bytes:
    """Returns plain data and arrays as `torch.load` reads them: an archive with a pickle in it.

    Layout: torch/csrc/jit/docs/serialization.md of https://github.com/pytorch/pytorch, and what
    `torch.save` writes. `weights_only=True` takes it once `numpy.ndarray` is declared as safe, as
    it takes no array of numpy's without such a word.
    """
    members = {"data.pkl": to_pickle(what, 2), "byteorder": b"little", "version": b"3\n"}
    return pack_zip({f"archive/{name}": data for name, data in members.items()})
