"""What is looked at twice while images are encoded: a few of them, picked by a hash of their keys.

Their codes are decoded again and held against the pixels (PSNR), and, where the run is in reduced
precision, against the codes of float32. Neither changes or rejects anything.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vqpipe import metrics, schema
from vqpipe.codec.config import AUDIT_SHARE
from vqpipe.errors import CodecError, ConfigError
from vqpipe.picks import is_picked

MOST_DB = 100.0
"""PSNR of an image that comes back without any difference; of all others it is below 99."""

Images = npt.NDArray[np.uint8]
Codes = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.float64]
Decode = Callable[[Codes], tuple[Images, Mask]]
Encode = Callable[[Images], tuple[Codes, Mask]]


@dataclass(frozen=True)
class Audit:
    """What images are looked at, and with what."""

    share: float = AUDIT_SHARE
    """Of the images, 0 to 1; unless it is 0, the first image of every shard is looked at too."""
    decode: Decode | None = None
    """Codes (N, h, w) to pixels (N, H, W, 3) and a mask (N,) of finite ones."""
    reference: Encode | None = None
    """The codec in float32; None if that is the run's own."""

    def pick(self, table: pa.Table) -> Mask:
        """Returns which rows are looked at; the same on any cluster and after any crash."""
        if not self.share:
            return np.zeros(len(table), bool)
        keys = zip(table["row"].to_pylist(), table["key"].to_pylist(), strict=True)
        return np.array([row == 0 or is_picked(key or "", self.share) for row, key in keys], bool)

    def look(self, images: Images, codes: Codes) -> tuple[Numbers, Numbers]:
        """Returns how many codes of each image are unlike float32's, and its PSNR in dB.

        Both are NaN where that is not known.

        Args:
            images: (N, H, W, 3).
            codes: (N, h, w), of the run.
        """
        unknown = np.full(len(images), np.nan)
        if not len(images):
            return unknown, unknown
        flips = _try(_count_flips, self.reference, images, codes) if self.reference else unknown
        psnr_db = _try(_compare, self.decode, images, codes) if self.decode else unknown
        return flips, psnr_db


def audited_columns(flips: Numbers, psnr_db: Numbers) -> dict[str, pa.Array]:
    """Returns what was found (N,) as columns, null where it is NaN (`schema.AUDITED`)."""
    decibels = psnr_db.astype(np.float32)
    return {
        schema.FLIPS.name: pa.array(flips, mask=np.isnan(flips)).cast(schema.FLIPS.type),
        schema.PSNR.name: pa.array(decibels, mask=np.isnan(decibels)),
    }


NO_AUDIT = Audit(share=0.0)
"""Looks at nothing."""


def _try(measure: Callable[..., Numbers], how: object, images: Images, codes: Codes) -> Numbers:
    """Returns what was measured of each image, NaN where the codec fails.

    That is no fault of the codes: they are right without anyone looking.
    """
    try:
        return measure(how, images, codes)
    except (RuntimeError, ValueError, ConfigError, CodecError):
        return np.full(len(images), np.nan)


def _count_flips(reference: Encode, images: Images, codes: Codes) -> Numbers:
    """Returns how many codes of each image differ from float32's."""
    expected, finite = reference(images)
    unlike = (codes != expected).reshape(len(codes), -1).sum(1)
    return np.where(finite, unlike, np.nan)


def _compare(decode: Decode, images: Images, codes: Codes) -> Numbers:
    """Returns the PSNR of each image in dB, NaN where its codes do not decode."""
    decoded, finite = decode(codes)
    scores = [min(MOST_DB, metrics.psnr(*pair)) for pair in zip(images, decoded, strict=True)]
    return np.where(finite, scores, np.nan)
