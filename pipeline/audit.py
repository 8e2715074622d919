"""What is looked at twice while images are encoded: a few of them, picked by a hash of their keys.

Their codes are decoded again and held against the pixels (PSNR), and, where the run is in reduced
precision, against the codes of float32. Neither changes or rejects anything.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline import metrics, schema
from pipeline.errors import ConfigError

SHARE = 1 / 1000
"""Share of the images that is picked unless told otherwise. Float32 takes a GPU some ten times as
long as bfloat16, and decoding twice as long as encoding: together, a hundredth of its time."""

MOST_DB = 100.0
"""PSNR of an image that comes back without any difference; of all others it is below 99."""

Images = npt.NDArray[np.uint8]
Codes = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Audit:
    """What images are looked at, and with what."""

    share: float = SHARE
    """Of the images, 0 to 1; unless it is 0, the first image of every shard is looked at too."""
    decode: Callable[[Codes], tuple[Images, Mask]] | None = None
    """Codes (N, h, w) to pixels (N, H, W, 3) and a mask (N,) of finite ones."""
    reference: Callable[[Images], tuple[Codes, Mask]] | None = None
    """The codec in float32; None if that is the run's own."""

    def pick(self, table: pa.Table) -> Mask:
        """Returns which rows are looked at; the same on any cluster and after any crash."""
        if not self.share:
            return np.zeros(len(table), bool)
        limit = round(self.share * 2**64)
        keys = zip(table["row"].to_pylist(), table["key"].to_pylist(), strict=True)
        return np.array([row == 0 or _hash(key or "") < limit for row, key in keys], bool)

    def look(self, images: Images, codes: Codes, picked: Mask) -> dict[str, pa.Array]:
        """Returns the columns `flips` and `psnr_db`, null but for picked rows.

        Args:
            images: (N, R, R, 3).
            codes: (N, h, w), of the run.
            picked: (N,).
        """
        flips, psnr_db = np.zeros(len(picked), np.int32), np.full(len(picked), np.nan, np.float32)
        if picked.any() and self.reference:
            expected, _ = self.reference(images[picked])
            flips[picked] = (codes[picked] != expected).sum((1, 2))
        if picked.any() and self.decode:
            psnr_db[picked] = self._compare(images[picked], codes[picked])
        compared = picked & (self.reference is not None)
        return {
            schema.FLIPS.name: pa.array(flips, mask=~compared),
            schema.PSNR.name: pa.array(psnr_db, mask=np.isnan(psnr_db)),
        }

    def _compare(self, images: Images, codes: Codes) -> list[float]:
        """Returns the PSNR of each image, NaN where its codes do not decode.

        What goes wrong here is no fault of the codes: they are right without anyone looking.
        """
        assert self.decode is not None
        try:
            decoded, finite = self.decode(codes)
        except (RuntimeError, ValueError, ConfigError):
            return [float("nan")] * len(images)
        scores = (min(MOST_DB, metrics.psnr(*pair)) for pair in zip(images, decoded, strict=True))
        return [score if ok else float("nan") for score, ok in zip(scores, finite, strict=True)]


NO_AUDIT = Audit(share=0.0)
"""Looks at nothing."""


def _hash(key: str) -> int:
    data = key.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")
